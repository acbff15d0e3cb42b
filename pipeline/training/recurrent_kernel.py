"""Which of MXNet's and our own recurrent layers run: decided once per process, on all workers alike, and said.

Both compute the same but for float noise (tests/models/test_kernel.py), so the choice is no part of a stage's key. A
training keeps what it began with, as only then its bits repeat.

model.precision is another matter: products with factors of bfloat16 give other results, within a share of a hundredth.
"""

import numpy as np

from pipeline.core.errors import InputError
from pipeline.core.progress import Say
from pipeline.distributed.world import World
from pipeline.models.kernel import library, operator

CODES = ("", "avx2", "avx512", "avx512_bf16")  # what a worker has, as the others read it


def agree(setting: str, precision: str, before: str, world: World, say: Say) -> tuple[str, str]:
    """Decides what runs recurrent layers from here on. Every rank must call it.

    Args:
        setting: model.kernel, or "formula" of a cell that no kernel has.
        precision: model.precision.
        before: the name of what ran them in that from which this goes on; empty: nothing did.

    Returns:
        Its name ("mxnet", "own avx512", "own avx512_bf16", "gpu"), and in words what it is and why.

    Raises:
        InputError: own or bfloat16 is asked for, and a worker cannot have it.
    """
    name, phrase = _decide(setting, precision, before, world)
    if before and before != name:
        alike = "are the same but for float noise, and not bit for bit"
        if library.BFLOAT16 in (before, name):
            alike = "differ by the rounding of bfloat16"
        say(
            f"warning: recurrent layers were {library.told(before)} before, and are {phrase} from here on: results "
            f"{alike}"
        )
    return name, phrase


def _decide(setting: str, precision: str, before: str, world: World) -> tuple[str, str]:
    if world.context.device_type != "cpu":
        return "gpu", library.told("gpu")
    best = "avx512_bf16" if not operator.no_bfloat16() else operator.instructions()
    codes = world.gather_numpy(np.array([CODES.index(best)], np.int32), "recurrent layers").tolist()
    no_bfloat16 = _no_bfloat16(setting, precision, before, [CODES[code] for code in codes])
    if precision != "float32" and not no_bfloat16:
        operator.use("own", bfloat16=True)
        return library.BFLOAT16, library.told(library.BFLOAT16)
    if precision == "bfloat16":
        raise InputError(library.missing_bfloat16(no_bfloat16))
    had = "+".join(sorted({CODES[code].removesuffix("_bf16") for code in codes}))
    if not operator.instructions():
        why = operator.told()
    elif 0 in codes:
        why = library.without(f"worker {codes.index(0)} cannot have others: `duplet doctor` there says why").phrase
    else:
        why = ""
    if setting == "own" and why:
        raise InputError(library.missing(why))
    if setting == "auto" and before == library.MXNET:
        why = why or library.without("what this goes on from had them").phrase
    if setting in (library.MXNET, "formula"):
        why = library.planned(setting, False)
    operator.use(library.MXNET if why else "own")
    if why:
        return library.MXNET, why
    reason = f" (no bfloat16: {no_bfloat16})" if precision == "auto" else ""
    return f"own {had}", library.told(f"own {had}") + reason


def _no_bfloat16(setting: str, precision: str, before: str, workers: list[str]) -> str:
    """Why factors of products are not bfloat16, where they were asked for; empty: they are."""
    if reason := operator.no_bfloat16():
        return reason
    if lacking := [rank for rank, best in enumerate(workers) if best != "avx512_bf16"]:
        return f"worker {lacking[0]} cannot have it: `duplet doctor` there says why"
    if setting in (library.MXNET, "formula"):
        return library.planned(setting, False)
    if precision == "auto" and before not in ("", library.BFLOAT16):
        return "what this goes on from had none"
    return ""
