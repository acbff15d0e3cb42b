"""Duplet from Python: read a configuration, run it, use a model, search an index. docs/python.md has examples.

`from pipeline import load_config, run, load_model, open_index` loads no more than the call that is made needs.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from pipeline.config import Config
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from pipeline.orchestration.flow import Result
    from pipeline.search.searcher import Searcher
    from pipeline.serving.predict.base import Predictor

Side = Literal["query", "document"]
Mode = Literal["model", "hybrid", "words"]


def run(config: Config, until: str = "evaluate", say: Callable[[str], None] | None = None) -> "Result":
    """Runs the stages of a configuration up to `until`; stages that are up to date are not run again.

    Args:
        config: what `load_config` returned.
        say: called with each progress line; None: progress goes to stderr.

    Returns:
        The run's id in MLflow, the folder and state of each stage, the metrics and the printed table.

    Raises:
        DupletError or a subclass: one sentence that says what is wrong and what to do.
    """
    if not isinstance(config, Config):
        raise TypeError(f"run takes a configuration from load_config, not a value of type {type(config).__name__}")
    from pipeline.core.progress import Talk
    from pipeline.orchestration import flow

    names = [stage.name for stage in flow.stages_of(config)]
    if until not in names:
        raise ValueError(f"until={until!r} is not a stage (stages: {', '.join(names)})")
    if say is not None:
        return flow.run(config, config.name, until, say)
    with Talk() as talk:
        return flow.run(config, config.name, until, talk)


def load_model(
    model: str | Path,
    root: str | Path = "runs",
    uri: str | None = None,
    backend: Literal["onnx", "mxnet"] | None = None,
    threads: int | None = None,
) -> "Model":
    """Opens a trained model of any task; a matcher with the second stage that its evaluation chose (rerank.model).

    Args:
        model: a configuration (.yaml), a trained or exported folder, an MLflow run id, or models:/NAME@champion.
        root: where stage folders and the local MLflow database lie.
        uri: MLflow's address; None: MLFLOW_TRACKING_URI, else the database under root.
        backend: None: ONNX Runtime for the tasks that it can run, MXNet for the others.
        threads: of ONNX Runtime; None: as many as this process may use.

    Raises:
        InputError: no such model, not a whole one, or its second model is gone. TryAgain: MLflow does not answer.
    """
    if not isinstance(model, str | Path):
        raise TypeError(f"load_model takes a path, a run id or a model's name, not a {type(model).__name__}")
    from pipeline.registry import resolve_run

    folder = resolve_run.model(str(model), Path(root), uri)
    return Model(resolve_run.predictor(str(model), folder, Path(root), uri, backend, threads))


class Model:
    """A trained model, open for use. Threads may share it.

    Attributes:
        config: the configuration that it was trained with.
        fields: the names of the columns that `predict` needs in each row.
    """

    def __init__(self, predictor: "Predictor") -> None:
        self._predictor = predictor
        self.config = predictor.config
        self.fields = predictor.fields

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A prediction for each row, in the rows' order. Raises InputError for a row that lacks a column."""
        if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Sequence):
            raise TypeError(f"predict takes a list of rows, not a {type(rows).__name__}")
        for row in rows:
            if not isinstance(row, Mapping):
                raise TypeError(f"each row is a mapping of column names to values, not a {type(row).__name__}")
        if not rows:
            raise ValueError("predict takes at least one row")
        return self._predictor.predict(rows)

    def encode(self, texts: Sequence[str], side: Side = "document") -> np.ndarray | list[np.ndarray]:
        """Encodes N texts with a matching model.

        Returns:
            (N, D) float32 vectors; of a late-interaction model N arrays (T, D), a vector for each of a text's T tokens.

        Raises:
            InputError: the model is not of the task matching.
        """
        encoder = self._encoder("encode")
        if side not in ("query", "document"):
            raise ValueError(f"side={side!r} is neither query nor document")
        encoded = encoder.encode(side, _texts(texts, "texts"))
        if encoded.offsets is None:
            return np.asarray(encoded.vectors)
        return np.split(encoded.vectors, encoded.offsets[1:-1])

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """(N,) float32: the score of query i with document i, by a matching model, without its second stage: that
        places the documents of a list, which `predict` takes.

        Raises:
            InputError: the model is not of the task matching.
        """
        encoder = self._encoder("score")
        queries, documents = _texts(queries, "queries"), _texts(documents, "documents")
        if len(queries) != len(documents):
            raise ValueError(
                f"{len(queries)} queries and {len(documents)} documents make no pairs: give as many of each"
            )
        return np.asarray(encoder.score(queries, documents))

    def _encoder(self, verb: str) -> Any:
        encoder = getattr(self._predictor, "encoder", None)
        if encoder is None:
            raise InputError(f"{verb} needs a model of the task matching; this one is of the task {self.config.task}")
        return encoder


class Hit(NamedTuple):
    rank: int  # from 1
    score: float
    id: str
    title: str
    text: str  # the passage that matched best
    fields: dict[str, Any]  # what else the documents' columns or files tell: url, date, author, …


class Index:
    """An index, open for queries. Threads may share it."""

    def __init__(self, searcher: "Searcher") -> None:
        self._searcher = searcher

    def search(self, query: str, k: int = 10, mode: Mode | None = None, where: str | None = None) -> list[Hit]:
        """The k best documents for a query, best first.

        Args:
            mode: model; words: BM25; hybrid: both; None: the one that the model's evaluation found best.
            where: a filter on the documents' other fields, such as "language=en and date>=2024".

        Raises:
            InputError: the query is blank, or the filter cannot be read or is on a field that no document has.
        """
        if not isinstance(query, str):
            raise TypeError(f"search takes one text as its query, not a {type(query).__name__}")
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k={k!r} is not a whole number of at least 1")
        if mode not in (None, "model", "hybrid", "words"):
            raise ValueError(f"mode={mode!r} is not one of model, hybrid, words")
        answer = self._searcher.search(query, k, mode, where)
        return [
            Hit(
                found.rank,
                float(found.score),
                found.document.id,
                found.document.title,
                found.document.text[found.passage.start : found.passage.end],
                found.document.known,
            )
            for found in answer.results
        ]


def open_index(
    path: str | Path,
    model: str | None = None,
    root: str | Path = "runs",
    uri: str | None = None,
    backend: Literal["onnx", "mxnet"] = "onnx",
    threads: int | None = None,
) -> Index:
    """Opens an index that `duplet index` made.

    Args:
        model: the index's model where it is no longer in the folder that the index names; see `load_model`.
        root, uri, backend, threads: see `load_model`.

    Raises:
        InputError: no such index, or a damaged one, or another model. TryAgain: MLflow does not answer.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"open_index takes a path, not a {type(path).__name__}")
    from pipeline.search.open_index import open_searcher

    return Index(open_searcher(Path(path).expanduser(), model, Path(root), uri, backend, threads))


def _texts(texts: Sequence[str], name: str) -> list[str]:
    """The texts as a list. Raises TypeError for one text or other values, ValueError for none."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence | np.ndarray):
        raise TypeError(f"{name} must be a list of texts, not a {type(texts).__name__}")
    found = list(texts)
    for text in found:
        if not isinstance(text, str):
            raise TypeError(f"{name} must hold texts only, not a value of type {type(text).__name__}")
    if not found:
        raise ValueError(f"{name} is empty: give at least one text")
    return found
