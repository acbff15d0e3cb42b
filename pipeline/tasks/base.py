"""What a task is to the loop, the checkpoints and the workers: nothing else of it is known to them."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from mxnet import gluon, nd

from pipeline.config import Config
from pipeline.workers import World


class StepLoss(NamedTuple):
    """`objective`'s gradient, averaged over the workers, is the gradient of the global batch's loss; `value`, averaged
    likewise, is that loss. Both (1,)."""

    objective: nd.NDArray
    value: nd.NDArray


class Task(Protocol):
    """Data plus the functions that make it a trained and judged model, from a configuration and a folder of ids."""

    lengths: np.ndarray  # (N, S) int32: tokens of each side of each training example

    def network(self) -> gluon.Block:
        """The network, not initialised; its `embedding` parameter (V, E) is updated row by row."""

    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> Any:
        """This rank's part of an update, a named tuple of numpy arrays, made in the loader's thread.

        `shares` are all ranks' example numbers; `seed` is the update's own. Its fields `tokens`, (U,) int32, ids of the
        embedding rows that the update needs, ascending, `real` and `cells`, its tokens without and with padding, are of
        all workers together.
        """

    def loss(self, network: Any, table: nd.NDArray, batch: Any, world: World) -> StepLoss:
        """The loss of an update, called while recording; `table` holds the embedding rows of `batch.tokens`."""

    def validate(self, network: Any, world: World) -> dict[str, float]:
        """Metrics on the validation split, the same on every rank."""

    def evaluate(self, network: Any, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        """Rank 0 writes tables and lists on the test split into `folder` and returns metrics; others return none."""


def task_of(config: Config, tokenized: Path) -> Task:
    """The configured task over a folder of tokenized splits."""
    from pipeline.tasks.matching import Matching

    return {"matching": Matching}[config.task](config, tokenized)
