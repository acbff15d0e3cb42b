"""Rows in, predictions out, for any task: what `duplet predict`, the MLflow model and the page call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from pipeline.config import Config
from pipeline.core.errors import InputError
from pipeline.evaluation.confidence import Answering
from pipeline.evaluation.fusion import Mix, reranked_scores
from pipeline.evaluation.grades import expected_grade
from pipeline.ingest.rows import BadRow, as_text, is_missing
from pipeline.serving.predict.text_encoder import TextEncoder

T = TypeVar("T")
LIST = "documents"  # a row may hold a list of documents under this name instead of one document


class Predictor(Protocol):
    """A model opened for prediction."""

    config: Config  # what the model was trained with
    fields: tuple[str, ...]  # what a row must have
    backend: str  # what does the work: "onnx" or "mxnet"

    def check(self, row: Mapping[str, Any]) -> None:
        """Raises BadRow, with a reason for the person, where `predict` could not take the row."""

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A prediction per row, in their order. Raises InputError for a row that `check` refuses."""


def read_all(rows: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], T], what: str) -> list[T]:
    """What `read` gives for each row. Raises InputError naming the first row that cannot be `what` (a participle)."""
    values = []
    for number, row in enumerate(rows):
        try:
            values.append(read(row))
        except BadRow as problem:
            raise InputError(f"row {number + 1} cannot be {what}: {problem}") from None
    return values


class FieldPredictor:
    """A task whose rows have the same few fields each, their columns named as in the training's source or as these."""

    backend: str

    def __init__(self, config: Config, inputs: Sequence[str]) -> None:
        self.config = config
        self._columns = columns_of(config, inputs)
        self.fields = tuple(self._columns.values())

    def check(self, row: Mapping[str, Any]) -> None:
        self._named(row)

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        raise NotImplementedError

    def named(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The rows with the task's own field names. Raises InputError naming a row that lacks one."""
        return read_all(rows, self._named, "predicted")

    def _named(self, row: Mapping[str, Any]) -> dict[str, Any]:
        named_row = dict(row)
        for field, column in self._columns.items():
            name = column if column in row or field not in row else field
            named_row[field] = as_text({name: row.get(name)}, name)
        return named_row


class SecondStage(NamedTuple):
    """A second model that scores the best `top` documents of a list anew, and how its scores are mixed in."""

    encoder: TextEncoder
    key: str  # of its folder's manifest
    mix: Mix
    top: int
    answering: Answering | None = None  # which best documents are sure answers, by these scores; None: by the first's

    def scores(self, query: str, documents: Sequence[str], first: np.ndarray) -> np.ndarray:
        """(n,) of n documents, by (n,) scores of the first model."""
        order = np.argsort(-first, kind="stable")
        best = [documents[place] for place in order[: self.top].tolist()]
        values = np.empty(len(first), np.float32)
        values[order] = reranked_scores(first[order], self.encoder.score([query] * len(best), best), self.mix)
        return values


class MatchingPredictor:
    """Scores pairs: {"score"} and, of a pointwise model, "grade" and "probabilities" of grades 0 … G - 1.

    A row of a query and a list of `documents` gives lists: "scores" and "ranks" (1 is best; equal scores keep the
    list's order), and "grades" and "probabilities" of a pointwise model. Of a model with `train.sure_precision`, it
    also gives "probability", that the best of the list is relevant, and whether that is "sure".
    With a second stage, the first documents of a list have mixed scores, and all others lower ones in their order. A
    single pair has the first model's score: there is no ranking to place it in.
    """

    def __init__(self, encoder: TextEncoder, backend: str = "onnx") -> None:
        self.encoder, self.config, self.backend = encoder, encoder.config, backend
        self.second: SecondStage | None = None
        self._columns = columns_of(encoder.config, encoder.sides)
        self.fields = tuple(self._columns[side] for side in encoder.sides)

    def check(self, row: Mapping[str, Any]) -> None:
        self._texts(row)

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        asked = read_all(rows, self._texts, "scored")
        queries = [query for query, documents in asked for _ in documents]
        documents = [document for _, documents in asked for document in documents]
        if self.encoder.pointwise:
            chances = self.encoder.grades(queries, documents)
            scores = expected_grade(chances).astype(np.float32)
        else:
            chances, scores = None, self.encoder.score(queries, documents)
        predictions, start = [], 0
        for row, (query, listed) in zip(rows, asked):
            part = slice(start, start := start + len(listed))
            best, answering = scores[part].max(keepdims=True), self.encoder.answering
            ranked = _has_list(row)
            if self.second is not None and ranked:
                scores[part] = self.second.scores(query, listed, scores[part])
                if self.second.answering:
                    best, answering = scores[part].max(keepdims=True), self.second.answering
            answer = _answer(ranked, scores[part], None if chances is None else chances[part])
            if ranked and answering:
                probability = answering.probabilities(best)
                answer |= {"probability": float(probability[0]), "sure": bool(answering.sure(probability)[0])}
            predictions.append(answer)
        return predictions

    def _texts(self, row: Mapping[str, Any]) -> tuple[str, list[str]]:
        """The query and the documents of a row. Raises BadRow."""
        query = self._text(row, "query")
        if not _has_list(row):
            return query, [self._text(row, "document")]
        listed = row[LIST]
        if not isinstance(listed, list | tuple | np.ndarray) or not len(listed):
            raise BadRow("no list", f"{LIST!r} must be a list of at least one text")
        return query, [as_text({LIST: document}, LIST) for document in listed]

    def _text(self, row: Mapping[str, Any], side: str) -> str:
        column = self._columns[side]
        name = column if column in row or side not in row else side
        return as_text({name: row.get(name)}, name)


def _has_list(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a list; an empty cell of a table is none."""
    listed = row.get(LIST)
    return not (is_missing(listed) or (isinstance(listed, str) and not listed))


def columns_of(config: Config, fields: Sequence[str]) -> dict[str, str]:
    """Under which name a row keeps each field: the source's column, else the field's own name."""
    columns = getattr(config.ingest.source, "columns", None)
    named = {field: getattr(columns, field, None) for field in fields}
    return {field: name if isinstance(name, str) else field for field, name in named.items()}


def _answer(as_list: bool, scores: np.ndarray, chances: np.ndarray | None) -> dict[str, Any]:
    if not as_list:
        answer: dict[str, Any] = {"score": float(scores[0])}
        if chances is not None:
            answer |= {"grade": int(chances[0].argmax()), "probabilities": chances[0].tolist()}
        return answer
    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    answer = {"scores": scores.tolist(), "ranks": ranks.tolist()}
    if chances is not None:
        answer |= {"grades": chances.argmax(axis=1).tolist(), "probabilities": chances.tolist()}
    return answer
