#!/usr/bin/env bash
# Checks what Duplet promises on the GPU of this machine, and writes one report, gpu_check.txt, to send back. For a T4,
# V100, A100, A10, L4 or RTX 30 or 40: MXNet 1.9.1's wheels have no code for later ones. About half an hour; --quick only
# shows that the checks run. First `make setup-gpu`, or run it in the image of docker/Dockerfile.gpu with DUPLET_PYTHON=python.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${DUPLET_PYTHON:-.venv-gpu/bin/python}
command -v "$python" >/dev/null || { echo "gpu_check: no $python: run \`make setup-gpu\`, or set DUPLET_PYTHON." >&2; exit 2; }
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} MLFLOW_DISABLE_TELEMETRY=true
exec "$python" benchmarks/gpu_check.py "$@"
