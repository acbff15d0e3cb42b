"""The whole configuration: its sections together, the settings that rest on others, and what must agree."""

import functools
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import pydantic
from pydantic import ConfigDict, Field, model_validator

from pipeline.config.base import Name, Root, Settings
from pipeline.config.cells import CELLS
from pipeline.config.heads import HEADS
from pipeline.config.losses import LOSSES, LossConfig
from pipeline.config.mining import MineConfig
from pipeline.config.nights import NightsConfig
from pipeline.config.plugins import Table
from pipeline.config.poolings import POOLINGS
from pipeline.config.pretraining import PretrainConfig
from pipeline.config.reranking import RerankConfig
from pipeline.config.sections import (
    EvaluateConfig,
    ExecutionConfig,
    IngestConfig,
    ModelConfig,
    PromoteConfig,
    TokenizeConfig,
    TrainConfig,
)
from pipeline.config.source_spec import SOURCES, formats, source_specs
from pipeline.config.sources import Column, Columns, SplitName
from pipeline.config.task_spec import TaskSpec
from pipeline.config.tasks import TASKS, task_spec, task_specs
from pipeline.config.teaching import TeachConfig
from pipeline.config.tracking import TrackingConfig
from pipeline.core import naming
from pipeline.core.errors import guess
from pipeline.core.redaction import MASK, hide_all

Options = TypeVar("Options", bound=Settings)
TABLES: tuple[Table[Any], ...] = (TASKS, SOURCES, CELLS, HEADS, POOLINGS, LOSSES)
SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")


def _limits(task: TaskSpec, limits: dict[str, int | None]) -> dict[str, int | None]:
    """The most tokens of each field of a task; None: any number, which only those fields have whose default it is."""
    own = {field: form.max_tokens for field, form in task.fields.items()}
    for field, limit in limits.items():
        if field not in own:
            raise ValueError(
                f"tokenize.max_tokens names {field!r}, which is not a field of {task.name} (fields: {', '.join(own)})"
            )
        if limit is None and own[field] is not None:
            raise ValueError(
                f"tokenize.max_tokens.{field} must be a number: {task.name} cuts this field, to {own[field]}"
            )
    tied = {limits[field] for field in task.tied if field in limits}
    if len(tied) > 1:
        names = " and ".join(task.tied)
        raise ValueError(f"tokenize.max_tokens must be the same for {names}: they belong together, word by word")
    return own | {field: limit for limit in tied for field in task.tied} | limits


