"""From a folder of documents to a page that answers, by three commands: `make first-minutes`.

    duplet index --documents FOLDER --output X        ranked by words
    duplet search X --serve                           the page, asked over HTTP; it stays up to the end
    duplet train-on X                                 a model of the documents joins; the page changes over by itself

The 1,000 documents are 181 web pages and 819 abstracts of Cranfield under DUPLET_DATA, as .html and .md, else
docstrings of Python's own library, as .txt. ASKED titles (of docstrings: first lines) are asked. Prints the seconds
from the first command's start to each kind of answer; ends with 1 where an answer misses its time, or fewer than LEAST
of the titles give their document first.
"""

import argparse
import ast
import gzip
import json
import os
import re
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

COUNT, ASKED, LEAST = 1_000, 20, 0.9
UNTRAINED_S, TRAINED_S = 120.0, 600.0
DUPLET = [sys.executable, "-P", "-m", "pipeline.cli"]


class Written(NamedTuple):
    name: str
    content: str
    question: str  # empty: none is known


def documents() -> Iterator[Written]:
    """Of DUPLET_DATA, else of Python's library."""
    if not (data := os.environ.get("DUPLET_DATA")):
        yield from docstrings()
        return
    for path in sorted(Path(data, "web_articles", "html").glob("*.html.gz")):
        yield Written(path.stem, gzip.decompress(path.read_bytes()).decode(errors="replace"), "")
    abstracts = gzip.decompress(Path(data, "cranfield", "cran.all.1400.gz").read_bytes()).decode()
    for number, title, text in re.findall(r"\.I (\d+)\n\.T\n(.*?)\.A\n.*?\n?\.W\n(.*?)(?=\.I \d|\Z)", abstracts, re.S):
        title, text = " ".join(title.split()), text.strip()
        if title and len(text) > len(title) + 100:
            yield Written(f"{number}.md", f"# {title}\n\n{text}\n", title)


def docstrings() -> Iterator[Written]:
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(errors="replace"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.get_docstring(node) or ""
                if len(text) > 120:
                    name = f"{path.stem}.{node.name}"
                    yield Written(f"{name}.{node.lineno}.txt", f"{name}\n{'=' * len(name)}\n\n{text}\n",
                                  text.splitlines()[0])  # fmt: skip


def write(folder: Path) -> list[Written]:
    """The files; returns those to ask for: of questions that no other document has."""
    folder.mkdir()
    chosen = [document for document, _ in zip(documents(), range(COUNT))]
    for document in chosen:
        (folder / document.name).write_text(document.content)
    times = [document.question for document in chosen]
    once = [document for document in chosen if document.question and times.count(document.question) == 1]
    return once[:: max(1, len(once) // ASKED)][:ASKED]


def asked(page: str, query: str, mode: str) -> dict[str, Any]:
    body = json.dumps({"query": query, "k": 3, "mode": mode}).encode()
    request = urllib.request.Request(f"{page}api/search", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read()))


def first(page: str, questions: list[Written], mode: str) -> float:
    """The share of questions whose document is the first result."""
    answers = [asked(page, question.question, mode)["results"] for question in questions]
    return sum(bool(results) and results[0]["id"] == q.name for results, q in zip(answers, questions)) / len(questions)


def about(page: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{page}api/about", timeout=60) as answer:
        return dict(json.loads(answer.read()))


def run(home: Path, *arguments: str) -> float:
    """Runs a command of Duplet's; returns the processor's seconds. Where it fails, ends with what it told."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (home / "log").open("w+") as log:
        if subprocess.run([*DUPLET, *arguments], stdout=log, stderr=log).returncode:
            log.seek(0)
            sys.exit(f"first_minutes: duplet {arguments[0]} failed:\n{log.read()[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(home: Path) -> dict[str, Any]:
    """Runs the three commands."""
    questions = write(home / "documents")
    index = str(home / "notes.index")
    figures: dict[str, Any] = {"documents": len(list((home / "documents").iterdir()))}
    began = time.monotonic()
    figures["index_cpu_s"] = run(home, "index", "--documents", str(home / "documents"), "--output", index)
    server = subprocess.Popen([*DUPLET, "search", index, "--serve", "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        page = ""
        while not page:
            if not (line := server.stderr.readline()):
                sys.exit("first_minutes: duplet search --serve ended before it served")
            page = (re.search(r"http://[\d.:]+/", line) or [""])[0]
        with urllib.request.urlopen(page, timeout=60) as answer:
            assert b"<html" in answer.read()
        asked(page, questions[0].question, "words")
        figures["untrained_s"] = time.monotonic() - began
        figures["first_by_words"] = first(page, questions, "words")
        figures["train_on_cpu_s"] = run(home, "train-on", index, "--root", str(home / "runs"))
        while not about(page)["model"]:
            time.sleep(0.1)
        asked(page, questions[0].question, about(page)["best"])
        figures["trained_s"] = time.monotonic() - began
        figures["best"] = about(page)["best"]
        figures |= {f"first_by_{mode}": first(page, questions, mode) for mode in ("model", "hybrid")}
    finally:
        server.terminate()
        server.wait()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="a folder to work in; a temporary one, if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.root) as home:
        figures = measure(Path(home))
    trained = figures["first_by_hybrid" if figures["best"] == "hybrid" else f"first_by_{figures['best']}"]
    print(
        f"{figures['documents']:,} documents: a page that answers after {figures['untrained_s']:.0f} s untrained, "
        f"{figures['trained_s']:.0f} s trained (of the processor {figures['index_cpu_s']:.0f} and "
        f"{figures['train_on_cpu_s']:.0f} s); of {ASKED} titles {figures['first_by_words']:.0%} give their document "
        f"first by words, {trained:.0%} by {figures['best']}, which validation chose"
    )
    print(json.dumps(figures))
    good = figures["untrained_s"] <= UNTRAINED_S and figures["trained_s"] <= TRAINED_S
    return 0 if good and min(figures["first_by_words"], trained) >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
