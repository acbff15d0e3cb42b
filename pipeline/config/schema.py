"""The whole configuration: its sections together, the settings that rest on others, and what must agree."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Name, Place, Settings
from pipeline.config.nights import NightsConfig
from pipeline.config.sections import (
    CaptioningConfig,
    ClozeConfig,
    EvaluateConfig,
    ExecutionConfig,
    IngestConfig,
    LanguageModelConfig,
    ModelConfig,
    PromoteConfig,
    TaggingConfig,
    TokenizeConfig,
    TrackingConfig,
    TrainConfig,
    TranslationConfig,
)
from pipeline.config.sources import SplitName
from pipeline.core.record_schema import FIELDS
from pipeline.core.redaction import MASK, hide_all

SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")
GRADED_METRICS = ("accuracy", "macro_f1", "auc")
# What validation of each other task measures, the one that is used unless train.metric names another first.
METRICS = {
    "classification": ("accuracy", "macro_f1"),
    "language_model": ("nats", "perplexity"),
    "cloze": ("accuracy", "nats"),
    "translation": ("bleu", "chrf", "nats", "exact"),
    "tagging": ("accuracy", "span_f1"),
    "captioning": ("exact", "bleu_4", "cider", "nats"),
}
RANKING_CUTS = (("mrr", 10), ("map", None), ("ndcg", 10), ("recall", 1), ("recall", 10), ("recall", 100))
# Of model, where the configuration says nothing else: measured better on the sets of questions, abstracts and manuals.
MATCHING_MODEL = {"head": "late_interaction", "hidden": 96}
SMALLER_IS_BETTER = {"nats", "perplexity"}


def ranking_metrics(depth: int) -> tuple[str, ...]:
    """What is measured of rankings that keep so many documents per query: nothing deeper, and map to that depth."""
    return tuple(f"{name}@{cut or depth}" for name, cut in RANKING_CUTS if (cut or depth) <= depth)


def _limits(task: str, given: dict[str, int | None]) -> dict[str, int | None]:
    """The most tokens of each field of a task; None: any number, which only those fields have whose default it is."""
    own = {field: form.max_tokens for field, form in FIELDS[task].items()}
    for field, limit in given.items():
        if field not in own:
            raise ValueError(
                f"tokenize.max_tokens names {field!r}, which is no field of {task} (fields: {', '.join(own)})"
            )
        if limit is None and own[field] is not None:
            raise ValueError(f"tokenize.max_tokens.{field} must be a number: {task} cuts this field, to {own[field]}")
    if task == "tagging":  # a tag per word
        pair = {given[field] for field in ("text", "tags") if field in given}
        if len(pair) > 1:
            raise ValueError("tokenize.max_tokens must be the same for text and tags: there is a tag for each word")
        own |= {field: limit for limit in pair for field in ("text", "tags")}
    return own | given


class Config(Settings):
    """All settings of a run. Only ingest.source must be given."""

    name: Name = Field(
        description="Name of the runs, the experiment and the registered model. Default: the file's name.",
        examples=["answers"],
    )
    root: Place = Field(
        default="runs",
        min_length=1,
        description="Folder of the stages' folders, the MLflow database and its artifacts.",
        examples=["~/runs"],
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=1, description="Start of all random numbers. Equal seeds give equal splits and equal trainings."
    )
    task: Literal["matching", "classification", "language_model", "cloze", "translation", "tagging", "captioning"] = (
        Field(default="matching", description="What the model learns; see docs/tasks.md.")
    )
    ingest: IngestConfig
    execution: ExecutionConfig = ExecutionConfig()
    tokenize: TokenizeConfig = TokenizeConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    promote: PromoteConfig = PromoteConfig()
    tracking: TrackingConfig = TrackingConfig()
    nights: NightsConfig = NightsConfig()
    language_model: LanguageModelConfig = LanguageModelConfig()
    cloze: ClozeConfig = ClozeConfig()
    translation: TranslationConfig = TranslationConfig()
    captioning: CaptioningConfig = CaptioningConfig()
    tagging: TaggingConfig = TaggingConfig()

    @property
    def split_seed(self) -> int:
        """Start of the random numbers that cut the splits."""
        return self.seed if self.ingest.split.seed is None else self.ingest.split.seed

    @property
    def shown(self) -> dict[str, Any]:
        """All settings as they may be kept and shown: without what passwords and tokens their addresses hold."""
        shown: dict[str, Any] = hide_all(self.model_dump(mode="json"))
        for name in ("slack", "webhook", "ping"):  # whoever has such an address may use it
            if address := shown["nights"]["messages"][name]:
                shown["nights"]["messages"][name] = f"{'/'.join(address.split('/')[:3])}/{MASK}"
        return shown

    @property
    def training_files(self) -> dict[str, str]:
        """Files that training reads beside the stages' folders: setting -> path."""
        named = {
            "captioning.weights": self.captioning.weights,
            "train.start_from": self.train.start_from and str(Path(self.train.start_from) / "parameters.npz"),
        }
        return {setting: path for setting, path in named.items() if path}

    @property
    def metrics(self) -> tuple[str, ...]:
        """What validation measures."""
        if self.task != "matching":
            return METRICS[self.task]
        ranking = ranking_metrics(self.evaluate.depth) if "ranking" in self.evaluate.kinds else ()
        return ranking + (GRADED_METRICS if "graded" in self.evaluate.kinds else ())

    @model_validator(mode="after")
    def _fill(self) -> "Config":
        """Gives settings whose default rests on others their value; before `_agree`, which checks it."""
        metric = self.train.metric or self.metrics[0]
        model = MATCHING_MODEL if self.task == "matching" else {}
        for section, filled in (
            ("model", {name: value for name, value in model.items() if name not in self.model.model_fields_set}),
            ("tokenize", {"max_tokens": _limits(self.task, self.tokenize.max_tokens)}),
            ("train", {"metric": metric}),
            ("promote", {"name": self.promote.name or self.name, "metric": self.promote.metric or metric}),
            ("tracking", {"experiment": self.tracking.experiment or self.name}),
        ):
            self.__dict__[section] = getattr(self, section).model_copy(update=filled)  # the model itself is frozen
        return self

    @model_validator(mode="after")
    def _agree(self) -> "Config":
        if self.task == "matching":
            self._check_matching()
        if self.task == "language_model":
            self._check_language_model()
        longest = sum(limit or self.language_model.steps for limit in self.tokenize.max_tokens.values())
        needed = 2 * self.train.workers * longest
        if self.train.max_tokens_per_update < needed:
            raise ValueError(
                f"train.max_tokens_per_update={self.train.max_tokens_per_update} must be at least {needed}: "
                "two pairs of the longest texts (tokenize.max_tokens) for each worker"
            )
        for setting, metric in (
            ("train.metric", self.train.metric),
            ("promote.metric", self.promote.metric),
            *(("promote.floors", name) for name in self.promote.floors),
        ):
            if metric not in self.metrics:
                near = difflib.get_close_matches(metric, self.metrics, 1, 0.4)
                raise ValueError(
                    f"{setting}={metric!r} is not measured; "
                    + (f"did you mean {near[0]}? " if near else "")
                    + f"(allowed: {', '.join(self.metrics)})"
                )
        return self

    def _check_matching(self) -> None:
        train, loss = self.train, self.train.loss
        if self.model.head == "mlp" and loss.kind != "pointwise" and train.max_pairs_per_update > 512:
            raise ValueError(
                "model.head=mlp scores each query with each document of an update: "
                "keep train.max_pairs_per_update at 512 or less"
            )
        if "graded" in self.evaluate.kinds and loss.kind != "pointwise":
            raise ValueError("evaluate.kinds graded needs train.loss.kind=pointwise, which alone predicts grades")
        if loss.kind == "pointwise" and "ranking" in self.evaluate.kinds and self.evaluate.candidates == "collection":
            raise ValueError(
                "a pointwise loss ranks listed candidates only: set evaluate.candidates=listed, or "
                "evaluate.kinds=[graded], or a ranking loss (train.loss.kind in_batch_softmax or hinge)"
            )

    def _check_language_model(self) -> None:
        model, settings = self.model, self.language_model
        if model.directions != 1:
            raise ValueError(
                "task language_model needs model.directions=1: a model that reads backwards has seen the next token"
            )
        if settings.tied and model.embedding != model.hidden:
            raise ValueError(
                f"language_model.tied needs model.embedding={model.embedding} to equal model.hidden={model.hidden}"
            )
        if settings.streams < self.train.workers:
            raise ValueError(
                f"language_model.streams={settings.streams} leaves some of {self.train.workers} workers without one"
            )
