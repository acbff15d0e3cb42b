"""A record: one judged pair of query and document, the unit that ingest writes and tokenization reads."""

from typing import NamedTuple

import pyarrow as pa


class Record(NamedTuple):
    id: str
    query_id: str
    query: str
    document_id: str
    document: str
    relevance: float  # 0 = irrelevant; higher = better
    metadata: str  # a JSON object


SCHEMA = pa.schema(
    [(name, pa.float32() if kind is float else pa.string()) for name, kind in Record.__annotations__.items()]
)
COLLECTION_SCHEMA = pa.schema([("document_id", pa.string()), ("document", pa.string())])
