"""A record: the unit that ingest writes and tokenization reads. Which fields it has depends on the task's TaskSpec."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa


class Field(NamedTuple):
    """How a field of a record becomes ids.

    Fields of the same `vocabulary` share one; "" is the main one, made as `tokenize` says, and only then `tokens` is
    "text". The others' files lie in a folder of that name under the tokenized folder.
    """

    max_tokens: int | None = None  # unless tokenize.max_tokens says otherwise; None: no text is cut
    vocabulary: str = ""
    # as `tokenize` says; at blanks; the whole field is one; single characters with one blank between words
    tokens: Literal["text", "whitespace", "whole", "letters"] = "text"
    names: bool = False  # of labels, tags or files: brought to one form
    verbatim: bool = False  # kept as it is, blanks at its ends included, and with its copies


RESERVED = ("<pad>", "<unk>")  # tokens of every vocabulary, so that no label, tag or name can be one of them


class Record(NamedTuple):
    """One record of a task; `keys` and `texts` are in the order of its fields."""

    id: str
    keys: tuple[str, ...]
    texts: tuple[str, ...]
    relevance: float = 1.0  # matching: 0 = irrelevant; higher = better
    metadata: str = "{}"  # a JSON object

    def row(self) -> tuple[str | float, ...]:
        """The columns of `schema`."""
        return (self.id, *(part for pair in zip(self.keys, self.texts) for part in pair), self.relevance, self.metadata)


def schema(fields: Iterable[str]) -> "pa.Schema":
    """The columns of records: id, per field its key (FIELD_id) and its text, relevance and metadata."""
    import pyarrow as pa  # here, so that reading settings loads neither it nor NumPy

    texts = [(name, pa.string()) for field in fields for name in (f"{field}_id", field)]
    return pa.schema([("id", pa.string()), *texts, ("relevance", pa.float32()), ("metadata", pa.string())])


def collection_schema() -> "pa.Schema":
    """The columns of a collection: the documents that queries are ranked against."""
    import pyarrow as pa

    return pa.schema([("document_id", pa.string()), ("document", pa.string())])


def missing_schema() -> "pa.Schema":
    """The columns of judgements whose document is not in the collection: no ranking can find it."""
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("query_id", "query", "document_id")]
    return pa.schema([*texts, ("relevance", pa.float32())])


def missing_name(split: str) -> str:
    """The file of a split's missing_schema, which a collection's ingest leaves for valid and test."""
    return f"missing-{split}.parquet"