class Config(Settings):
    """All settings of a run. Only ingest.source must be given.

    This class has what every task has; `config_model` adds the tasks' names and sections of options.
    """

    model_config = ConfigDict(defer_build=True)  # it is `config_model`'s that is read

    name: Name = Field(
        description="Name of the runs, the experiment and the registered model. Default: the file's name.",
        examples=["answers"],
    )
    root: Root = Field(
        default="runs",
        min_length=1,
        description="Folder of the stages' folders, the MLflow database and its artifacts; or an address of an object "
        "store for the stages' folders, whose copy here (and the rest) lies below DUPLET_CACHE (~/.cache/duplet).",
        examples=["~/runs", "s3://bucket/runs"],
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=1, description="Seed of all random numbers. Equal seeds give equal splits and equal trainings."
    )
    task: str = Field(default="matching", description="What the model learns; see docs/tasks.md.")
    ingest: IngestConfig
    execution: ExecutionConfig = ExecutionConfig()
    tokenize: TokenizeConfig = TokenizeConfig()
    model: ModelConfig = ModelConfig()
    teach: TeachConfig = TeachConfig()
    mine: MineConfig = MineConfig()
    pretrain: PretrainConfig = PretrainConfig()
    rerank: RerankConfig = RerankConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    promote: PromoteConfig = PromoteConfig()
    tracking: TrackingConfig = TrackingConfig()
    nights: NightsConfig = NightsConfig()

    @property
    def spec(self) -> TaskSpec:
        """What the task declares of itself."""
        return task_spec(self.task)

    def options(self, kind: type[Options]) -> Options:
        """The section of the task's own settings, which is of this kind."""
        section = getattr(self, self.task)
        assert isinstance(section, kind), f"{self.task} has no {kind.__name__}"
        return section

    @property
    def local_root(self) -> Path:
        """The folder on this machine that stages work in: the root, or the copy of one at an address."""
        return naming.copy_of(self.root) if "://" in self.root else Path(self.root)

    @property
    def split_seed(self) -> int:
        """Start of the random numbers that cut the splits."""
        return self.seed if self.ingest.split.seed is None else self.ingest.split.seed

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, without the sections of what other packages bring and this configuration does not use."""
        settings = self.model_dump(mode="json")
        model, loss = settings["model"], settings["train"]["loss"]
        for section, table, used in ((settings, TASKS, self.task), (model, HEADS, model["head"]),
                                     (loss, LOSSES, loss["kind"])):  # fmt: skip
            for name in table.brought.keys() - {used}:
                section.pop(name, None)
        return settings

    @property
    def shown(self) -> dict[str, Any]:
        """All settings as they may be kept and shown: without what passwords and tokens their addresses hold."""
        shown: dict[str, Any] = hide_all(self.settings)
        for name in ("slack", "webhook", "ping"):  # whoever has such an address may use it
            if address := shown["nights"]["messages"][name]:
                shown["nights"]["messages"][name] = f"{'/'.join(address.split('/')[:3])}/{MASK}"
        return shown

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions of other packages that bring the task, the source, and parts of the model."""
        return tuple(dict.fromkeys((*self.data_packages, *self.model_packages.values())))

    @property
    def needed(self) -> dict[str, str]:
        """For manifests: the distributions that whoever reads the folder needs; empty where Duplet is enough."""
        return {"package": ", ".join(self.packages)} if self.packages else {}

    @property
    def data_packages(self) -> tuple[str, ...]:
        """Those of the task and the source, which shape the records."""
        packages = (TASKS.package_of(self.task), SOURCES.package_of(self.ingest.source.format))
        return tuple(dict.fromkeys(name for name in packages if name))

    @property
    def model_packages(self) -> dict[str, str]:
        """What of a model another package brings, such as "head cross" -> that package."""
        named: list[tuple[Table[Any], str]] = [(TASKS, self.task), (CELLS, self.model.cell)]
        if self.spec.heads:
            named += [(HEADS, self.model.head), (LOSSES, self.train.loss.kind)]
        if self.spec.pooled:
            named.append((POOLINGS, self.model.pooling))
        packages = {f"{table.noun} {name}": table.package_of(name) for table, name in named}
        return {what: package for what, package in packages.items() if package}

    @property
    def training_files(self) -> dict[str, str]:
        """Files that training reads beside the stages' folders: setting -> path."""
        start = self.train.start_from
        named = {
            "model.vectors": self.model.vectors,
            "train.start_from": str(Path(start) / "parameters.npz") if start else None,
        }
        named |= self.spec.files(self) if self.spec.files else {}
        return {setting: path for setting, path in named.items() if path}

    @property
    def metrics(self) -> tuple[str, ...]:
        """What validation measures."""
        return tuple(metric.name for metric in self.spec.metrics_of(self))

    @property
    def joins_overlap(self) -> bool:
        """Whether what two texts have in common joins the network: where grades of pairs are all that is measured."""
        graded = bool(self.spec.heads) and self.train.loss.graded and self.evaluate.kinds == ("graded",)
        return graded and self.train.join_overlap

    @model_validator(mode="after")
    def _fill(self) -> "Config":
        """Gives settings whose default rests on others their value; before `_agree`, which checks it."""
        metric = self.train.metric or self.metrics[0]
        model = self.spec.defaults
        for section, filled in (
            ("model", {name: value for name, value in model.items() if name not in self.model.model_fields_set}),
            ("tokenize", {"max_tokens": _limits(self.spec, self.tokenize.max_tokens)}),
            ("train", {"metric": metric}),
            ("promote", {"name": self.promote.name or self.name, "metric": self.promote.metric or metric}),
            ("tracking", {"experiment": self.tracking.experiment or self.name}),
        ):
            self.__dict__[section] = getattr(self, section).model_copy(update=filled)  # the model itself is frozen
        return self

    @model_validator(mode="after")
    def _suit_the_task(self) -> "Config":
        if self.teach.scores is not None and not self.spec.teachable:
            able = " or ".join(name for name, spec in task_specs().items() if spec.teachable)
            raise ValueError(f"teach.scores is for task {able}, not {self.task}")
        if self.teach.embeds and not (self.spec.teachable and self.spec.relevance):
            raise ValueError(
                f"teach.{'vectors' if self.teach.vectors else 'onnx'} is for task matching, not {self.task}"
            )
        if self.teach.vectors and self.teach.onnx:
            raise ValueError("teach.vectors and teach.onnx are two teachers of vectors: keep one of them")
        if self.train.sure_precision is not None and not self.spec.sure:
            raise ValueError(
                f"train.sure_precision={self.train.sure_precision} is for tasks whose answers are right with "
                f"some probability ({', '.join(name for name, spec in task_specs().items() if spec.sure)}), not for "
                f"{self.task}: leave it out"
            )
        if self.train.bpe_dropout and not self.spec.resegments:
            able = ", ".join(name for name, spec in task_specs().items() if spec.resegments)
            raise ValueError(f"train.bpe_dropout={self.train.bpe_dropout} is for tasks {able}, not {self.task}")
        if self.train.swap_share and not self.spec.relevance:
            raise ValueError(f"train.swap_share={self.train.swap_share} is for task matching, not {self.task}")
        pieces = self.tokenize.kind, self.tokenize.sentencepiece_model
        if self.train.bpe_dropout and pieces != ("sentencepiece", "bpe"):
            raise ValueError(
                f"train.bpe_dropout={self.train.bpe_dropout} leaves out merges, which only a SentencePiece model of "
                "BPE has: set tokenize.kind=sentencepiece and tokenize.sentencepiece_model=bpe"
            )
        for setting, given in (
            ("mine.by", self.mine.by), ("rerank.model", self.rerank.model), ("pretrain.pairs", self.pretrain.pairs),
            ("tokenize.max_passages", self.tokenize.max_passages > 1),
        ):  # fmt: skip
            if given and not self.spec.heads:
                raise ValueError(f"{setting} is for task matching, not {self.task}")
        return self

    @model_validator(mode="after")
    def _agree(self) -> "Config":
        if self.train.gpus and self.model.kernel == "own":
            raise ValueError("model.kernel=own is for CPUs, and train.gpus=true: set model.kernel to auto")
        if self.model.kernel == "own" and self.model.runs == "formula":
            raise ValueError(f"model.kernel=own has no cell {self.model.cell}: set model.kernel to auto")
        if self.model.precision == "bfloat16":
            for reason, holds in (
                ("train.gpus=true", self.train.gpus),
                ("model.kernel=mxnet", self.model.kernel == "mxnet"),
                (f"model.cell={self.model.cell}, which no kernel has", self.model.runs == "formula"),
            ):
                if holds:
                    raise ValueError(
                        f"model.precision=bfloat16 is for Duplet's own layers on CPUs, and {reason}: set "
                        "model.precision to auto or float32"
                    )
        if self.spec.check:
            self.spec.check(self)
        steps = self.spec.steps(getattr(self, self.task)) if self.spec.steps else 0
        longest = sum(limit or steps for limit in self.tokenize.max_tokens.values())
        needed = 2 * self.train.workers * self.train.accumulate * longest
        if self.train.max_tokens_per_update < needed:
            raise ValueError(
                f"train.max_tokens_per_update={self.train.max_tokens_per_update} must be at least {needed}: "
                "two pairs of the longest texts (tokenize.max_tokens) for each worker"
                + (" and each part (train.accumulate)" if self.train.accumulate > 1 else "")
            )
        of_systems = [f"{system}{name}" for system in ("", "model/", "fused/") for name in self.metrics]
        for setting, metric, named in (
            ("train.metric", self.train.metric, self.metrics),
            ("promote.metric", self.promote.metric, of_systems),
            *(("promote.floors", name, of_systems) for name in self.promote.floors),
        ):
            if metric not in named:
                meant = guess(metric, self.metrics, 0.4)
                raise ValueError(f"{setting}={metric!r} is not measured{meant} (allowed: {', '.join(self.metrics)})")
        return self


