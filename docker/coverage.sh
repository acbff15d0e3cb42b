#!/usr/bin/env bash
# The tests (all but those of `make test-jobs`, or those that are named) with the coverage of pipeline/ and jobs/ by line,
# in the processes that tests start as well. The floor is `fail_under` in pyproject.toml; it holds for all tests together.
# coverage lives in .cover, with locked hashes. Exit codes: 0, 1 a test failed, 2 the floor was missed.
set -euo pipefail
cd -P "$(dirname "$0")/.."
lib=$PWD/.cover/lib
.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes --upgrade \
    --target "$lib" -r docker/requirements-coverage.txt
echo "import coverage; coverage.process_startup()" >"$lib/sitecustomize.py" # read by every Python that is started
rm -f .cover/data*
export COVERAGE_FILE=$PWD/.cover/data COVERAGE_PROCESS_START=$PWD/pyproject.toml PYTHONPATH=$lib MLFLOW_DISABLE_TELEMETRY=true
floor=() status=0
if [ $# -gt 0 ]; then floor=(--fail-under=0); fi
.venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not jobs" "$@" || status=$?
unset COVERAGE_PROCESS_START
.venv/bin/python -m coverage combine -q
.venv/bin/python -m coverage report "${floor[@]}" || exit 2
exit $status
