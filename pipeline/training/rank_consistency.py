"""Whether all workers still hold the same parameters: after each exchange they must, but for float noise."""

import zlib
from typing import Any

import numpy as np

from pipeline.core.errors import DupletError
from pipeline.distributed.world import World

# Of an array's largest magnitude: what processors that round differently may drift apart.
NOISE = 1e-5


def compare(parameters: dict[str, Any], world: World, update: int, equal_at: int) -> None:
    """Exchanges a checksum per parameter; only where those differ, the parameter itself.

    Args:
        parameters: Gluon parameters by name, the same names in the same order on all ranks.
        update, equal_at: updates done, and when all were last seen to be equal.

    Raises:
        DupletError, on all ranks: a parameter differs by more than float noise; names it, the rank and the update.
    """
    names = list(parameters)
    own = [zlib.crc32(parameters[name].data(world.context).asnumpy()) for name in names]
    sums = world.gather_numpy(np.array([own], np.uint32).view(np.int32), "checksums")  # (workers, parameters)
    for i in np.flatnonzero((sums != sums[0]).any(axis=0)):
        own_values = parameters[names[i]].data(world.context).expand_dims(0)
        values = world.gather(own_values, "compared").asnumpy().astype(np.float64)  # (workers, …)
        right = _most_common(sums[:, i])
        apart = [float(np.abs(value - values[right]).max()) for value in values]
        bound = NOISE * float(np.abs(values[right]).max())
        wrong = [rank for rank, distance in enumerate(apart) if not distance <= bound]  # nan is wrong too
        if wrong:
            raise DupletError(
                f"parameter {names[i]} of rank {wrong[0]} differs from rank {right}'s by up to {apart[wrong[0]]:.3g} "
                f"at update {update}, more than float noise, and did not at update {equal_at}: check that worker's "
                "memory and network; the same command goes on from the newest checkpoint, saved while they were equal"
            )


def _most_common(sums: np.ndarray) -> int:
    """The first rank of those that the most agree with."""
    return int(np.argmax([(sums == checksum).sum() for checksum in sums]))