@functools.cache
def config_model() -> type[Config]:
    """The whole configuration with all tasks and sources, those that installed packages bring too."""
    specs = task_specs()
    fields: dict[str, Any] = {
        "task": (Literal[tuple(specs)], Config.model_fields["task"]),
        "ingest": (ingest_model(), Config.model_fields["ingest"]),
        "model": (model := _with_brought(ModelConfig, {"cell": CELLS, "head": HEADS, "pooling": POOLINGS}), model()),
        "train": (train := _with_brought(TrainConfig, {}, loss=_with_brought(LossConfig, {"kind": LOSSES})), train()),
        **{name: (spec.options, spec.options()) for name, spec in specs.items() if spec.options},
    }
    doc = "All settings of a run. Only ingest.source must be given."
    return pydantic.create_model("Config", __base__=Config, __doc__=doc, __module__=__name__, **fields)


def _with_brought(base: type[Settings], tables: dict[str, Table[Any]], **sections: type[Settings]) -> type[Settings]:
    """A section whose settings know the names of all things in their tables, and which has sections of their options.

    Args:
        sections: further ones, in place of those of the same name.
    """
    fields: dict[str, Any] = {}
    for setting, table in tables.items():
        about, brought = base.model_fields[setting], table.brought.items()
        more = "".join(f" {name}: {thing.summary}." for name, thing in brought if hasattr(thing, "summary"))
        fields[setting] = (
            Literal[tuple(table.all)],
            Field(default=about.default, description=f"{about.description}{more}"),
        )
        sections |= {name: thing.options for name, thing in brought if getattr(thing, "options", None)}
    fields |= {name: (section, section()) for name, section in sections.items()}
    return pydantic.create_model(base.__name__, __base__=base, __doc__=base.__doc__, __module__=__name__, **fields)


