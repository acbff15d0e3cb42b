"""Makes a crawl and a click log to try `configs/search_engine.yaml` on: `python benchmarks/search_logs.py FOLDER`.

The pages are HTML pages of the standard library's functions, in WARC files, with menus and footers; a query is the
first paragraph of a function's docstring. The log is made up. A search engine shows ten pages in an order of its own,
which changes a little each time. A place k is looked at with a chance of 1/k. What is looked at is clicked with a
chance of 0.7 for the function's own page, 0.15 for one of the same module, 0.04 for another.
"""

import argparse
import gzip
import html
import io
import json
import random
from pathlib import Path
from typing import Any

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.config.sources import DocstringsSource
from pipeline.ingest import docstrings
from pipeline.ingest.rows import Row

SHOWN, NEAR, LISTS = 10, 4, 20  # pages of a list, of them from the same module, and lists per query
OWN, SAME_MODULE, OTHER = 0.7, 0.15, 0.04  # chances of a click
PAGES_PER_FILE, LISTS_PER_FILE = 200, 5000


def page(row: Row, address: str) -> bytes:
    """A function's page as a site would serve it."""
    name, code = (html.escape(str(row.values[key])) for key in ("qualname", "document"))
    module = html.escape(str(row.values["module"]))
    paragraphs = "".join(f"<p>{line}</p>" for line in code.split("\n") if line.strip())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{module}.{name}</title>'
        f'<link rel="canonical" href="{address}"></head><body><nav><a href="/">Home</a> <a href="/modules">Modules</a>'
        f' <a href="/search">Search</a></nav><main><article><h1>{module}.{name}</h1>{paragraphs}</article></main>'
        "<footer>Made for a try-out. All rights belong to nobody.</footer></body></html>"
    ).encode()


def write_crawl(folder: Path, pages: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    every = list(pages.items())
    for number in range(0, len(every), PAGES_PER_FILE):
        with (folder / f"part-{number // PAGES_PER_FILE:05d}.warc.gz").open("wb") as file:
            writer = WARCWriter(file, gzip=True)
            for address, content in every[number : number + PAGES_PER_FILE]:
                kind = [("Content-Type", "text/html; charset=utf-8")]
                headers = StatusAndHeaders("200 OK", kind, protocol="HTTP/1.1")
                date = {"WARC-Date": "2026-11-01T00:00:00Z"}
                record = writer.create_warc_record(
                    address, "response", io.BytesIO(content), http_headers=headers, warc_headers_dict=date
                )
                writer.write_record(record)


def lists(rows: dict[str, Row], draw: random.Random) -> list[dict[str, Any]]:
    """What was shown and clicked, a row per list, in an order of their time."""
    by_module: dict[str, list[str]] = {}
    for address, row in rows.items():
        by_module.setdefault(str(row.values["module"]), []).append(address)
    every, found = list(rows), []
    for own, row in rows.items():
        module = by_module[str(row.values["module"])]
        near = [one for one in draw.sample(module, min(len(module), NEAR + 1)) if one != own][:NEAR]
        candidates = list(dict.fromkeys([own, *near, *draw.sample(every, SHOWN)]))[:SHOWN]
        liked = {one: draw.gauss(0, 0.3) for one in candidates}
        chance = {one: OWN if one == own else SAME_MODULE if one in near else OTHER for one in candidates}
        for _ in range(LISTS):
            order = sorted(candidates, key=lambda one: liked[one] + draw.gauss(0, 0.2))
            clicked = [one for k, one in enumerate(order, 1) if draw.random() < chance[one] / k]
            found.append({"query": row.values["query"], "shown": order, "clicked": clicked})
    draw.shuffle(found)
    return [{"session": f"person {draw.randrange(10**6)}", "time": time, **one} for time, one in enumerate(found)]


def write_log(folder: Path, log: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(0, len(log), LISTS_PER_FILE):
        text = "".join(json.dumps(one) + "\n" for one in log[number : number + LISTS_PER_FILE])
        name = f"part-{number // LISTS_PER_FILE:05d}.jsonl.gz"
        (folder / name).write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
    (folder / "_SUCCESS").touch()


def make(folder: Path, count: int, seed: int = 1) -> None:
    """A crawl of `count` pages and a log about them, in `folder`."""
    functions = docstrings.read(DocstringsSource(format="docstrings", max_pairs=count), 1 << 20)
    rows = {
        f"https://docs.example.org/{row.values['module']}/{row.values['qualname']}-{row.values['line']}": row
        for row in functions
        if row.problem is None
    }
    write_crawl(folder / "crawl", {address: page(row, address) for address, row in rows.items()})
    (folder / "crawl" / "_SUCCESS").touch()
    write_log(folder / "logs", lists(rows, random.Random(seed)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write crawl/ and logs/")
    parser.add_argument("--pages", type=int, default=2000, help="pages of the crawl (default 2000)")
    given = parser.parse_args()
    make(given.folder, given.pages)
    print(f"{given.folder}: crawl/ and logs/")
