"""Prediction by the tasks' own networks on MXNet: the one place where a task other than matching joins in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mxnet as mx

from pipeline.config import Config
from pipeline.serving.model_folder import read_parameters
from pipeline.serving.predict.base import FieldPredictor
from pipeline.serving.predict.mxnet_encoder import set_parameters
from pipeline.tasks.base import task_of


class TaskPredictor(FieldPredictor):
    """A task opened on its model's folder alone, with that folder's parameters: `Task.predict` on MXNet."""

    backend = "mxnet"

    def __init__(self, config: Config, folder: Path) -> None:
        super().__init__(config, config.spec.inputs)
        self._task = task_of(config, folder)
        self._network = self._task.network()
        set_parameters(self._network, read_parameters(folder), config.model.kernel)

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return self._task.predict(self._network, self.named(rows), mx.cpu())
