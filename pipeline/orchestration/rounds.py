"""Mined negatives refreshed every n epochs: a training in rounds, each by what the round before has learnt.

A round is a run of its own of the stages up to `train`: the first mines as `mine.by` says; a later one starts from the
parameters of the round before (their mean, with `train.average`), mines by that model too, and has a seed of its own.
So each round's negatives and parameters are folders with keys, and a round that is done is not done again.
"""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import Config, load_config
from pipeline.core.errors import InputError
from pipeline.orchestration import flow


class Rounds:
    """A configuration, trained `train.epochs` in rounds of some epochs."""

    def __init__(self, path: str, overrides: list[str], every: int, say: flow.Say) -> None:
        """Raises InputError where nothing is mined, a setting is wrong, or there are no two rounds."""
        self._path, self._overrides, self._say = path, overrides, say
        self._first = first = load_config(path, overrides)
        if not first.mine.by:
            raise InputError("--refresh-epochs is for mined negatives, and mine.by=[]: set mine.by=[bm25]")
        if not 1 <= every < first.train.epochs:
            raise InputError(
                f"--refresh-epochs {every} must be at least 1 and below train.epochs={first.train.epochs}, so that "
                "there are two rounds or more"
            )
        self.epochs = [min(every, first.train.epochs - start) for start in range(0, first.train.epochs, every)]

    def run(self, verify: bool = False) -> flow.Result:
        """All rounds, and the evaluation of the last one; the same command goes on with what is not done.

        Raises:
            DupletError or a subclass: a round's own sentence.
        """
        trained = None
        for number, until in enumerate([*["train"] * (len(self.epochs) - 1), "evaluate"]):
            self._say(f"round {number + 1} of {len(self.epochs)}: {self.epochs[number]} epochs")
            given = [*self._overrides, *self._settings(number, trained)]
            config, command = load_config(self._path, given), shlex.join([self._path, *given])
            result = flow.run(config, command, until, self._say, verify)
            trained = Path(result.stages["train"]["folder"])
        return result

    def _settings(self, number: int, trained: Path | None) -> Iterator[str]:
        first: Config = self._first
        yield f"train.epochs={self.epochs[number]}"
        if trained is not None:
            yield f"train.start_from={json.dumps(str(trained))}"
            yield f"mine.by={json.dumps(list(dict.fromkeys([*first.mine.by, 'model'])))}"
            yield "mine.model=null"
            yield f"seed={first.seed + number}"
            yield f"ingest.split.seed={first.split_seed}"
