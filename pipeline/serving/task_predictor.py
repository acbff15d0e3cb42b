"""Prediction by the tasks' own networks on MXNet: the one place where a task other than matching joins in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mxnet as mx

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.ingest.rows import BadRow, as_text
from pipeline.serving.mxnet_backend import set_parameters
from pipeline.serving.predictor import columns_of
from pipeline.serving.runtime import read_parameters
from pipeline.tasks.base import task_of

# What a row of a task must have, where that is not one text.
INPUTS = {"translation": ("source",), "captioning": ("image",)}


class TaskPredictor:
    """A task opened on its model's folder alone, with that folder's parameters: `Task.predict` on MXNet.

    A row's columns are named as in the training's source, or as the task's fields.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self._task = task_of(config, folder)
        self._columns = columns_of(config, INPUTS.get(config.task, ("text",)))
        self.fields = tuple(self._columns.values())
        self._network = self._task.network()
        set_parameters(self._network, read_parameters(folder))

    def check(self, row: Mapping[str, Any]) -> None:
        self._named(row)

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        named = []
        for number, row in enumerate(rows):
            try:
                named.append(self._named(row))
            except BadRow as problem:
                raise InputError(f"row {number + 1} cannot be predicted: {problem}") from None
        return self._task.predict(self._network, named, mx.cpu())

    def _named(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with the task's own field names. Raises BadRow."""
        found = dict(row)
        for field, column in self._columns.items():
            name = column if column in row or field not in row else field
            found[field] = as_text({name: row.get(name)}, name)
        return found
