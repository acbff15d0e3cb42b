"""Every setting, once: a frozen model per stage, and the only place of defaults."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Filled, Name, Place, Positive, Settings, Share
from pipeline.config.sources import Source, SplitName
from pipeline.hidden import hide_all
from pipeline.records import FIELDS

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


# --- ingest -----------------------------------------------------------------------------------------------------------
class SplitShares(Settings):
    """Shares of the groups (queries, by default) given to splits that the source does not have itself."""

    valid: Share = 0.1
    test: Share = 0.1


class IngestConfig(Settings):
    source: Source
    split: SplitShares = SplitShares()
    max_row_kb: Positive = 1024
    max_quarantined_share: Share = 0.01


# --- tokenize ---------------------------------------------------------------------------------------------------------
class TokenizeConfig(Settings):
    # whitespace: what stands between blanks, the end of a line a token of its own; verbatim: every character as it is
    kind: Literal["word", "character", "sentencepiece", "jieba", "whitespace", "verbatim"] = "word"
    lowercase: bool = True
    vocabulary_size: Positive = 30_000
    min_count: Positive = 2  # of counted tokens: rarer ones become <unk>
    sentencepiece_model: Literal["unigram", "bpe"] = "unigram"
    split_digits: bool = False  # sentencepiece: a number is its digits one by one
    max_tokens: dict[str, Positive | None] = Field(
        default={},
        description="Tokens of each field that count; longer texts are cut. Fields not named have their task's own.",
    )
    rows_per_shard: Positive = 50_000

    def limit(self, field: str) -> int:
        """The most tokens of a field that is cut, once the whole configuration is read."""
        found = self.max_tokens[field]
        assert found is not None, f"{field} is not cut"
        return found


# --- model and training -----------------------------------------------------------------------------------------------
class ModelConfig(Settings):
    cell: Literal["lstm", "gru", "rnn_tanh", "rnn_relu"] = "lstm"
    embedding: Positive = 128
    hidden: Positive = Field(default=256, description="Per direction. Default for matching: 96.")
    layers: Positive = 1
    directions: Literal[1, 2] = 2
    dropout: Share = 0.2  # on the embeddings and between layers
    layer_norm: bool = False
    residual: bool = False  # adds a layer's input to its output where the widths agree
    pooling: Literal["last", "max", "mean", "attention"] = "max"
    towers: Literal["shared", "separate"] = (
        "shared"  # separate: an encoder per side; the embedding is shared either way
    )
    head: Literal["cosine", "dot", "bilinear", "mlp", "late_interaction"] = Field(
        default="cosine", description="How matching compares a query with a document. Default for it: late_interaction."
    )


class LossConfig(Settings):
    kind: Literal["in_batch_softmax", "hinge", "pointwise"] = "in_batch_softmax"
    temperature: Annotated[float, Field(gt=0)] = 0.1  # in_batch_softmax
    negatives: Positive = 8  # hinge: sampled from the other pairs of the update
    margin: Annotated[float, Field(gt=0)] = 0.2  # hinge
    listed_negatives: Annotated[int, Field(ge=0)] = 0  # per pair and epoch: so many documents judged irrelevant join in
    grades: Annotated[int, Field(ge=2)] = 2  # pointwise: relevance is 0 … grades - 1
    link: Literal["softmax", "ordinal"] = "softmax"  # pointwise


class ScheduleConfig(Settings):
    kind: Literal["constant", "cosine", "linear"] = "cosine"
    warmup_updates: Annotated[int, Field(ge=0)] = 50
    final_share: Annotated[float, Field(ge=0, le=1)] = 0.05  # of the learning rate, at the last update


class OptimizerConfig(Settings):
    kind: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # adamw: decoupled; sgd: L2
    momentum: Share = 0.9  # sgd
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0  # of all gradients together


class TrainConfig(Settings):
    workers: Positive = 1
    gpus: bool = False
    threads_per_worker: Positive | None = None  # None: cores // workers
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    max_pairs_per_update: Positive = 64  # over all workers together, so that their number does not change the training
    max_tokens_per_update: Positive = 32_768  # padded, both sides, over all workers together
    start_from: Place | None = Field(
        default=None, description="A trained folder, whose parameters training starts from."
    )
    epochs: Positive = 10
    max_updates: Positive | None = None
    validate_every_updates: Positive | None = None  # None: at the end of each epoch
    patience_validations: Positive | None = 3  # stop after so many without a better one; None: never
    metric: Filled = Field(
        default="", description="What validation chooses by. Default: the first that the task measures."
    )
    checkpoint_every_updates: Positive = 200
    keep_checkpoints: Positive = 2  # the newest so many, and the best
    max_skipped_updates: Annotated[int, Field(ge=0)] = 0  # whose loss or gradients are not finite; one more stops
    compare_ranks_every_updates: Positive = 100  # the workers' parameters, which must be equal; and before each save
    log_every_updates: Positive = 10
    min_stall_s: Annotated[float, Field(ge=2)] = 30.0  # workers silent or without an update for so long may be ended

    @model_validator(mode="after")
    def _fits(self) -> "TrainConfig":
        if self.max_updates is not None and self.schedule.warmup_updates >= self.max_updates:
            raise ValueError(
                f"schedule.warmup_updates={self.schedule.warmup_updates} must be below max_updates={self.max_updates}"
            )
        needed = 2 * self.workers - 1  # the plan's smallest update is half a full one, rounded up
        if self.max_pairs_per_update < needed:
            raise ValueError(
                f"max_pairs_per_update={self.max_pairs_per_update} leaves some of {self.workers} workers without a "
                f"pair: it must be at least {needed}"
            )
        return self


# --- evaluate and track -----------------------------------------------------------------------------------------------
class EvaluateConfig(Settings):
    kinds: tuple[Literal["ranking", "graded"], ...] = (
        "ranking",
    )  # graded: each pair's grade; needs the pointwise loss
    candidates: Literal["collection", "listed"] = "collection"  # listed: only the documents judged for a query
    # all: the documents of all splits are ranked for a query, as a search ranks them; split: those of the query's split
    collection: Literal["all", "split"] = "all"
    depth: Annotated[int, Field(ge=10)] = 100  # documents kept per query; nothing deeper is measured
    # of BM25's words: auto is the language whose stop words are most frequent in the collection, if any is
    stemmer: Literal["auto", "none", "danish", "dutch", "english", "french", "german", "italian", "norwegian",
                     "portuguese", "russian", "spanish", "swedish", "turkish"] = "auto"  # fmt: skip
    bm25_k1: Annotated[float, Field(gt=0)] | None = None  # None: the best on the validation split
    bm25_b: Annotated[float, Field(ge=0, le=1)] | None = None
    bootstrap_samples: Positive = 1000
    shape: Literal["latex", "c", "python"] | None = None  # language_model: what is counted in the text that it writes


# --- tasks ------------------------------------------------------------------------------------------------------------
class LanguageModelConfig(Settings):
    """A language model reads forwards only: model.directions must be 1."""

    streams: Positive = 20  # contiguous parts of the text read side by side, over all workers
    steps: Positive = 35  # tokens of each stream per update, through which gradients flow back
    tied: bool = False  # the output's weights are the embedding (Press and Wolf 2017); needs embedding = hidden
    variational: bool = False  # one dropout mask for all steps of an update (Gal and Ghahramani 2016)
    weight_dropout: Share = 0.0  # of the recurrent weights, for all steps of an update (Merity et al. 2018)
    sampled: Annotated[int, Field(ge=0)] = 0  # negatives of a sampled softmax in training; 0: the whole softmax
    sample_tokens: Positive = 300  # of the sample that validation writes


class ClozeConfig(Settings):
    """Words taken out and filled in; `compare_left` trains a left-only model of the same size beside it.

    Every word of a training text is learned from; `blank_share` of them are also hidden from the others.
    """

    blank_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    sampled: Annotated[int, Field(ge=0)] = 0  # negatives of a sampled softmax in training; 0: the whole softmax
    compare_left: bool = True


class TranslationConfig(Settings):
    """Encoder of `model`; a decoder of as many layers, each as wide as one direction of it, with attention."""

    attention: Literal["bahdanau", "luong"] = "luong"  # luong: all steps at once; bahdanau: step by step, slower
    label_smoothing: Share = 0.1
    beam: Positive = 5
    length_penalty: Annotated[float, Field(ge=0)] = 0.6  # alpha of ((5 + length) / 6) ** alpha (Wu et al. 2016)
    max_target_share: Annotated[float, Field(gt=0)] = 2.0  # tokens decoded at most, per source token, plus 10
    copy_unknown: bool = False  # an unknown word becomes the source word attended to most; else none is written
    bleu_tokenizer: Literal["13a", "intl", "zh", "char", "none"] = "13a"  # sacreBLEU's, for the target language


class CaptioningConfig(Settings):
    """Images and a decoder of their captions."""

    # first: added as W_ih v inside the first step only (Karpathy and Fei-Fei 2015); every: inside each; attention: over
    # the places of the last convolution (Xu et al. 2015)
    inject: Literal["first", "every", "attention"] = "first"
    # trained: a small convolutional net over the pictures; alexnet: MXNet's, as `weights` has it; given: the vectors
    # that are the source's images
    features: Literal["trained", "alexnet", "given"] = "trained"
    weights: Place | None = Field(
        default=None, description="Of alexnet: its parameter file, .params of Gluon's model zoo."
    )
    beam: Positive = 3

    @model_validator(mode="after")
    def _complete(self) -> "CaptioningConfig":
        if (self.features == "alexnet") != bool(self.weights):
            raise ValueError("features=alexnet and weights, AlexNet's parameter file, need each other")
        return self


class TaggingConfig(Settings):
    """An output at every step."""

    characters: bool = False  # a character encoder beside the word's embedding
    crf: bool = False  # a linear-chain conditional random field over the outputs (Lample et al. 2016)


class PromoteConfig(Settings):
    """When a new version takes the place of the champion, judged on the same test data; see docs/registry.md."""

    name: Filled = Field(default="", description="Of the registered model. Default: the configuration's name.")
    metric: Filled = Field(default="", description="What versions are compared by. Default: train.metric.")
    min_difference: float = 0.0  # new version - champion must lie above it; below 0: may be worse by less than that
    judge_by: Literal["interval", "mean"] = "interval"  # interval: its 95 % interval as a whole; mean: the difference
    floors: dict[str, float] = {}  # metric -> what the new version must reach, the first one too


class TrackingConfig(Settings):
    uri: Place | None = Field(
        default=None, description="MLflow's address. Default: MLFLOW_TRACKING_URI, else a SQLite database under root."
    )
    experiment: Filled = Field(default="", description="MLflow's experiment. Default: the configuration's name.")
    system_metrics: bool = True
    spool_mb: Positive = 64  # of a run's points on disk; past it the older training points are thinned, see docs
    max_wait_s: Annotated[float, Field(ge=0)] = 30.0  # for MLflow, at a run's end; `duplet sync` sends what is left


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
    """All settings of a run. Those whose default rests on others hold their value once the model is made."""

    name: Name = Field(description="Of the runs, the experiment and the model. Default: the file's name.")
    root: Place = Field(
        default="runs", min_length=1, description="The folder of stage folders, the MLflow database and its artifacts."
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    task: Literal["matching", "classification", "language_model", "cloze", "translation", "tagging", "captioning"] = (
        "matching"
    )
    ingest: IngestConfig
    tokenize: TokenizeConfig = TokenizeConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    promote: PromoteConfig = PromoteConfig()
    tracking: TrackingConfig = TrackingConfig()
    language_model: LanguageModelConfig = LanguageModelConfig()
    cloze: ClozeConfig = ClozeConfig()
    translation: TranslationConfig = TranslationConfig()
    captioning: CaptioningConfig = CaptioningConfig()
    tagging: TaggingConfig = TaggingConfig()

    @property
    def shown(self) -> dict[str, Any]:
        """All settings as they may be kept and shown: without what passwords and tokens their addresses hold."""
        shown: dict[str, Any] = hide_all(self.model_dump(mode="json"))
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
