#!/usr/bin/env bash
# Builds the Python environment in the folder $1 (default .venv) from requirements.txt; does nothing when it is current.
# Used by the Makefile and by the images, so that both install the same way. Set DUPLET_PYTHON to name the interpreter.
# DUPLET_MXNET=cu117 (or cu112) takes MXNet for NVIDIA GPUs and builds Horovod with NCCL; it needs CUDA 11's compiler and
# libraries, cuDNN 8 and NCCL 2, but no driver. CUDA_HOME and HOROVOD_NCCL_HOME say where they lie.
# Exit codes: 0 current, 1 pip failed (what it said is in $1/setup.log), 2 something that it needs is missing.
set -euo pipefail
cd -P "$(dirname "$0")/.."
venv=${1:-.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
python=${DUPLET_PYTHON:-python3.11}
gpu=${DUPLET_MXNET:-}
log=$venv/setup.log
# Only sdists exist for these; horovod also needs mxnet installed before it is built.
from_source="gluonnlp horovod jieba seqeval"

fail() { echo "setup: $1" >&2; exit "${2:-2}"; }

# The stamp: what the environment was made from, and where, as its scripts hold its path.
wanted=$({ cat requirements.txt pyproject.toml docker/setup.sh && { cat pipeline/models/kernel/*.* || true; } && echo "$venv$gpu" &&
    { [ -z "$gpu" ] || cat docker/requirements-gpu.txt; }; } 2>/dev/null | sha256sum | cut -d' ' -f1)
current() {
    [ -x "$venv/bin/python" ] && [ -x "$venv/bin/duplet" ] && [ "$(cat "$venv/.duplet-setup" 2>/dev/null)" = "$wanted" ]
}
if current; then exit 0; fi

# Everything that can be missing is looked for before anything is downloaded.
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1 ||
    fail "no Python 3.11 found as '$python': install it (Debian 12: apt-get install python3.11 python3.11-venv \
python3.11-dev) or set DUPLET_PYTHON to its path."
"$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    fail "Python 3.11 lacks venv: install it (Debian 12: apt-get install python3.11-venv)."
[ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" ] ||
    fail "the headers of Python 3.11 are missing: install them (Debian 12: apt-get install python3.11-dev)."
for tool in gcc g++ make; do
    command -v "$tool" >/dev/null || fail "no $tool found: install it (Debian: apt-get install build-essential)."
done
if [ -n "$gpu" ]; then
    grep -q "^mxnet-$gpu==" docker/requirements-gpu.txt || fail "DUPLET_MXNET=$gpu is none of cu112 and cu117: set one of them."
    cuda=${CUDA_HOME:-$(dirname "$(dirname "$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)")")}
    [ -x "$cuda/bin/nvcc" ] || fail "no compiler of CUDA found as $cuda/bin/nvcc: load your site's module of CUDA 11 or set CUDA_HOME."
    "$cuda/bin/nvcc" --version | grep -q "release 11\." || fail "$cuda is not CUDA 11, which MXNet was built for: set CUDA_HOME to one."
    echo '#include <nccl.h>' | gcc -E -I"$cuda/include" ${HOROVOD_NCCL_HOME:+-I"$HOROVOD_NCCL_HOME/include"} - >/dev/null 2>&1 ||
        fail "the headers of NCCL 2 are missing: load your site's module of NCCL or set HOROVOD_NCCL_HOME."
    loads() { "$python" -c "import ctypes; ctypes.CDLL('$1')" >/dev/null 2>&1; }
    for library in libcudart.so.11.0 libcublas.so.11 libcudnn.so.8 libcurand.so.10 libcufft.so.10 libcusolver.so.11 \
        libnvrtc.so.11.2 libnccl.so.2; do
        loads "$library" || fail "$library cannot be loaded: load your site's modules of CUDA 11, cuDNN 8 and NCCL 2, \
or put its folder into LD_LIBRARY_PATH."
    done
    loads libcuda.so.1 || [ -f "$cuda/lib64/stubs/libcuda.so" ] ||
        fail "neither a driver (libcuda.so.1) nor CUDA's stand-in for one ($cuda/lib64/stubs/libcuda.so) is here: install one."
fi

# One at a time: a second call waits here, and then finds the work done.
mkdir -p "$venv"
if command -v flock >/dev/null; then exec 9>"$venv/.duplet-lock"; flock 9; fi
if current; then exit 0; fi
# An environment that was moved (its scripts name the old place) or whose Python is gone cannot be mended: make it anew.
if [ -e "$venv/pyvenv.cfg" ] &&
    ! { grep -qF "$venv" "$venv/bin/activate" && "$venv/bin/python" -c "import pip"; } 2>/dev/null
then find "$venv" -mindepth 1 -maxdepth 1 ! -name .duplet-lock -exec rm -rf {} +; fi
if [ -e "$venv/pyvenv.cfg" ]; then echo "setup: bringing $venv up to date" >&2
else echo "setup: building $venv (about 4 minutes on two cores, once)" >&2; fi
rm -f "$venv/.duplet-setup"
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
{   # the build for GPUs takes the place of that for the CPU
    awk -v gpu="$gpu" '/^[A-Za-z0-9]/ { drop = gpu != "" && /^mxnet==/ } !drop' requirements.txt
    [ -z "$gpu" ] || awk -v name="mxnet-$gpu==" '/^[A-Za-z0-9]/ { keep = index($0, name) == 1 } keep' docker/requirements-gpu.txt
} >"$parts/all.txt"
awk -v names="$from_source" -v dir="$parts" '
    BEGIN { n = split(names, list, " "); for (i = 1; i <= n; i++) source[list[i]] = 1 }
    /^[A-Za-z0-9]/ { split($1, name, "=="); file = dir (name[1] in source ? "/source.txt" : "/wheels.txt") }
    file { print > file }' "$parts/all.txt"

# What pip says goes to the log; on failure its last lines are shown with ours below them.
: >"$log"
logged() {
    "$@" >>"$log" 2>&1 9>&- && return
    tail -n 15 "$log" >&2
    fail "$doing failed (last lines above, all in $log): mend that and run the same again, which goes on from here." 1
}
pip() { logged "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
doing="making the environment"
logged "$python" -m venv "$venv"
doing="installing packages"
echo "setup: $doing" >&2
pip install --no-deps --require-hashes --only-binary :all: -r "$parts/wheels.txt"

export CYTHON_FORCE_REGEN=1 HOROVOD_WITH_MXNET=1 HOROVOD_WITH_GLOO=1
export HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 PATH="$venv/bin:$PATH"
jobs=$(nproc)
export MAKEFLAGS="-j$jobs" CMAKE_BUILD_PARALLEL_LEVEL=$jobs
if command -v mpicc >/dev/null; then export HOROVOD_WITH_MPI=1; else export HOROVOD_WITHOUT_MPI=1; fi
if [ -n "$gpu" ]; then
    export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME="$cuda"
    if ! loads libcuda.so.1; then  # Horovod's build imports MXNet, which wants a driver's library
        mkdir "$parts/driver"
        ln -s "$cuda/lib64/stubs/libcuda.so" "$parts/driver/libcuda.so.1"
        export LD_LIBRARY_PATH="$parts/driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    fi
fi
doing="building $from_source from source"
echo "setup: $doing" >&2
pip install --no-deps --require-hashes --no-build-isolation -r "$parts/source.txt"
pip install --no-deps --no-build-isolation --editable .
# our own recurrent layers; where they cannot be built, `duplet doctor` says why
"$venv/bin/python" -P -m pipeline.models.kernel.build >>"$log" 2>&1 9>&- ||
    echo "setup: our own recurrent layers could not be built, MXNet's are used (see $log)" >&2
echo "$wanted" >"$venv/.duplet-setup"
echo "setup: done" >&2
