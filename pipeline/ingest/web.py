"""Web pages, and logs of clicks on them or on other documents -> records."""

import json
from pathlib import Path
from typing import Any

from pipeline.config import Config, task_spec
from pipeline.config.sources import ClicksSource, PagesSource
from pipeline.core import executors
from pipeline.core.record_schema import Record
from pipeline.ingest import listing, pages, places
from pipeline.ingest.ledger import Ledger
from pipeline.ingest.output import Output
from pipeline.ingest.pages import Pages
from pipeline.ingest.rows import short_hash, with_title, without_title
from pipeline.ingest.scratch import Scratch
from pipeline.ingest.splits import split_of
from pipeline.ingest.web_text import Page

UNTITLED = "pages without a title, which no query can ask for"


def ingest_pages(source: PagesSource, config: Config, folder: Path, tools: tuple[Ledger, Scratch, Output]) -> None:
    """Pages as records: a title as the query for its text, or the text alone. Of matching, all texts are ranked."""
    ledger, _, output = tools
    matching = config.spec.relevance

    def keep(page_id: str, page: Page) -> None:
        metadata = {"url": page.address, "title": page.title, "language": page.language}
        written = json.dumps({k: v for k, v in metadata.items() if v}, ensure_ascii=False, sort_keys=True)
        split = split_of(page_id, config.split_seed, config.ingest.split)
        if not matching:
            end = "\n" if any(form.verbatim for form in task_spec(config.task).fields.values()) else ""
            text = with_title(page.title, page.text) + end
            record = Record(page_id, (page_id,), (text,), 1.0, written)
        else:
            body = without_title(page.title, page.text)
            output.add_document(page_id, body or page.text)
            if not page.title or not body:
                ledger.note(UNTITLED)
                return
            keys = (f"title:{page_id}", page_id)
            record = Record(short_hash(*keys), keys, (page.title, body), 1.0, written)
        ledger.keep_record(split)
        output.add_record(split, record)

    with Pages(folder, source.near_duplicates) as known:
        read_pages(config, source, source.path, known, ledger, keep)


def read_pages(
    config: Config, source: PagesSource | ClicksSource, place: listing.Given, known: Pages, ledger: Ledger, keep: Any
) -> None:
    """Gives each page to `keep`; see pages.ingest."""
    files = listing.files(place, source.marker, pages.ENDINGS)
    many = len(files) > 1 or places.name_of(files[0]).endswith(pages.ARCHIVES)
    executor = executors.executor(*config.execution.how, much=many)
    try:
        pages.ingest(source, files, config.ingest.max_row_kb * 1024, executor, (ledger, known), keep)
    finally:
        executor.close()
