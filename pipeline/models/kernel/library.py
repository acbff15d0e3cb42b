"""The library of our own recurrent layers: where it lies, whether it can be used here, and why not. Imports no MXNet.

Set-up builds it (`build.py`) from the C++ beside this file, into the environment's site-packages. Its name holds a hash
of the sources and of MXNet's version, so that a library that was made from others is never loaded. The file beside it
holds its checksum: what was cut short would end the process when it is loaded, by a signal.
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
BUILD = "`python -m pipeline.models.kernel.build`"
RAN = "recurrent_layers.txt"  # in a trained folder: the name of what ran
MXNET = "mxnet"  # the name of MXNet's layers, on the CPU; ours are called "own" and their instructions: "own avx512"


class Found(NamedTuple):
    """What runs recurrent layers on the CPU: our library where `path` is given, else MXNet, and `phrase` tells why."""

    path: Path | None
    instructions: str  # "avx512", "avx2"; empty for MXNet's
    phrase: str


def location() -> Path:
    """Where the library of these sources is, or would be, in this environment."""
    digest = hashlib.sha256(_mxnet_version().encode())
    for name in (*SOURCES, "build.py"):
        digest.update((HERE / name).read_bytes())
    return Path(sysconfig.get_path("platlib")) / f"duplet_recurrent_{digest.hexdigest()[:16]}.so"


def checksum() -> Path:
    """The file with the library's SHA-256."""
    return location().with_suffix(".sha256")


def complaint() -> Path:
    """Where a build that failed leaves its reason, one line."""
    return location().with_suffix(".failed")


def sha256(path: Path) -> str:
    """The hex digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def whole() -> bool:
    """Whether the library is there as it was built. Raises OSError where that cannot be read."""
    path, checksum_path = location(), checksum()
    return path.exists() and checksum_path.exists() and checksum_path.read_text().strip() == sha256(path)


@functools.cache
def found() -> Found:
    """Looked up once per process; never raises."""
    try:
        path = location()
        if not path.exists():
            reason = complaint()
            return without(reason.read_text().strip() if reason.exists() else f"its own are not built: run {BUILD}")
        if not whole():
            return without(f"{path} is damaged: run {BUILD}")
        ask = ctypes.CDLL(str(path)).duplet_instruction_set
    except (OSError, ValueError, AttributeError) as error:
        return without(f"its own do not load: {' '.join(str(error).split())[:200]}")
    ask.restype = ctypes.c_char_p
    name = ask()
    if not name:
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
        why = f"ONEDNN_MAX_CPU_ISA={limit} forbids AVX2" if limit else "the processor has no AVX2"
        return without(f"{why}, which its own need")
    return Found(path, name.decode(), told(f"own {name.decode()}"))


def without(why: str) -> Found:
    """MXNet's layers, for a reason."""
    return Found(None, "", f"MXNet's ({why})")


def told(name: str) -> str:
    """A name, as a checkpoint holds it, in words.

    >>> told("own avx512"), told("mxnet"), told("gpu")
    ("Duplet's own (AVX512, float32)", "MXNet's", "MXNet's on a GPU")
    """
    kind, _, instructions = name.partition(" ")
    if kind == "own":
        return f"Duplet's own ({instructions.upper().replace('+', ' and ')}, float32)"
    return "MXNet's on a GPU" if kind == "gpu" else "MXNet's"


def ran(folder: Path) -> str:
    """The name of what ran a trained folder's recurrent layers. Before it was kept, MXNet's did."""
    file = folder / RAN
    return file.read_text(encoding="utf-8").strip() if file.exists() else MXNET


def planned(kernel: str, gpus: bool) -> str:
    """What is going to run recurrent layers on this host by model.kernel, or "formula" of a cell
    that no kernel has, and train.gpus, in words."""
    if gpus:
        return told("gpu")
    if kernel == "formula":
        return without("by the formula of model.cell").phrase
    return without("model.kernel=mxnet").phrase if kernel == MXNET else found().phrase


def missing(phrase: str) -> str:
    """The sentence for who asked for our own where they cannot be had."""
    return f"model.kernel=own cannot be had, the layers would be {phrase}; or set model.kernel to auto"


def _mxnet_version() -> str:
    for name in ("mxnet", "mxnet-cu117", "mxnet-cu112"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