@functools.cache
def ingest_columns() -> type[Columns]:
    """The columns of all tasks' fields: those of Duplet, and those that the tasks of other packages have."""
    known = {*Columns.model_fields}
    more = {name: spec for spec in task_specs().values() for name in spec.fields if name not in known}
    fields: dict[str, Any] = {
        name: (Column, Field(default=name, description=f"The field {name}, of task {spec.name}."))
        for name, spec in more.items()
    }
    return pydantic.create_model("Columns", __base__=Columns, __doc__=Columns.__doc__, **fields) if more else Columns


def ingest_model() -> type[IngestConfig]:
    """The section `ingest` with all sources, and in each the columns of all tasks' fields."""
    columns, models = ingest_columns(), list(dict.fromkeys(formats().values()))
    if columns is Columns and not source_specs():
        return IngestConfig
    if columns is not Columns:
        models = [_with_columns(model, columns) for model in models]
    source: Any = Annotated[Union[tuple(models)], Field(discriminator="format")]  # noqa: UP007
    fields: dict[str, Any] = {"source": (source, IngestConfig.model_fields["source"])}
    return pydantic.create_model("IngestConfig", __base__=IngestConfig, __doc__=IngestConfig.__doc__, **fields)


def _with_columns(model: type[Settings], columns: type[Columns]) -> type[Settings]:
    if "columns" not in model.model_fields:
        return model
    fields: dict[str, Any] = {"columns": (columns, columns())}
    return pydantic.create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)


def problems() -> tuple[str, ...]:
    """A sentence for each thing that an installed package brings and that cannot be used."""
    return tuple(problem for table in TABLES for problem in table.plugins.problems)
