"""Which of MXNet's and our own recurrent layers run: decided once per process, on all workers alike, and said.

Both compute the same but for float noise (tests/models/test_kernel.py), so the choice is no part of a stage's key. A
training keeps what it began with, as only then its bits repeat.
"""

import numpy as np

from pipeline.core.errors import InputError
from pipeline.core.progress import Say
from pipeline.distributed.world import World
from pipeline.models.kernel import library, operator

CODES = ("", "avx2", "avx512")  # what a worker has, as the others read it


def agree(setting: str, before: str, world: World, say: Say) -> tuple[str, str]:
    """Decides what runs recurrent layers from here on. Every rank must call it.

    Args:
        setting: model.kernel, or "formula" of a cell that no kernel has.
        before: the name of what ran them in that from which this goes on; empty: nothing did.

    Returns:
        Its name ("mxnet", "own avx512", "gpu"), and in words what it is and why.

    Raises:
        InputError: own is asked for, and a worker cannot have it.
    """
    name, phrase = _decide(setting, before, world)
    if before and before != name:
        say(
            f"warning: recurrent layers were {library.told(before)} before, and are {phrase} from here on: results are "
            "the same but for float noise, and not bit for bit"
        )
    return name, phrase


def _decide(setting: str, before: str, world: World) -> tuple[str, str]:
    if world.context.device_type != "cpu":
        return "gpu", library.told("gpu")
    own_code = CODES.index(operator.instructions())
    codes = world.gather_numpy(np.array([own_code], np.int32), "recurrent layers").tolist()
    had = "+".join(CODES[code] for code in sorted({*codes}))
    if not own_code:
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
    return (library.MXNET, why) if why else (f"own {had}", library.told(f"own {had}"))
