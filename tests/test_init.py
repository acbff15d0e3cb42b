"""`duplet init` and `duplet demo`: what they see in files, what they write, and that it can be run."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import guess, main
from pipeline.config import load_config

PAIRS = [("how do I sort a list", f"call its sort method, then look at line {i}", i % 2) for i in range(30)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())


def table(name: str, header: str, rows: list[Any], sep: str = "\t", encoding: str = "utf-8") -> str:
    lines = [header.replace("\t", sep), *(sep.join(map(str, row)) for row in rows)]
    Path(name).write_text("".join(line + "\n" for line in lines), encoding=encoding)
    return name


def test_a_table_of_pairs_becomes_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    name = table("pairs.tsv", "question\tanswer\tlabel", PAIRS)
    assert main.main(["init", name]) == 0
    said = capsys.readouterr()
    assert said.out == "wrote my.yaml; next: duplet run my.yaml\n"
    assert "how do I sort a list" in said.err and "of its first 30 rows" in said.err
    config = load_config("my.yaml", [])
    source: Any = config.ingest.source
    assert (config.task, source.format, source.path) == ("matching", "tsv", "pairs.tsv")
    columns = source.columns
    assert (columns.query, columns.document, columns.relevance) == ("question", "answer", "label")
    assert main.main(["init", name]) == 2
    assert "my.yaml exists: name another file with --output" in capsys.readouterr().err


def test_what_it_writes_can_be_ingested(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"question number {i} of them", f"and its answer number {i}", "no" if i % 2 else "yes") for i in range(60)]
    table("pairs.csv", "frage\tantwort\tpasst", rows, ";", "cp1252")
    Path("pairs.csv").write_bytes(Path("pairs.csv").read_bytes().replace(b"answer", "Größe".encode("cp1252")))
    assert main.main(["init", "pairs.csv"]) == 0, capsys.readouterr().err
    config = load_config("my.yaml", [])
    source: Any = config.ingest.source
    assert (source.encoding, source.delimiter, source.grades) == ("cp1252", ";", {"yes": 1, "no": 0})
    from pipeline.ingest import stage

    Path("ingested").mkdir()
    stage.run(config, Path("ingested"))
    import pyarrow.parquet as pq

    found = pq.read_table("ingested/records-train.parquet").to_pylist()
    assert len(found) > 30 and all("Größe" in row["document"] for row in found)
    assert {row["relevance"] for row in found} == {0.0, 1.0}


@pytest.mark.parametrize(
    ("header", "rows", "task", "columns"),
    [
        ("review\tstars", [(f"I liked film number {i} a lot", i % 5) for i in range(40)], "classification",
         {"text": "review", "label": "stars"}),
        ("body\ttitle\tid", [(f"a long body of many words {i} " * 9, f"a title {i}", i) for i in range(40)], "matching",
         {"query": "title", "document": "body"}),
        ("x\ty", [(f"some short text {i}", f"a text that is quite a bit longer {i}") for i in range(40)], "matching",
         {"query": "x", "document": "y"}),
        ("source\ttarget", [(f"one two {i}", f"eins zwei {i}") for i in range(40)], "translation",
         {"source": "source", "target": "target"}),
    ],
)  # fmt: skip
def test_tasks_and_columns_are_guessed(
    header: str, rows: list[Any], task: str, columns: dict[str, str], tmp_path: Path
) -> None:
    found = guess.look(table("t.tsv", header, rows), tmp_path)
    assert guess.task_of(found) == task
    assert guess.columns_for(task, found, {}) == columns


def test_a_terminal_is_asked_three_questions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    table("pairs.tsv", "question\tanswer\tlabel", PAIRS)
    monkeypatch.setattr(sys, "stdin", Terminal("\nquery=answer document=question\nother.yaml\n"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main.main(["init", "pairs.tsv"]) == 0
    said = capsys.readouterr()
    assert said.err.count("]: ") == 3 and said.out == "wrote other.yaml; next: duplet run other.yaml\n"
    source: Any = load_config("other.yaml", []).ingest.source
    assert source.columns.query == "answer" and source.columns.relevance == "label"


def test_names_that_look_like_variables_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    Path("${HOME}").mkdir()
    table("${HOME}/p.tsv", "the ${question}\tanswer\tlabel", [(q, d, "yes" if i % 2 else "no") for i, (q, d, _) in
                                                               enumerate(PAIRS)])  # fmt: skip
    columns = ["--columns", "query=the ${question}", "document=answer", "relevance=label"]
    assert main.main(["init", "${HOME}/p.tsv", *columns]) == 0, capsys.readouterr().err
    source: Any = load_config("my.yaml", []).ingest.source
    assert (source.path, source.columns.query) == ("${HOME}/p.tsv", "the ${question}")
    assert source.grades == {"yes": 1, "no": 0}


def test_documents_alone_need_no_configuration(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir
    Path("notes").mkdir()
    Path("notes/a.md").write_text("# A")
    Path("notes/b.png").write_bytes(b"")
    Path("notes/closed").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda path: scan(Path("nowhere") if Path(path).name == "closed" else path))
        assert main.main(["init", "notes"]) == 0
    said = capsys.readouterr()
    assert "1 markdown, 1 other, 1 unreadable" in said.err
    assert "duplet index --documents notes --output notes.index" in said.out
    table("faq.csv", "id\ttext", [(i, f"some words of text {i}") for i in range(9)], ",")
    assert main.main(["init", "faq.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"next": "duplet index --documents faq.csv --output faq.index"}
    assert not Path("my.yaml").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "nothing to look at: name a folder of documents or a table"),
        (["empty"], "holds no document that can be read"),
        (["empty.csv"], "empty.csv holds no row that can be read"),
        (["nowhere.csv"], "no source at"),
        (["photo.png"], "is neither a folder nor a table"),
        (["pairs.tsv", "--columns", "query=quest"], "there is no column 'quest'"),
        (
            ["pairs.tsv", "--columns", "text=question"],
            "there is no field 'text' (there are query, document, relevance)",
        ),
        (["pairs.tsv", "--columns", "question"], "must be FIELD=COLUMN"),
    ],
)
def test_mistakes_are_told(given: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("empty.csv").write_text("a,b\n")
    Path("photo.png").write_bytes(b"")
    table("pairs.tsv", "question\tanswer\tlabel", PAIRS)
    assert main.main(["init", *given]) == 2
    assert sentence in capsys.readouterr().err


def test_demos_are_listed_and_copied(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["demo"]) == 0
    assert "\ndemo " in "\n" + capsys.readouterr().out.replace("demo  ", "demo ")
    assert main.main(["demo", "demo"]) == 0
    assert capsys.readouterr().out == "wrote demo.yaml; next: duplet run demo.yaml\n"
    assert load_config("demo.yaml", []).name == "demo"
    assert main.main(["demo", "demo"]) == 2
    assert "demo.yaml exists" in capsys.readouterr().err
    assert main.main(["demo", "wikiqs"]) == 2
    assert "did you mean wikiqa?" in capsys.readouterr().err


def test_a_task_that_is_none_is_said_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["init", "pairs.csv", "--task", "matchin"])
    assert ended.value.code == 2
    assert (
        "'matchin' is not one of matching, classification, translation; did you mean matching?"
        in capsys.readouterr().err
    )
