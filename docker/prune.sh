#!/usr/bin/env bash
# Makes an environment that setup.sh built in the folder $1 fit for an image: Duplet itself installed rather than linked,
# without what only developing needs, without tests and byte code.
set -euo pipefail
venv=$1
"$venv/bin/pip" --disable-pip-version-check install --quiet --no-deps --no-build-isolation --force-reinstall .
"$venv/bin/pip" --disable-pip-version-check uninstall --quiet --yes cmake coverage cython hypothesis import-linter \
    kubernetes-validate mypy pytest pytest-cov pytest-timeout ruff types-PyYAML uv
find "$venv" -name __pycache__ -type d -prune -exec rm -rf {} +
find "$venv" -path '*/site-packages/*' \( -name tests -o -name test \) -type d -prune \
    -not -path '*/numpy/*' -not -path '*/mxnet/*' -exec rm -rf {} +
rm -f "$venv/setup.log" "$venv/.duplet-lock" "$venv/.duplet-setup"
