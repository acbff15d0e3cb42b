"""The library of our own recurrent layers: where it lies, whether it can be used here, and why not. Imports no MXNet.

Set-up builds it (`build.py`) from the C++ beside this file, into the environment's site-packages. Its name holds a hash
of the sources and of MXNet's version, so that a library that was made from others is never loaded.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import sysconfig
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SOURCES = ("recurrent.h", "recurrent_products.h", "recurrent_shape.h", "recurrent_isa.cc", "recurrent_op.cc")
# "ours" asks for this library. Not the default yet: only single updates have been measured and compared.
SWITCH = "DUPLET_KERNEL"
NOT_ASKED = f"ours are not asked for by {SWITCH}=ours"


class Found(NamedTuple):
    """What runs recurrent layers on the CPU: our library where `path` is given, else MXNet, and `said` tells why."""

    path: Path | None
    instructions: str  # "avx512", "avx2"; empty for MXNet's
    said: str


def location() -> Path:
    """Where the library of these sources is, or would be, in this environment."""
    digest = hashlib.sha256(_mxnet_version().encode())
    for name in (*SOURCES, "build.py"):
        digest.update((HERE / name).read_bytes())
    return Path(sysconfig.get_path("platlib")) / f"duplet_recurrent_{digest.hexdigest()[:16]}.so"


def complaint() -> Path:
    """Where a build that failed leaves its reason, one line."""
    return location().with_suffix(".failed")


@functools.cache
def found() -> Found:
    """Looked up once per process; never raises."""
    switch = os.environ.get(SWITCH, "")
    if switch not in ("", "ours", "mxnet"):
        return _without(f"{SWITCH}={switch} is not known, only ours and mxnet are")
    if switch != "ours":
        return _without(NOT_ASKED)
    try:
        path = location()
        if not path.exists():
            reason = complaint()
            return _without(reason.read_text().strip() if reason.exists() else "ours is not built: run `make setup`")
        ask = ctypes.CDLL(str(path)).duplet_instruction_set
    except (OSError, AttributeError) as error:
        return _without(f"ours does not load: {' '.join(str(error).split())[:200]}")
    ask.restype = ctypes.c_char_p
    name = ask()
    if not name:
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
        why = f"ONEDNN_MAX_CPU_ISA={limit} forbids AVX2" if limit else "the processor has no AVX2"
        return _without(f"{why}, which ours needs")
    return Found(path, name.decode(), f"ours, {name.decode().upper()}, float32")


def _without(why: str) -> Found:
    return Found(None, "", f"MXNet's ({why})")


def _mxnet_version() -> str:
    for name in ("mxnet", "mxnet-cu117", "mxnet-cu112"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
