"""What a task declares of itself. See docs/tasks.md, "Adding a task".

A declaration loads nothing heavy: code that imports MXNet or ONNX is named as "module:name" and imported when it is
called (`plugins.part`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.base import Settings
from pipeline.config.memory import Sizes
from pipeline.config.plugins import INTERFACE
from pipeline.core.record_schema import Field


@dataclass(frozen=True)
class Metric:
    """What validation measures; `scale` heads its axis, and metrics of one scale share one.

    `per_token`: a mean over tokens of the vocabulary, which with another vocabulary is a mean over other things.
    """

    name: str
    smaller_is_better: bool = False
    scale: str = "0 to 1"
    per_token: bool = False


@dataclass(frozen=True)
class OnnxSpec:
    """How a task's models are written as ONNX, run and judged without MXNet. Callables are "module:name".

    Attributes:
        graphs: (config, arrays by name) -> {file name: onnx.ModelProto}, what predicting runs.
        judge: (config, model folder, folder of the graphs, tokenized folder, split) -> validation's metrics.
        card: rows of the model card's table, "| `file` | what it takes and gives |".
        open: (config, model folder, folder of the graphs, threads) -> Predictor; None: predicts on MXNet alone.
        example: rows of texts in the order of the task's inputs, for the MLflow model; needed with `open`. Or
            (Predictor) -> rows, where no fixed text will do.
        needs: packages that predicting needs beside the common ones.
        exported: as `graphs`, further files that an export alone has.
    """

    graphs: str
    judge: str
    card: tuple[str, ...]
    open: str | None = None
    example: tuple[tuple[str, ...], ...] | str = ()
    needs: tuple[str, ...] = ()
    exported: str | None = None


@dataclass(frozen=True)
class TaskSpec:
    """A task. Callables given as text are "module:name".

    Attributes:
        name: in `task:`, and of its section of options; a Python name.
        fields: of a record, in order, and how each becomes ids.
        task: the subclass of `pipeline.tasks.base.Task`.
        metrics: the one that is used unless train.metric names another first; or a function of the configuration.
        same_by: (config) -> the fields by which two records count as the same; None: the first of `fields`.
        record: what one record is called, for sentences: "text", "pair".
        options: the model of its section, whose defaults must all be given.
        inputs: the fields that a row to predict must have.
        rows: parameter -> for each of its first axes the field whose vocabulary's tokens stand along it, so that
            train.start_from finds them by token. `names` fields have no place for <pad> and <unk>. Places after the
            last token's, as of a border, are of no token. `embedding` has the texts' tokens without being named.
        columns: field -> names that a person's column for it is likely to have, whatever their case; with them
            `duplet init` writes configurations of the task.
        defaults: of the section `model`, where they differ from those of other tasks.
        tied: fields that must have the same limit of tokens, as words and their tags.
        steps: tokens of an update's piece of a field that is not cut; None where all fields are cut.
        sizes: (config, tokens in the vocabulary) -> what an update holds in memory, as `pipeline.config.memory` counts
            it; None: the texts of all fields, encoded.
        check: raises ValueError where settings contradict each other.
        check_record: raises ValueError(kind, sentence) where a record's texts, in the order of `fields`, do not fit.
        check_split: (config, ingested folder, split) -> findings, as `pipeline.orchestration.split_checks` has them.
        check_tokens: (split, tokens, unknown tokens) -> what is wrong with them, or None.
        sources: the formats that alone have such records; empty: any that says so, or that has columns.
        files: setting -> path of files that training reads beside the stages' folders.
        pooled: whether the settings of pooling shape its models, for the model card.
        relevance: whether a record is a query and a document with a relevance, so that sources may give negatives,
            lists of documents and a collection.
        teachable: whether it learns from a teacher too.
        sure: whether its answers are right with a probability, so that train.sure_precision may call some sure.
        resegments: whether training reads its texts by `Task.read`, which train.bpe_dropout cuts into other pieces.
        heads: whether the settings head, towers and train.loss shape its models.
        goes_on: whether it goes on from a prompt, by its class's `prompt`, `go_on` and `likeliest`.
        mxnet: (config, model folder) -> Predictor on MXNet.
        report: (evaluation folder) -> (title, table of texts with its heads) or None, a section of the run's page.
        interface: what the declaration was written for.
    """

    name: str
    fields: Mapping[str, Field]
    task: str
    metrics: tuple[Metric, ...] | Callable[[Any], tuple[Metric, ...]]
    record: str = "text"
    same_by: Callable[[Any], tuple[str, ...]] | None = None
    options: type[Settings] | None = None
    inputs: tuple[str, ...] = ("text",)
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    tied: tuple[str, ...] = ()
    steps: Callable[[Any], int] | None = None
    sizes: Callable[[Any, int], Sizes] | None = None
    check: Callable[[Any], None] | None = None
    check_record: Callable[[tuple[str, ...]], None] | None = None
    check_split: str | None = None
    check_tokens: Callable[[str, int, int], str | None] | None = None
    sources: tuple[str, ...] = ()
    files: Callable[[Any], dict[str, str | None]] | None = None
    pooled: bool = False
    relevance: bool = False
    teachable: bool = False
    sure: bool = False
    resegments: bool = False
    heads: bool = False
    goes_on: bool = False
    onnx: OnnxSpec | None = None
    mxnet: str = "pipeline.serving.predict.mxnet_tasks:TaskPredictor"
    report: str | None = None
    interface: int = INTERFACE

    @property
    def opens_onnx(self) -> str | None:
        """What opens its models on ONNX Runtime; None where they predict on MXNet alone."""
        return self.onnx.open if self.onnx else None

    def metrics_of(self, config: Any) -> tuple[Metric, ...]:
        """What validation measures with a configuration."""
        return self.metrics(config) if callable(self.metrics) else self.metrics
