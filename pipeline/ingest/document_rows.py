"""Rows of documents in a file of their own -> the collection."""

from collections.abc import Iterable

from pipeline.ingest.ledger import Ledger
from pipeline.ingest.output import Output
from pipeline.ingest.rows import TWO_TEXTS, BadRow, Row, as_id, as_text, with_title, without_title
from pipeline.ingest.scratch import Scratch


def keep(rows: Iterable[Row], tools: tuple[Ledger, Scratch, Output]) -> None:
    """Keeps each document once; an id's second text is a bad row."""
    ledger, scratch, output = tools
    for row in rows:
        try:
            values = row.checked()
            document_id = as_id(values, "id")
            title = as_text(values, "title", required=False)
            body = without_title(title, as_text(values, "text", required=False))
            if not title and not body:
                raise BadRow("empty text", "'text' is empty")
            if scratch.document(document_id) not in (None, (title, body)):
                raise BadRow(TWO_TEXTS, f"document id {document_id[:60]!r} is another text's")
        except BadRow as problem:
            ledger.quarantine("documents", row, problem)
            continue
        if scratch.add_document(document_id, title, body):
            ledger.kept("documents")
            output.add_document(document_id, with_title(title, body))
        else:
            ledger.duplicate("documents")
