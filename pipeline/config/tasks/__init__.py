"""The tasks: those of Duplet, a module each, and those that installed packages bring (entry points `duplet.tasks`)."""

from typing import Any

from pipeline.config.plugins import Table
from pipeline.config.task_spec import Metric, TaskSpec
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
# Sections and other names of a configuration, which no task may be named as.
SECTIONS = (
    "name", "root", "seed", "task", "ingest", "execution", "tokenize", "model", "train", "evaluate", "promote",
    "tracking", "nights", "teach", "mine", "rerank", "pretrain",
    "data_packages", "local_root", "metrics", "model_packages", "needed", "options", "packages", "settings", "shown",
    "joins_overlap", "spec", "split_seed", "training_files",
)  # fmt: skip


def _problem(spec: TaskSpec) -> str | None:
    """What is wrong with a task that a package brings."""
    if not spec.fields or (not callable(spec.metrics) and not spec.metrics):
        return "has no field or no metric"
    known = _metrics(OWN)
    for metric in () if callable(spec.metrics) else spec.metrics:
        if known.get(metric.name, metric).smaller_is_better != metric.smaller_is_better:
            return f"measures {metric.name} the other way round than Duplet's own tasks"
    return None


TASKS = Table("task", TaskSpec, {task.name: task for task in OWN}, _problem, SECTIONS)


def task_specs() -> dict[str, TaskSpec]:
    """All tasks by name, those of Duplet first."""
    return TASKS.all


def task_spec(name: str) -> TaskSpec:
    """A task's declaration. Raises InputError where no installed package brings such a task."""
    spec: TaskSpec = TASKS.named(name)
    return spec


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
