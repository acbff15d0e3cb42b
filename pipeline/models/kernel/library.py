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
BFLOAT16 = "own avx512_bf16"  # the name of ours with factors of bfloat16


class Found(NamedTuple):
    """What runs recurrent layers on the CPU: our library where `path` is given, else MXNet, and `phrase` tells why."""

    path: Path | None
    instructions: str  # "avx512", "avx2"; empty for MXNet's
    phrase: str
    no_bfloat16: str  # why products cannot have factors of bfloat16; empty: they can


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
        opened = ctypes.CDLL(str(path))
        answers = []
        for ask in (opened.duplet_instruction_set, opened.duplet_no_bfloat16):
            ask.restype = ctypes.c_char_p
            answers.append((ask() or b"").decode())
    except (OSError, ValueError, AttributeError) as error:
        return without(f"its own do not load: {' '.join(str(error).split())[:200]}")
    name, no_bfloat16 = answers
    if not name:
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
        why = f"ONEDNN_MAX_CPU_ISA={limit} forbids AVX2" if limit else "the processor has no AVX2"
        return without(f"{why}, which its own need")
    numbers = f"float32; no bfloat16: {no_bfloat16}" if no_bfloat16 else "float32 and bfloat16"
    return Found(path, name, told(f"own {name}", numbers), no_bfloat16)


def without(why: str) -> Found:
    """MXNet's layers, for a reason."""
    return Found(None, "", f"MXNet's ({why})", why)


def told(name: str, numbers: str = "") -> str:
    """A name, as a checkpoint holds it, in words.

    >>> told("own avx512"), told(BFLOAT16), told("mxnet"), told("gpu")
    ("Duplet's own (AVX512, float32)", "Duplet's own (AVX512_BF16, bfloat16)", "MXNet's", "MXNet's on a GPU")
    """
    kind, _, instructions = name.partition(" ")
    if kind == "own":
        numbers = numbers or ("bfloat16" if name == BFLOAT16 else "float32")
        return f"Duplet's own ({instructions.upper().replace('+', ' and ')}, {numbers})"
    return "MXNet's on a GPU" if kind == "gpu" else "MXNet's"


def ran(folder: Path) -> str:
    """The name of what ran a trained folder's recurrent layers. Before it was kept, MXNet's did."""
    file = folder / RAN
    return file.read_text(encoding="utf-8").strip() if file.exists() else MXNET


def in_float32(name: str) -> str:
    """The name of the same layers with float32."""
    return name.removesuffix("_bf16")


def planned(kernel: str, gpus: bool, precision: str = "float32") -> str:
    """What is going to run recurrent layers on this host by model.kernel, or "formula" of a cell
    that no kernel has, train.gpus and model.precision, in words."""
    if gpus:
        return told("gpu")
    if kernel == "formula":
        return without("by the formula of model.cell").phrase
    if kernel == MXNET or found().path is None:
        return without("model.kernel=mxnet").phrase if kernel == MXNET else found().phrase
    if precision != "float32" and not found().no_bfloat16:
        return told(BFLOAT16)
    reason = f" (no bfloat16: {found().no_bfloat16})" if precision == "auto" else ""
    return told(f"own {found().instructions}") + reason


def missing(phrase: str) -> str:
    """The sentence for who asked for our own where they cannot be had."""
    return f"model.kernel=own cannot be had, the layers would be {phrase}; or set model.kernel to auto"


def missing_bfloat16(why: str) -> str:
    """The sentence for who asked for bfloat16 where it cannot be had."""
    return f"model.precision=bfloat16 cannot be had: {why}; set model.precision to auto or float32"


def _mxnet_version() -> str:
    for name in ("mxnet", "mxnet-cu117", "mxnet-cu112"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
