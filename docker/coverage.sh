#!/usr/bin/env bash
# The tests (all but those of `make test-jobs`, or those that are named) with the coverage of pipeline/ and jobs/ by line,
# in the processes that tests start as well, and the table of what is not covered. The floor is `fail_under` in
# pyproject.toml; it holds for all tests together. Exit codes: 0, 1 a test failed, 2 the floor was missed.
set -euo pipefail
cd -P "$(dirname "$0")/.."
mkdir -p .cover
rm -f .cover/data*
export COVERAGE_FILE=$PWD/.cover/data COVERAGE_SIGTERM=true
floor=() status=0
if [ $# -gt 0 ]; then floor=(--fail-under=0); fi
COVERAGE_PROCESS_START=$PWD/pyproject.toml MLFLOW_DISABLE_TELEMETRY=true \
    .venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not jobs and not null_gpu" "$@" || status=$?
.venv/bin/python -m coverage combine -q
.venv/bin/python -m coverage report "${floor[@]}" || exit 2
exit $status
