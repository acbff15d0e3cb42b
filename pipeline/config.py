"""Every setting, once: a frozen model per stage, filled by YAML and `key=value` overrides; the place of defaults."""

import difflib
import json
import os
import string
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import InputError

SPLITS = ("train", "valid", "test")
RANKING_METRICS = ("mrr@10", "map", "ndcg@10", "recall@1", "recall@10", "recall@100")
GRADED_METRICS = ("accuracy", "macro_f1", "auc")
SplitName = Literal["train", "valid", "test"]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
Column = str | int


class Settings(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- ingest -----------------------------------------------------------------------------------------------------------
class Columns(Settings):
    """Where a row keeps each field: a column's name (or JSON key), or its position from 0."""

    query: Column = "query"
    document: Column = "document"
    relevance: Column | None = None  # None: every row is a relevant pair (relevance 1)
    id: Column | None = None
    query_id: Column | None = None
    document_id: Column | None = None
    group: tuple[Column, ...] = ()  # rows that share these stay in one split; default: the query id
    metadata: tuple[Column, ...] = ()


class PairsSource(Settings):
    """Rows of query, document and (maybe) relevance, in one file for all splits or one per split."""

    format: Literal["jsonl", "tsv", "csv", "parquet"]
    path: str | None = None
    paths: dict[SplitName, str] = {}
    columns: Columns = Columns()
    header: bool = True  # TSV and CSV: the first row names the columns
    quoting: bool | None = None  # TSV and CSV: "…" quotes a field; None: CSV yes, TSV no
    encoding: str = "utf-8"
    grades: dict[str, float] = {}  # label as written -> relevance; empty: the label is a number already

    @model_validator(mode="after")
    def _one_place(self) -> "PairsSource":
        if bool(self.path) == bool(self.paths):
            raise ValueError("give either path (one file, split by query) or paths (one file per split)")
        return self


class CollectionSource(Settings):
    """Queries, documents and judgements in files of their own.

    `trec`: topics and collections in SGML, or in the SMART style (.I/.T/.W), with a qrels file; `beir`: a folder with
    corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv; `msmarco`: TSV of id and text, with a qrels file.
    """

    format: Literal["trec", "beir", "msmarco"]
    path: str | None = None  # beir: the folder
    documents: str | None = None
    queries: str | dict[SplitName, str] | None = None  # one file for all splits, or one per split
    judgements: str | dict[SplitName, str] | None = None
    query_ids: Literal["given", "position"] = (
        "given"  # position: judgements number the queries 1, 2, … as they stand in the file
    )
    train_on_titles: bool = False  # train and valid pairs are a document's title and its text; judged queries only test
    encoding: str = "utf-8"
    grades: dict[str, float] = {}

    @model_validator(mode="after")
    def _complete(self) -> "CollectionSource":
        if self.format == "beir":
            if not self.path or self.documents or self.queries or self.judgements:
                raise ValueError("format beir takes path (its folder), and no documents, queries or judgements")
        elif self.path or not (self.documents and self.queries and self.judgements):
            raise ValueError(f"format {self.format} takes documents, queries and judgements, and no path")
        return self


class DocstringsSource(Settings):
    """Python functions of the running environment: a docstring's first paragraph asks, the code answers."""

    format: Literal["docstrings"]
    packages: tuple[str, ...] = ("stdlib",)  # "stdlib" and names of installed packages
    min_query_tokens: Positive = 3
    min_document_lines: Positive = 2
    max_pairs: Positive | None = None  # the first so many by hash; for quick tests


Source = Annotated[PairsSource | CollectionSource | DocstringsSource, Field(discriminator="format")]


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
    kind: Literal["word", "character", "sentencepiece", "jieba"] = "word"
    lowercase: bool = True
    vocabulary_size: Positive = 30_000
    min_count: Positive = 2  # word, character, jieba: rarer tokens become <unk>
    sentencepiece_model: Literal["unigram", "bpe"] = "unigram"
    max_tokens: dict[str, Positive] = {"query": 64, "document": 256}  # by field; longer texts are cut and counted
    rows_per_shard: Positive = 50_000


# --- model and training -----------------------------------------------------------------------------------------------
class ModelConfig(Settings):
    cell: Literal["lstm", "gru", "rnn_tanh", "rnn_relu"] = "lstm"
    embedding: Positive = 128
    hidden: Positive = 256  # per direction
    layers: Positive = 1
    directions: Literal[1, 2] = 2
    dropout: Share = 0.2  # on the embeddings and between layers
    layer_norm: bool = False
    residual: bool = False  # adds a layer's input to its output where the widths agree
    pooling: Literal["last", "max", "mean", "attention"] = "max"
    towers: Literal["shared", "separate"] = (
        "shared"  # separate: an encoder per side; the embedding is shared either way
    )
    head: Literal["cosine", "dot", "bilinear", "mlp", "late_interaction"] = "cosine"


class LossConfig(Settings):
    kind: Literal["in_batch_softmax", "hinge", "pointwise"] = "in_batch_softmax"
    temperature: Annotated[float, Field(gt=0)] = 0.05  # in_batch_softmax
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
    epochs: Positive = 10
    max_updates: Positive | None = None
    validate_every_updates: Positive | None = None  # None: at the end of each epoch
    patience_validations: Positive | None = 3  # stop after so many without a better one; None: never
    metric: str = "mrr@10"  # what validation maximises
    checkpoint_every_updates: Positive = 200
    keep_checkpoints: Positive = 2  # the newest so many, and the best
    log_every_updates: Positive = 10

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
    depth: Annotated[int, Field(ge=10)] = 100  # documents kept per query
    bm25_k1: Annotated[float, Field(gt=0)] = 1.5
    bm25_b: Annotated[float, Field(ge=0, le=1)] = 0.75
    bootstrap_samples: Positive = 1000


class TrackingConfig(Settings):
    uri: str | None = None  # None: MLFLOW_TRACKING_URI, else SQLite under root
    experiment: str | None = None  # None: the configuration's name
    system_metrics: bool = True


class Config(Settings):
    name: str
    root: str = "runs"  # stage folders, the MLflow database and its artifacts live under it
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    task: Literal["matching"] = "matching"
    ingest: IngestConfig
    tokenize: TokenizeConfig = TokenizeConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _agree(self) -> "Config":
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
        needed = 2 * train.workers * sum(self.tokenize.max_tokens.values())
        if train.max_tokens_per_update < needed:
            raise ValueError(
                f"train.max_tokens_per_update={train.max_tokens_per_update} must be at least {needed}: "
                "two pairs of the longest texts (tokenize.max_tokens) for each worker"
            )
        metrics: tuple[str, ...] = GRADED_METRICS if "graded" in self.evaluate.kinds else ()
        metrics += RANKING_METRICS if "ranking" in self.evaluate.kinds else ()
        if train.metric not in metrics:
            near = difflib.get_close_matches(train.metric, metrics, 1, 0.4)
            raise ValueError(
                f"train.metric={train.metric!r} is not measured; "
                + (f"did you mean {near[0]}? " if near else "")
                + f"(allowed: {', '.join(metrics)})"
            )
        return self


# --- reading ----------------------------------------------------------------------------------------------------------
def load_config(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> Config:
    """Reads a YAML file, expands ${VARIABLES}, applies `a.b=value` overrides and checks the whole.

    Raises:
        InputError: no such file, no YAML, an unknown key, a wrong type or value, a contradiction.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1, 0.4)
        raise InputError(
            f"no configuration at {path}" + (f"; did you mean {path.parent / near[0]}?" if near else "")
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"configuration {path} cannot be read: {error}") from None
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold a mapping of settings, found {type(data).__name__}")
    data.setdefault("name", path.stem)
    for override in overrides:
        _override(data, override)
    try:
        expanded = _expand(data, str(path))
    except RecursionError:
        raise InputError(f"{path}: settings are nested too deeply, or a YAML alias holds itself") from None
    return check_config(expanded, str(path))


def check_config(data: dict[str, Any], origin: str) -> Config:
    """Validates a plain dictionary; errors name the key, the value, what is allowed and the nearest name."""
    try:
        # through JSON and strict, so that "3" is no number and a list still fits a tuple
        return Config.model_validate_json(json.dumps(data, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise InputError(f"{origin}: " + "; ".join(_explain(e, data) for e in error.errors()[:5])) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{origin}: {error}") from None


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r} is not of the form key=value, such as train.workers=2")
    node, names = data, key.split(".")
    for name in names[:-1]:
        child = node.setdefault(name, {})
        if child is None:
            child = node[name] = {}
        if not isinstance(child, dict):
            raise InputError(f"override {override!r}: {name} is a value, not a section")
        node = child
    try:
        node[names[-1]] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        node[names[-1]] = value


def _expand(value: Any, origin: str) -> Any:
    if isinstance(value, dict):
        return {str(key): _expand(item, origin) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, origin) for item in value]
    if isinstance(value, str) and "${" in value:
        try:
            return string.Template(value).substitute(os.environ)
        except KeyError as error:
            name = error.args[0]
            raise InputError(
                f"{origin}: {value!r} needs the environment variable {name}: set it, e.g. export {name}=/path"
            ) from None
        except ValueError as error:
            raise InputError(f"{origin}: {value!r}: {error}") from None
    return value


def _explain(error: Any, data: dict[str, Any]) -> str:
    tags = {"jsonl", "tsv", "csv", "parquet", "trec", "beir", "msmarco", "docstrings"}
    steps = [step for step in error["loc"] if not (step in tags and "source" in error["loc"])]
    where = ".".join(map(str, steps)) or "configuration"
    value: Any = data
    for step in steps:
        value = value[step] if isinstance(value, list) else value.get(step) if isinstance(value, dict) else None
    if error["type"] == "extra_forbidden":
        names = _names_at(steps[:-1], data)
        near = difflib.get_close_matches(str(steps[-1]), names, 1, 0.5)
        return (
            f"unknown key {where}={value!r}"
            + (f", did you mean {near[0]}?" if near else "")
            + f" (allowed: {', '.join(names)})"
        )
    if error["type"] == "missing":
        return f"{where} is missing"
    message = error["msg"].removeprefix("Value error, ")
    context = error.get("ctx", {})
    expected = context.get("expected") or context.get("expected_tags")
    near = difflib.get_close_matches(
        str(context.get("tag", value)), str(expected or "").replace("'", "").replace(" or ", ", ").split(", "), 1, 0.5
    )
    shown = f"={value!r}" if value is not None and not isinstance(value, dict) else ""
    return f"{where}{shown}: {message[0].lower() + message[1:]}" + (f"; did you mean {near[0]}?" if near else "")


def _names_at(steps: list[Any], data: dict[str, Any]) -> list[str]:
    """The keys allowed in the section that `steps` lead to."""
    model: Any = Config
    for step in steps:
        if step == "source":
            form = data.get("ingest", {}).get("source", {}).get("format")
            options = (PairsSource, CollectionSource, DocstringsSource)
            model = next(m for m in options if form in typing.get_args(m.model_fields["format"].annotation))
        else:
            model = model.model_fields[step].annotation
    return list(model.model_fields)
