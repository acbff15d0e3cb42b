"""`duplet predict` and `duplet export` as a person runs them, and what bad rows, cuts and changes do."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError, TryAgain
from pipeline.ingest.rows import BadRow, Row
from pipeline.serving.loading import open_encoder, open_predictor
from pipeline.serving.predict import files
from tests.conftest import last_json

Trained = Callable[..., Path]
ROWS = [
    {"id": i, "query": f"{'abc'[i % 3]} sort", "document": " ".join("list" for _ in range(1 + i % 7))}
    for i in range(50)
]
SAY = lambda line: None


def duplet(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_is_scored_in_order_and_bad_rows_are_put_aside(trained: Trained, tmp_path: Path) -> None:
    folder = trained(head="late_interaction")
    bad = [
        '{"query": \n',
        {"query": "a"},
        "[1]\n",
        {"query": "a", "document": 7.5, "documents": "b"},
        {"query": "", "document": "b"},
    ]
    source = write_rows(tmp_path / "in.jsonl", [*ROWS[:20], *bad, *ROWS[20:]])
    output = tmp_path / "out" / "scores.jsonl"
    found = last_json(duplet("predict", str(folder), "--input", str(source), "--output", str(output), "--json"))
    assert (found["read"], found["predicted"], found["refused"]) == (55, 50, 5)
    rows = read_rows(output)
    assert [row["id"] for row in rows] == list(range(50))
    wanted = open_encoder(folder, "mxnet").score([r["query"] for r in ROWS], [r["document"] for r in ROWS])  # type: ignore[misc]
    np.testing.assert_allclose([row["score"] for row in rows], wanted, atol=1e-5)
    refused = read_rows(tmp_path / "out" / "scores.jsonl.quarantine.jsonl")
    assert [row["row"] for row in refused] == [21, 22, 23, 24, 25]
    for row, reason in zip(refused, ("no JSON", "no 'document'", "no JSON object", "no list", "'query' is empty")):
        assert reason in row["reason"]
    assert sorted(path.name for path in output.parent.iterdir()) == ["scores.jsonl", "scores.jsonl.quarantine.jsonl"]


def test_mxnet_on_request_gives_the_same(trained: Trained, tmp_path: Path) -> None:
    folder, source = trained(), write_rows(tmp_path / "in.jsonl", ROWS[:5])
    scores: list[list[float]] = []
    for backend in ("onnx", "mxnet"):
        output = tmp_path / f"{backend}.jsonl"
        asked = ("--input", str(source), "--output", str(output), "--backend", backend, "--json")
        last_json(duplet("predict", str(folder), *asked))
        scores.append([row["score"] for row in read_rows(output)])
    np.testing.assert_allclose(*scores, atol=1e-5)


@pytest.mark.parametrize("kind", ("csv", "tsv", "parquet", "jsonl"))
def test_every_format_in_and_out(trained: Trained, tmp_path: Path, kind: str) -> None:
    """Rows go through a format and back; a document with delimiters, quotes and a line end in it stays whole."""
    predictor = open_predictor(trained(), threads=1)
    rows = [{"query": "a, b", "document": 'list "c"'}, {"query": "d", "document": "sort"}]
    if kind in ("csv", "parquet"):
        rows[1]["document"] = "sort\nlist"
    plain, middle, back = (tmp_path / name for name in ("in.jsonl", f"middle.{kind}", "back.jsonl"))
    write_rows(plain, rows)
    for source, sink in ((plain, middle), (middle, back)):
        at = files.predict_file(
            predictor, str(source), source.suffix[1:], sink, sink.suffix[1:], "id", 1 << 20, False, SAY
        )
        assert (at.predicted, at.refused) == (2, 0)
    made = read_rows(back)
    assert [{name: row[name] for name in ("query", "document")} for row in made] == rows
    wanted = predictor.predict(rows)
    assert [row["predicted_score"] for row in made] == [row["score"] for row in wanted]
    assert [float(row["score"]) for row in made] == [row["score"] for row in wanted]  # a column of the second input
    if kind == "parquet":
        assert pq.read_table(middle)["score"].type == "double"
    if kind == "csv":
        assert [row["document"] for row in csv.DictReader(middle.open(newline=""))] == [r["document"] for r in rows]


def test_a_list_of_documents_is_ranked(trained: Trained) -> None:
    predictor = open_predictor(trained({"kind": "pointwise", "grades": 3}), threads=1)
    row = {"query": "a", "documents": ["b", "c d", "b"]}
    (found,) = predictor.predict([row])
    pairs = predictor.predict([{"query": "a", "document": document} for document in row["documents"]])
    assert found["scores"] == pytest.approx([pair["score"] for pair in pairs], abs=1e-6)
    assert found["grades"] == [pair["grade"] for pair in pairs]
    assert sorted(found["ranks"]) == [1, 2, 3]
    assert found["ranks"][0] < found["ranks"][2]  # equal: the list's order
    best = found["ranks"].index(1)
    assert found["scores"][best] == max(found["scores"])
    missing = float("nan")  # as a table's empty cell comes from pandas
    mixed = [row | {"document": missing}, {"query": "a", "document": "b", "documents": missing}]
    assert predictor.predict(mixed) == [found, pairs[0]]
    for pair in pairs:
        assert sum(pair["probabilities"]) == pytest.approx(1)
        assert pair["grade"] == int(np.argmax(pair["probabilities"]))


class Cut(Exception):
    """Stands for a kill."""


class Stopping:
    """A predictor that is cut off after so many batches, and remembers what it was asked."""

    def __init__(self, inner: Any, batches: int) -> None:
        self.inner, self.left, self.fields, self.asked = inner, batches, inner.fields, 0
        self.check = inner.check

    def predict(self, rows: Any) -> Any:
        if not self.left:
            raise Cut
        self.left -= 1
        self.asked += len(rows)
        return self.inner.predict(rows)


def test_a_cut_off_run_goes_on_where_it_was(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROWS_PER_BATCH", 8)
    predictor = open_predictor(trained(), threads=1)
    source = write_rows(tmp_path / "in.jsonl", [*ROWS[:4], "nonsense\n", *ROWS[4:30], "[]\n", *ROWS[30:]])
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    run = lambda predictor, path, identity="same", restart=False: files.predict_file(
        predictor, str(source), "jsonl", path, "jsonl", identity, 1 << 20, restart, SAY
    )
    run(predictor, whole)
    with pytest.raises(Cut):
        run(Stopping(predictor, 3), output)
    assert not output.exists()
    with (tmp_path / ".out.jsonl.partial").open("ab") as partial:
        partial.write(b'{"id": 23, "sco')  # what a kill may leave behind the last position
    with pytest.raises(InputError, match="--restart"):
        run(predictor, output, "another model")
    rest = Stopping(predictor, 100)
    at = run(rest, output)
    assert rest.asked == 50 - 3 * 8 + 1  # one of the first 24 rows was bad
    assert (at.read, at.predicted, at.refused) == (52, 50, 2)
    assert output.read_text() == whole.read_text()
    quarantine = [row["row"] for row in read_rows(tmp_path / "out.jsonl.quarantine.jsonl")]
    assert quarantine == [5, 32]

    with pytest.raises(Cut):
        run(Stopping(predictor, 3), output, "another model")
    again = Stopping(predictor, 100)
    run(again, output, "same", restart=True)
    assert again.asked == 50
    assert output.read_text() == whole.read_text()


def test_a_row_that_only_predicting_shows_to_be_bad(trained: Trained, tmp_path: Path) -> None:
    predictor = open_predictor(trained(), threads=1)

    class Picky(Stopping):
        def predict(self, rows: Any) -> Any:
            if any(row["query"].startswith("b") for row in rows):
                raise InputError("no b")
            return super().predict(rows)

    source, output = write_rows(tmp_path / "in.jsonl", ROWS[:9]), tmp_path / "out.jsonl"
    at = files.predict_file(Picky(predictor, 100), str(source), "jsonl", output, "jsonl", "x", 1 << 20, False, SAY)
    assert (at.predicted, at.refused) == (6, 3)
    assert [row["id"] for row in read_rows(output)] == [0, 2, 3, 5, 6, 8]
    refused = read_rows(tmp_path / "out.jsonl.quarantine.jsonl")
    assert [(row["row"], row["reason"]) for row in refused] == [(n, "cannot be predicted: no b") for n in (2, 5, 8)]


def test_a_bad_row_among_many_leaves_the_others_together(trained: Trained) -> None:
    """A bad image, say: of 1,024 rows the halves that have it are asked again, 2 log2(1,024) calls, not each row."""
    calls: list[int] = []

    class Picky(Stopping):
        def predict(self, rows: Any) -> Any:
            calls.append(len(rows))
            if any(row["query"] == "bad" for row in rows):
                raise InputError("bad")
            return [{"score": row["id"]} for row in rows]

    rows = [{"id": i, "query": "bad" if i == 700 else "good", "document": "list"} for i in range(1024)]
    batch = [Row("in.jsonl", i + 1, row, "", None) for i, row in enumerate(rows)]
    outcomes = [outcome for _, outcome in files._predictions(Picky(open_predictor(trained(), threads=1), 0), batch)]
    assert [i for i, outcome in enumerate(outcomes) if isinstance(outcome, BadRow)] == [700]
    assert [outcome for i, outcome in enumerate(outcomes) if i != 700] == [
        {"score": i} for i in range(1024) if i != 700
    ]
    assert len(calls) == 21
    assert sorted(calls)[-3:] == [512, 512, 1024]


def test_a_changed_input_is_not_gone_on_with(trained: Trained, tmp_path: Path) -> None:
    folder, source, output = trained(), write_rows(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    position = files.Position("of something else", read=20)
    (tmp_path / ".out.jsonl.position").write_text(json.dumps(position.__dict__))
    refused = duplet("predict", str(folder), "--input", str(source), "--output", str(output))
    assert refused.returncode == 2
    assert "--restart" in refused.stderr.splitlines()[-1]
    assert not output.exists()
    done = duplet("predict", str(folder), "--input", str(source), "--output", str(output), "--restart")
    assert done.returncode == 0, done.stderr
    assert len(read_rows(output)) == 50


def test_two_runs_do_not_write_one_output(trained: Trained, tmp_path: Path) -> None:
    import fcntl

    predictor, source = open_predictor(trained(), threads=1), write_rows(tmp_path / "in.jsonl", ROWS[:3])
    with (tmp_path / ".out.jsonl.partial").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TryAgain, match="another run"):
            files.predict_file(
                predictor, str(source), "jsonl", tmp_path / "out.jsonl", "jsonl", "x", 1 << 20, False, SAY
            )


def test_pipes(trained: Trained) -> None:
    rows = json.dumps(ROWS[0]) + "\n[]\n" + json.dumps(ROWS[1]) + "\n"
    done = duplet("predict", str(trained()), "--input", "-", "--output", "-", input=rows)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [0, 1]
    assert "row 2 left out: no JSON object" in done.stderr


@pytest.mark.parametrize("output", ["-", "out.jsonl"])
def test_a_pipe_without_a_good_row_is_told(trained: Trained, tmp_path: Path, output: str) -> None:
    output = output if output == "-" else str(tmp_path / output)
    asked = ("predict", str(trained()), "--input", "-", "--output", output)
    done = duplet(*asked, input="query,document\nsort,list\n")
    assert done.returncode == 2 and done.stdout == ""
    sentence = done.stderr.splitlines()[-1]
    assert "none of the 2 rows of standard input can be predicted; the first: row 1: no JSON" in sentence
    assert "is read as JSON Lines: give a file of another format by its name" in sentence
    empty = duplet(*asked, input="")
    assert empty.returncode == 2 and "standard input holds no rows" in empty.stderr


def test_bad_input_is_one_sentence(trained: Trained, tmp_path: Path) -> None:
    folder = str(trained())
    empty, other = write_rows(tmp_path / "empty.jsonl", []), write_rows(tmp_path / "other.jsonl", [{"title": "x"}])
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 nothing")
    predictor = open_predictor(Path(folder), threads=1)
    for source, sentence in (
        (empty, "holds no rows"),
        (other, "no 'query'; the row has title"),
        (damaged, "is not a Parquet file"),
    ):
        with pytest.raises(InputError, match=sentence):
            files.predict_file(
                predictor, str(source), source.suffix[1:], tmp_path / "out.jsonl", "jsonl", "x", 1 << 20, False, SAY
            )
        assert not (tmp_path / "out.jsonl").exists()
    unnamed = duplet("predict", folder, "--input", str(empty), "--output", str(tmp_path / "out.txt"))
    assert unnamed.returncode == 2
    assert "--format" in unnamed.stderr
    unknown = duplet(
        "predict", "models:/none@champion", "--input", str(other), "--output", "-", "--root", str(tmp_path)
    )
    assert unknown.returncode == 2
    assert "Traceback" not in unknown.stderr
    assert "models:/none@champion" in unknown.stderr


def test_a_registry_that_does_not_answer(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", ROWS[:1])
    done = duplet(
        "predict", "models:/m@champion", "--input", str(source), "--output", "-", "--uri", "http://127.0.0.1:9"
    )
    assert done.returncode == 75
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr


# --- export -----------------------------------------------------------------------------------------------------------
def test_export_is_whole_and_scores_alike(trained: Trained, tmp_path: Path) -> None:
    folder = trained(head="mlp", towers="separate")
    found = last_json(duplet("export", str(folder), "--root", str(tmp_path), "--json"))
    exported = Path(found["folder"])
    assert exported == tmp_path / "export" / "small-onnx"
    names = {path.name for path in exported.iterdir()}
    assert {"query_encoder.onnx", "document_encoder.onnx", "matcher.onnx", "vocabulary.json", "tokenizer.json"} <= names
    assert {"README.md", "card.json", "manifest.json"} <= names
    scores = [open_predictor(place, threads=1).predict(ROWS[:4]) for place in (folder, exported)]
    assert scores[0] == scores[1]
    assert "mlp" in (exported / "README.md").read_text()


def test_int8_without_its_data_says_so(trained: Trained, tmp_path: Path) -> None:
    done = duplet("export", str(trained()), "--root", str(tmp_path), "--int8", "--json")
    assert last_json(done)["int8_cost"]["measured"] is False
    assert "was not measured" in done.stderr
    assert "was not measured" in (tmp_path / "export" / "small-onnx-int8" / "README.md").read_text()


def test_int8_of_a_gru_is_refused_and_nothing_is_left(trained: Trained, tmp_path: Path) -> None:
    done = duplet("export", str(trained(cell="gru")), "--output", str(tmp_path / "out"), "--int8")
    assert done.returncode == 2
    assert "model.cell=lstm" in done.stderr
    assert not list(tmp_path.glob("*out*"))


def test_export_writes_over_no_other_folder(trained: Trained, tmp_path: Path) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    done = duplet("export", str(trained()), "--output", str(other))
    assert done.returncode == 2
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


def test_an_exported_folder_is_exported_again_with_its_origin(trained: Trained, tmp_path: Path) -> None:
    folder = trained()
    for source, output in ((folder, "one"), (tmp_path / "one", "two")):
        last_json(duplet("export", str(source), "--output", str(tmp_path / output), "--json"))
    cards = [json.loads((tmp_path / name / "card.json").read_text()) for name in ("one", "two")]
    assert cards[0] == cards[1]
    assert cards[0]["trained"]["figures"] == {"updates": 1}
    assert cards[0]["data"]["path"] == "pairs.jsonl"
