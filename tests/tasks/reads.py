"""What an update reads of the training split."""

from typing import Any

import numpy as np


def read_by(task: Any, workers: int, seed: list[int], count: int = 20) -> dict[str, list[list[int]]]:
    """The texts of an update of a matcher's first examples by side, as all workers together read them."""
    found: dict[str, list[list[int]]] = {"query": [], "document": []}
    for rank, share in enumerate(shares := np.array_split(np.arange(count), workers)):
        batch = task.batch(list(shares), rank, seed)
        for side, texts in found.items():
            columns = [column[:size] for chunk in batch.sides[side].chunks
                       for column, size in zip(chunk.ids.T, chunk.lengths)]  # fmt: skip
            texts += [batch.tokens[columns[place]].tolist() for place in batch.sides[side].back[: len(share)]]
    return found


def plain(task: Any, count: int = 20) -> dict[str, list[list[int]]]:
    """The same texts as they lie in the split."""
    split = task.train
    return {side: [ids.tolist() for ids in split.fields[side].read(split.rows[side][task.examples[:count]])]
            for side in ("query", "document")}  # fmt: skip
