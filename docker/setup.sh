#!/usr/bin/env bash
# Builds the Python environment in the folder $1 (default .venv) from requirements.txt; does nothing when it is current.
# Used by the Makefile and by the images, so that both install the same way. Set DUPLET_PYTHON to name the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${DUPLET_PYTHON:-python3.11}
# Only sdists exist for these; horovod also needs mxnet installed before it is built.
from_source="gluonnlp horovod jieba"

fail() { echo "setup: $1" >&2; exit 2; }

wanted=$(cat requirements.txt pyproject.toml docker/setup.sh | sha256sum | cut -d' ' -f1)
if [ -x "$venv/bin/duplet" ] && [ "$(cat "$venv/.duplet-setup" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null ||
    fail "no Python 3.11 found as '$python': install it (Debian 12: apt-get install python3.11 python3.11-venv python3.11-dev) or set DUPLET_PYTHON to its path."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "Python 3.11 lacks venv: install it (Debian 12: apt-get install python3.11-venv)."
[ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" ] ||
    fail "the headers of Python 3.11 are missing: install them (Debian 12: apt-get install python3.11-dev)."
for tool in gcc g++ make; do
    command -v "$tool" >/dev/null || fail "no $tool found: install it (Debian: apt-get install build-essential)."
done

if command -v flock >/dev/null; then mkdir -p "$venv"; exec 9>"$venv/.duplet-lock"; flock 9; fi
if [ "$(cat "$venv/.duplet-setup" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
parts=$(mktemp -d); trap 'rm -rf "$parts"' EXIT

echo "setup: building $venv (about 4 minutes on two cores, once)" >&2
awk -v names="$from_source" -v dir="$parts" '
    BEGIN { n = split(names, list, " "); for (i = 1; i <= n; i++) source[list[i]] = 1 }
    /^[A-Za-z0-9]/ { split($1, name, "=="); file = dir (name[1] in source ? "/source.txt" : "/wheels.txt") }
    { print > file }' requirements.txt
"$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
pip install --no-deps --require-hashes --only-binary :all: -r "$parts/wheels.txt"

export CYTHON_FORCE_REGEN=1 HOROVOD_WITH_MXNET=1 HOROVOD_WITH_GLOO=1
export HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 PATH="$PWD/$venv/bin:$PATH"
export MAKEFLAGS="-j$(nproc)" CMAKE_BUILD_PARALLEL_LEVEL=$(nproc)
if command -v mpicc >/dev/null; then export HOROVOD_WITH_MPI=1; else export HOROVOD_WITHOUT_MPI=1; fi
echo "setup: building gluonnlp and horovod from source" >&2
pip install --no-deps --require-hashes --no-build-isolation -r "$parts/source.txt"
pip install --no-deps --no-build-isolation --editable .
echo "$wanted" > "$venv/.duplet-setup"
echo "setup: done" >&2
