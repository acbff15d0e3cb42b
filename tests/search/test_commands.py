"""`duplet index` and `duplet search` as a person calls them, with the real encoder over random parameters."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.commands import index as index_command
from pipeline.cli.main import main
from pipeline.core import atomic_files
from pipeline.tokenization.tokenizers import WordTokenizer
from tests.conftest import last_json
from tests.search.conftest import topical, write_lines
from tests.search.models import model_folder

WORDS = sorted({token for document in topical(12) for token in WordTokenizer(True).tokens(document.text)})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model") / "a", WORDS)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model") / "b", WORDS, seed=1)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "docs.jsonl", (document._asdict() for document in topical(12)))


def run(*arguments: Any, given: str = "") -> subprocess.CompletedProcess[str]:
    """`duplet …` in this process, which spares a second of importing each time; `given` comes by stdin."""
    out, err, before = io.StringIO(), io.StringIO(), (sys.stdin, signal.getsignal(signal.SIGTERM))
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(given.encode())))  # type: ignore[arg-type]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*map(str, arguments)])
    finally:
        sys.stdin = before[0]
        signal.signal(signal.SIGTERM, before[1])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture
def index(tmp_path: Path, model: Path, documents: Path) -> Path:
    done = run("index", model, "--documents", documents, "--output", tmp_path / "index", "--name", "Topics")
    assert done.returncode == 0, done.stderr
    assert "12 documents in 12 passages" in done.stdout and "12 encoded" in done.stdout
    return tmp_path / "index"


def test_build_search_update_search(index: Path, model: Path, documents: Path) -> None:
    query = topical(12)[5].text
    found = last_json(run("search", index, query, "--k", 3, "--json"))
    assert found["results"][0]["id"] == "d5" and found["index"] == "Topics" and len(found["results"]) == 3
    rows = [json.loads(line) for line in documents.read_text().splitlines()]
    rows[5]["text"] = "moon " * 4
    write_lines(documents, [*rows, {"text": "no id"}])
    changed = run("index", model, "--documents", documents, "--output", index, "--delete", "d0", "--json")
    result = last_json(changed)
    assert (result["encoded"], result["unchanged"], result["deleted"]) == (1, 11, 1)
    assert "1 of 13 rows put aside in index.quarantine.jsonl; the first: docs.jsonl:13: missing field" in changed.stderr
    found = last_json(run("search", index, query, "--k", 12, "--hybrid", "--json"))
    assert len(found["results"]) == 11 and "d0" not in [r["id"] for r in found["results"]]


def test_results_are_plain_in_a_pipe_and_marked_on_a_terminal(index: Path) -> None:
    plain = run("search", index, "own5", "--words")
    assert plain.returncode == 0 and re.match(r"  1  \d\.\d{3}  d5\n", plain.stdout) and "\x1b" not in plain.stdout
    command = f"{sys.executable} -m pipeline.cli search {index} own5 --words"
    shown = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, timeout=60,
                           env={**os.environ, "TERM": "xterm", "COLUMNS": "100"})  # fmt: skip
    assert "own\x1b[1;33m5\x1b[0m" in shown.stdout


def test_queries_come_by_lines(index: Path) -> None:
    done = run("search", index, "--k", 1, "--json", given="wing lift\n\nmoon wave\n")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["query"] for answer in answers] == ["wing lift", "moon wave"]
    assert all(len(answer["results"]) == 1 for answer in answers)


def test_odd_queries_get_clear_answers(index: Path) -> None:
    lines = "word " * 100_000 + "\nzork quux\n<script>alert('x')</script>\n\x1b[0m wing\n"
    done = run("search", index, "--json", given=lines)
    assert done.returncode == 0, done.stderr
    long, unknown, markup, colour = (json.loads(line) for line in done.stdout.splitlines())
    assert long["notices"][0] == "only the query's first 12 tokens count: no more are read"
    assert unknown["results"] == [] and "no document holds one of them" in unknown["notices"][0]
    assert markup["results"] == [] and colour["results"]
    assert "\x1b" not in run("search", index, given="\x1b[0m wing\n").stdout


def test_columns_are_remembered(tmp_path: Path, model: Path) -> None:
    faq = tmp_path / "faq.csv"
    faq.write_text("number,question,reply\n1,wing lift,wing flow\n2,moon,tide wave\n")
    arguments = ("index", model, "--documents", faq, "--output", tmp_path / "faq", "--json")
    assert last_json(run(*arguments, "--columns", "id=number", "title=question", "text=reply"))["encoded"] == 2
    assert last_json(run(*arguments))["unchanged"] == 2
    (result,) = last_json(run("search", tmp_path / "faq", "moon", "--k", 1, "--json"))["results"]
    assert (result["id"], result["title"], result["passage"]) == ("2", "moon", "tide wave")


def test_mistakes_are_told_in_a_sentence(
    index: Path, model: Path, other: Path, documents: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    half.mkdir()
    for path in (path for path in model.iterdir() if path.is_file()):
        (half / path.name).write_bytes(path.read_bytes()[: 200 if path.name == "parameters.npz" else None])
    empty = write_lines(tmp_path / "empty.jsonl", [])
    bad = write_lines(tmp_path / "bad.jsonl", [{"id": "x"}, {"text": "y"}])
    new = tmp_path / "new"
    cases = [
        (
            ("index", "nonsense", "--documents", documents, "--output", new),
            "no model 'nonsense': give a configuration (.yaml), a model's folder",
        ),
        (("index", half, "--documents", documents, "--output", new), "parameters.npz has 200 bytes instead of"),
        (("index", model, "--documents", empty, "--output", new), "holds no documents"),
        (
            ("index", model, "--documents", bad, "--output", new),
            "none of the 2 rows is a document; the first: bad.jsonl:1",
        ),
        (("index", model, "--output", new), "nothing to do: give --documents FOLDER (or a file), or --delete ID"),
        (("index", model, "--delete", "x", "--output", new), "does not exist"),
        (("index", other, "--documents", documents, "--output", index), "was built with model"),
        (("index", model, "--documents", documents, "--output", documents), "exists and is not an index"),
        (("search", new, "wing"), "does not exist: build it with `duplet index --documents"),
        (
            ("search", tmp_path, "wing"),
            f"build one of what is there with `duplet index --documents {tmp_path} --output",
        ),
        (("search", index, " "), "the query is empty"),
        (("search", index, "wing", "--model", other), "whose vectors cannot be compared"),
        (("search", index, "wing", "--serve"), "--serve takes no query"),
        (("search", index, "wing", "--model", tmp_path / "none.yaml"), "no configuration at"),
    ]
    for arguments, sentence in cases:
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), (arguments, done)
        assert sentence in done.stderr and "Traceback" not in done.stderr, (arguments, done.stderr)
    assert not new.exists()


@pytest.mark.parametrize("given", ["two", "0", "-1", "1.5"])
def test_a_count_that_is_none_is_told(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["index", "model", "--documents", "x.jsonl", "--output", "new", f"--threads={given}"])
    wanted = f"argument --threads: must be a whole number of at least 1, not '{given}'"
    assert capsys.readouterr().err.splitlines()[-1].endswith(wanted)


def test_a_model_that_moved_is_named(index: Path, model: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    model.rename(moved)
    try:
        done = run("search", index, "wing")
        assert done.returncode == 2 and "name it with --model" in done.stderr
        assert run("search", index, "wing", "--model", moved).returncode == 0
    finally:
        moved.rename(model)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_build_that_was_stopped_goes_on(tmp_path: Path, model: Path, number: signal.Signals) -> None:
    text = " ".join(WORDS * 12)
    documents = write_lines(tmp_path / "docs.jsonl", ({"id": f"d{i}", "text": f"{text} {i}"} for i in range(60)))
    arguments = ["index", str(model), "--documents", str(documents), "--output", str(tmp_path / "index"),
                 "--documents-per-segment", "2", "--threads", "1"]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "pipeline.cli", *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = [process.stderr.readline(), process.stderr.readline()]
    assert "is not evaluated" in first[0] and "encoded 2/60" in first[1], first
    process.send_signal(number)
    code = process.wait(60)
    if number == signal.SIGTERM:
        assert code == 75 and re.search(r"stopped; \d+ of 60 documents are encoded and kept", process.stderr.read())
    assert not (tmp_path / "index").exists()
    result = last_json(run(*arguments, "--json"))
    assert result["reused"] >= 2 and result["reused"] + result["encoded"] == 60 and result["documents"] == 60


def test_the_page_is_served_until_a_signal(index: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "search", str(index), "--serve", "--port", "0"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    address = re.search(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())
    assert address is not None
    with urllib.request.urlopen(address[0] + "health", timeout=30) as answer:
        assert json.loads(answer.read())["name"] == "Topics"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_folder_is_searched_without_a_model(tmp_path: Path, model: Path) -> None:
    folder, index = tmp_path / "docs", tmp_path / "index"
    folder.mkdir()
    (folder / "wing.md").write_text(
        "---\nurl: https://example.org/w\ndate: 2024-05-06\n---\n# Wings\n\nflows and lifts\n"
    )
    (folder / "tide.txt").write_text("The moon makes waves.")
    (folder / "blank.txt").write_text("")
    (folder / "photo.png").write_bytes(b"x")
    done = run("index", "--documents", folder, "--output", index)
    assert done.returncode == 0, done.stderr
    assert "2 documents in 2 passages, no model (ranked by words)" in done.stdout
    assert "1 of 3 files put aside in index.quarantine.jsonl; the first: blank.txt: empty text" in done.stderr
    assert "left out, as not read: 1 .png (1 file)" in done.stderr
    found = last_json(run("search", index, "lifting flow", "--json"))
    assert [result["id"] for result in found["results"]] == ["wing.md"] and found["mode"] == "words"
    assert found["results"][0]["fields"]["url"] == "https://example.org/w"
    assert "2024-05-06 · https://example.org/w" in run("search", index, "flow").stdout
    assert "the index has no model" in run("search", index, "flow", "--hybrid").stdout
    (folder / "tide.txt").unlink()
    again = last_json(run("index", "--documents", folder, "--output", index, "--sync", "--json"))
    assert (again["unchanged"], again["deleted"], again["encoded"]) == (1, 1, 0)
    joined = run("index", model, "--output", index)
    assert joined.returncode == 0 and "1 documents in 1 passages, 6 vectors" in joined.stdout, joined
    assert last_json(run("search", index, "flow", "--json"))["mode"] == "model"
    (folder / "heart.txt").write_text("A pulse of blood.")
    again = last_json(run("index", "--documents", folder, "--output", index, "--json"))
    assert (again["unchanged"], again["encoded"]) == (1, 1), "by the model that the index has"


def test_what_cannot_be_read_now_does_not_leave_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that fails for a moment, or rights that changed: with --sync too."""
    folder, scan = tmp_path / "docs", os.scandir
    for name in ("a", "sub/deep", "sub0", "subject"):
        (folder / name).mkdir(parents=True)
        (folder / name / "one.txt").write_text(f"words of {name}")
    arguments = ("index", "--documents", folder, "--output", tmp_path / "index", "--sync")
    assert run(*arguments).returncode == 0

    def closed(path: Any) -> Any:
        if isinstance(path, Path) and path.name == "sub":
            raise OSError(5, "Input/output error", str(path))
        return scan(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", closed)
        (folder / "subject" / "one.txt").unlink()
        done = run(*arguments, "--json")
    assert (last_json(done)["documents"], last_json(done)["deleted"]) == (3, 1)
    assert "the first: sub: unreadable: Input/output error" in done.stderr
    assert "1 documents stay as they are: their files cannot be read" in done.stderr
    (folder / "sub" / "deep" / "one.txt").unlink()
    assert last_json(run(*arguments, "--json"))["deleted"] == 1


def test_an_update_that_waits_leaves_the_other_ones_quarantine_and_takes_its_index(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two first calls at once, the second without a model: it begins before the first has made the index."""
    index, quarantine, lock = tmp_path / "index", tmp_path / "index.quarantine.jsonl", atomic_files.lock
    first = write_lines(tmp_path / "first.jsonl", [{"n": "a", "said": "wing lift"}, {"n": "b"}])
    second = write_lines(tmp_path / "second.jsonl", [{"n": "a", "said": "wing lift"}, {"n": "c", "said": "moon tide"}])

    @contextlib.contextmanager
    def after_the_other(path: Path) -> Iterator[bool]:
        monkeypatch.setattr(atomic_files, "lock", lock)
        before = ("index", model, "--documents", first, "--columns", "id=n", "text=said", "--output", index)
        assert run(*before).returncode == 0 and len(quarantine.read_text().splitlines()) == 1
        with lock(path):
            yield True

    quarantine.write_text("of an update that is at work\n")
    seen: list[str] = []
    check = index_command._check
    monkeypatch.setattr(index_command, "_check", lambda *given: seen.append(quarantine.read_text()) or check(*given))
    monkeypatch.setattr(atomic_files, "lock", after_the_other)
    done = run("index", "--documents", second, "--columns", "id=n", "text=said", "--output", index, "--json")
    assert seen[0] == seen[1] == "of an update that is at work\n", "when it began, and when it came to the lock"
    assert "waited for another update" in done.stderr
    assert (last_json(done)["unchanged"], last_json(done)["encoded"]) == (1, 1), "by the model of the other's index"
    assert not quarantine.exists()


def test_mistakes_with_folders_are_told(tmp_path: Path, model: Path) -> None:
    folder, index = tmp_path / "docs", tmp_path / "index"
    folder.mkdir()
    cases = [
        (("index", "--documents", folder, "--output", index), "holds no file to read"),
        (("index", folder, "--output", index), "is a folder without a model; for its files: `duplet index --documents"),
        (("index", "--output", index), "nothing to do: give --documents FOLDER"),
        (("index", "--documents", tmp_path / "no", "--output", index), "no source at"),
        (("index", "--documents", folder, "--columns", "text=a", "--output", index), "are for tables"),
    ]
    for arguments, sentence in cases:
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "") and sentence in done.stderr, (arguments, done)
    (folder / "a.txt").write_text("moon")
    assert run("index", "--documents", folder, "--output", index).returncode == 0
    done = run("search", index, "moon", "--model", model)
    assert (
        done.returncode == 2 and "has no model: leave --model out, or let the model join it with `duplet" in done.stderr
    )
