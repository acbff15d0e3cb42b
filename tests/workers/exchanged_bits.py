"""Run by test_ranks under three workers: an update's exchanges all at once, and one after the other, as bits.

Which of them are ready together is a matter of time, in a training.
"""

import sys
from pathlib import Path

import numpy as np
from mxnet import nd

from pipeline.distributed.world import World

SIZES = (1, 257, 40, 1024, 3, 300)  # of gradients


def main(folder: Path) -> None:
    world = World()
    everyones = [drawn(rank, world.size) for rank in range(world.size)]
    means = [np.mean(arrays, axis=0) for arrays in zip(*everyones)][: len(SIZES)]
    found = []
    for scale in (None, 64.0):
        for wait in (nd.waitall, *[lambda: None] * 6):
            arrays = [nd.array(array) for array in everyones[world.rank]]
            parts = world.sum_parts(arrays[-2:], "documents")
            wait()
            world.average(arrays[-3:-2], "rows.72", scale)
            wait()
            world.average(arrays[:-3], "gradient", scale)
            values = [*arrays[:-2], *parts]
            found.append(np.concatenate([array.asnumpy().reshape(-1) for array in values]))
            for got, mean in zip(arrays, means):
                np.testing.assert_allclose(got.asnumpy(), mean, atol=1e-6 if scale is None else 1e-2)
    np.save(folder / f"bits-{world.rank}.npy", np.stack(found))


def drawn(rank: int, ranks: int) -> list[np.ndarray]:
    """A rank's gradients, those of its rows, and of all ranks' documents."""
    draw = np.random.default_rng(rank).normal
    return [*(draw(size=size) for size in SIZES), draw(size=(72, 5)), *(draw(size=(ranks * 7, n)) for n in (11, 2))]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
