"""The tasks: those of Duplet, a module each, and those that installed packages bring (entry points `duplet.tasks`)."""

import functools
import re
from typing import Any

from pipeline.config import plugins
from pipeline.config.base import Settings
from pipeline.config.task_spec import INTERFACE, Metric, TaskSpec
from pipeline.config.tasks import (
    captioning,
    classification,
    cloze,
    language_model,
    matching,
    tagging,
    translation,
    visual_question,
)
from pipeline.core.errors import InputError

GROUP = "duplet.tasks"
# A model in MLflow carries these without an installed package, so they are found by no entry point.
OWN: tuple[TaskSpec, ...] = (
    matching.TASK,
    classification.TASK,
    language_model.TASK,
    cloze.TASK,
    translation.TASK,
    tagging.TASK,
    captioning.TASK,
    visual_question.TASK,
)
_NAME = re.compile("[a-z][a-z0-9_]*")
# Sections of a configuration, which no task may be named as.
SECTIONS = (
    "name", "root", "seed", "task", "ingest", "execution", "tokenize", "model", "train", "evaluate", "promote",
    "tracking", "nights", "teach",
)  # fmt: skip


@functools.cache
def _brought() -> plugins.Found:
    return plugins.brought(GROUP, _problem, tuple(task.name for task in OWN))


def _problem(spec: Any) -> str | None:
    """What is wrong with a task that a package brings."""
    if not isinstance(spec, TaskSpec):
        return f"is a {type(spec).__name__}, not a pipeline.config.task_spec.TaskSpec"
    if spec.interface != INTERFACE:
        return f"was made for version {spec.interface} of the interface, and this is {INTERFACE}"
    if not _NAME.fullmatch(spec.name) or spec.name in SECTIONS:
        return f"calls itself {spec.name!r}, which is not a name for a task"
    if spec.name in {task.name for task in OWN}:
        return f"calls itself {spec.name}, as a task of Duplet"
    if not spec.fields or (not callable(spec.metrics) and not spec.metrics):
        return "has no field or no metric"
    if spec.options is not None and not (isinstance(spec.options, type) and issubclass(spec.options, Settings)):
        return "has options that are not pipeline.config.Settings"
    known = _metrics(OWN)
    for metric in () if callable(spec.metrics) else spec.metrics:
        if known.get(metric.name, metric).smaller_is_better != metric.smaller_is_better:
            return f"measures {metric.name} the other way round than Duplet's own tasks"
    return None


def task_specs() -> dict[str, TaskSpec]:
    """All tasks by name, those of Duplet first."""
    return {task.name: task for task in OWN} | {name: thing.value for name, thing in _brought().things.items()}


def task_spec(name: str) -> TaskSpec:
    """A task's declaration. Raises InputError where no installed package brings such a task."""
    own = {task.name: task for task in OWN}
    specs = own if name in own else task_specs()
    if name not in specs:
        raise InputError(
            f"there is no task {name!r} (tasks: {', '.join(specs)}); install the package that brings it"
            + "".join(f"; {problem}" for problem in problems())
        )
    return specs[name]


def package_of(task: str) -> str | None:
    """The package that brings a task; None of Duplet's own."""
    thing = _brought().things.get(task)
    return thing and thing.package


def problems() -> tuple[str, ...]:
    """A sentence for each task of a package that cannot be used."""
    return _brought().problems


def _metrics(tasks: Any) -> dict[str, Metric]:
    return {metric.name: metric for task in tasks if not callable(task.metrics) for metric in task.metrics}


def metric_named(name: str) -> Metric:
    """A metric by its name alone, as tables and pages have it; one that nobody declared is in 0 to 1, larger better.

    >>> metric_named("mrr@10").smaller_is_better, metric_named("nats").scale
    (False, 'nats')
    """
    own = _metrics(OWN)
    return own.get(name) or _metrics(task_specs().values()).get(name) or Metric(name)


def smaller_is_better(name: str) -> bool:
    """Whether smaller values of a metric are better."""
    return metric_named(name).smaller_is_better
