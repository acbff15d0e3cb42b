"""What a sweep varies: settings with several values, or within a range."""

import json
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.config import safe_yaml, values
from pipeline.config.schema import config_model
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    import optuna

RANGE = re.compile(r"(?P<low>[-+.\deE]+)\.\.(?P<high>[-+.\deE]+?)(?P<log>:log)?")


class Axis(NamedTuple):
    """A setting that is varied: over some values, or within a range."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def suggest(self, trial: "optuna.Trial") -> Any:
        """The trial's value."""
        if self.values:
            return json.loads(trial.suggest_categorical(self.key, [json.dumps(value) for value in self.values]))
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)


def axes_of(overrides: list[str]) -> tuple[list[Axis], list[str]]:
    """Splits overrides into axes, `key=1,2,3` or `key=0.1..0.5` or `key=1e-4..1e-2:log`, and single values.

    A comma within brackets belongs to a list that is one value.

    Raises:
        InputError: a range without room, or a logarithmic one that reaches 0.

    >>> axes, fixed = axes_of(["model.layers=1,2", "train.epochs=3", "model.dropout=0..0.5"])
    >>> [axis.key for axis in axes], fixed, axes[0].values
    (['model.layers', 'model.dropout'], ['train.epochs=3'], (1, 2))
    """
    axes: list[Axis] = []
    fixed: list[str] = []
    for override in overrides:
        key, _, text = override.partition("=")
        match = RANGE.fullmatch(text)
        if match:
            low, high = (_number(match[name], override) for name in ("low", "high"))
            whole = isinstance(low, int) and isinstance(high, int)
            if not low < high or (match["log"] and low <= 0):
                raise InputError(f"{override} is not a range: give low..high, above 0 with :log")
            axes.append(Axis(key, (), float(low), float(high), bool(match["log"]), whole))
        elif len(parts := re.split(r",(?![^\[\{]*[\]\}])", text)) > 1:
            axes.append(
                Axis(key, tuple(values.typed(values.Given(part), values.at(key, (config_model(),))) for part in parts))
            )
        else:
            fixed.append(override)
    return axes, fixed


def _number(text: str, override: str) -> int | float:
    whole = safe_yaml.as_integer(text)
    if whole is not None:
        return whole
    number = safe_yaml.as_float(text)
    if number is None or not math.isfinite(number):
        raise InputError(f"{override}: {text!r} is not a finite number")
    return number
