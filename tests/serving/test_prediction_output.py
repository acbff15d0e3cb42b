"""What predicting writes: all of the input's columns and the prediction beside them, in every format."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import task_specs
from pipeline.core.errors import DupletError, InputError
from pipeline.serving.loading import open_predictor
from pipeline.serving.predict import files
from pipeline.tasks import decoding
from tests.serving.task_models import config_of, rows_of, write_task

SAID: dict[str, dict[str, Any]] = {
    "matching": {"score": 0.5},
    "matching, pointwise": {"score": 0.5, "grade": 1, "probabilities": [0.25, 0.75]},
    "matching, a list": {"scores": [0.5, 0.25], "ranks": [1, 2], "grades": [1, 0], "probabilities": [[1.0], [1.0]]},
    "classification": {"label": "good", "probabilities": {"bad": 0.25, "good": 0.75}},
    "tagging": {"words": ["a"], "tags": ["O"]},
    "cloze": {"fillings": [[{"word": "a", "probability": 0.5}]]},
    "language_model": {"tokens": 1, "nats": 0.5, "perplexity": 1.5},
    "translation": {"target": "ja", "score": -0.5},
    "captioning": {"caption": "a dog", "score": -0.5},
}


class Saying:
    """A predictor that says the same of every row."""

    backend, fields, config = "mxnet", ("text",), None

    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said

    def check(self, row: Any) -> None:
        pass

    def predict(self, rows: Any) -> list[dict[str, Any]]:
        return [dict(self.said) for _ in rows]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            table.writeheader()
            table.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t", quoting=csv.QUOTE_MINIMAL))


def predict(predictor: Any, source: Path, output: Path, say: Callable[[str], None] = lambda line: None) -> Any:
    kinds = source.suffix[1:], output.suffix[1:]
    return files.predict_file(predictor, str(source), kinds[0], output, kinds[1], "identity", 1 << 20, False, say)


@pytest.mark.parametrize(
    "kinds", ["jsonl jsonl", "csv csv", "tsv tsv", "parquet parquet", "csv jsonl", "jsonl parquet"]
)
@pytest.mark.parametrize("task", SAID)
def test_no_column_of_the_input_is_lost(task: str, kinds: str, tmp_path: Path) -> None:
    """A labelled file has the very columns that are predicted; its values are other than what is said."""
    source, output = (tmp_path / f"{name}.{kind}" for name, kind in zip(("in", "out"), kinds.split()))
    rows = [{"text": f"t{i}", **{name: f"given {name} {i}" for name in SAID[task]}} for i in range(3)]
    lines: list[str] = []
    predict(Saying(SAID[task]), write(source, rows), output, lines.append)
    found = read(output)
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    predicted = {f"predicted_{name}": value for name, value in SAID[task].items()}
    assert list(found[0]) == [*rows[0], *predicted]
    for row in found:
        for name, value in predicted.items():
            written = (
                row[name]
                if output.suffix in (".jsonl", ".parquet") or isinstance(value, str)
                else json.loads(row[name])
            )
            assert written == value
    for name in SAID[task]:
        assert f"the input has a column {name!r}: the prediction is in 'predicted_{name}'" in lines


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_other_names_stay_as_they_are(kind: str, tmp_path: Path) -> None:
    source, output = (tmp_path / f"{name}.{kind}" for name in ("in", "out"))
    lines: list[str] = []
    predict(Saying({"label": "good", "score": 2}), write(source, [{"text": "a", "score": "7"}]), output, lines.append)
    assert list(read(output)[0]) == ["text", "score", "label", "predicted_score"]
    assert not [line for line in lines if "'label'" in line]


def test_predicting_what_was_predicted_keeps_both(tmp_path: Path) -> None:
    once, twice, thrice = (tmp_path / f"{name}.jsonl" for name in ("once", "twice", "thrice"))
    predict(Saying({"label": "first"}), write(tmp_path / "in.jsonl", [{"label": "given"}]), once)
    predict(Saying({"label": "second"}), once, twice)
    predict(Saying({"label": "third"}), twice, thrice)
    wanted = {"label": "given", "predicted_label": "first", "predicted_label_2": "second", "predicted_label_3": "third"}
    assert read(thrice) == [wanted]


def test_a_column_of_a_late_row_counts_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON Lines may differ from row to row: of a file all predictions have one name."""
    monkeypatch.setattr(files, "ROWS_PER_BATCH", 2)
    rows = [{"text": f"t{i}"} for i in range(5)] + [{"text": "t5", "label": "given"}]
    predict(Saying({"label": "good"}), write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == [row | {"predicted_label": "good"} for row in rows]


def test_a_stream_changes_a_name_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROWS_PER_BATCH", 2)
    rows = [{"text": "a"}, {"text": "b"}, {"text": "c", "label": "given"}, {"text": "d"}, {"text": "e"}]
    numbered = [files.Row("in", i, row, "", None) for i, row in enumerate(rows, 1)]  # type: ignore[attr-defined]
    stream, lines = io.BytesIO(), list[str]()
    files.predict_stream(Saying({"label": "good"}), "-", iter(numbered), stream, lines.append)  # type: ignore[arg-type]
    names = ["label"] * 2 + ["predicted_label"] * 3
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        row | {name: "good"} for row, name in zip(rows, names)
    ]
    assert lines == ["the input has a column 'label': the prediction is in 'predicted_label'"]


@pytest.mark.parametrize("output", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("given", ["jsonl", "parquet"])
def test_what_is_no_number_is_null(given: str, output: str, tmp_path: Path) -> None:
    """JSON has no NaN and no Infinity, whether the input or the model has them."""
    source, made = tmp_path / f"in.{given}", tmp_path / f"out.{output}"
    rows = [{"text": "a", "price": math.nan, "list": [1.5, math.inf]}, {"text": "b", "price": 2.5, "list": [-math.inf]}]
    predict(Saying({"score": math.nan}), write(source, rows), made)
    nothing = "" if output == "csv" else None
    found = read(made)
    assert [row["score"] for row in found] == [nothing] * 2
    assert [row["price"] for row in found] == ([nothing, "2.5"] if output == "csv" else [None, 2.5])
    lists = [json.loads(row["list"]) if output == "csv" else row["list"] for row in found]
    assert lists == [[1.5, None], [None]]


def test_an_integer_too_large_for_parquet_is_said(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": "a", "id": 2**70}])
    with pytest.raises(InputError, match=r"do not fit Parquet's columns .*\.jsonl"):
        predict(Saying({"score": 1.0}), source, tmp_path / "out.parquet")
    predict(Saying({"score": 1.0}), source, tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == [{"text": "a", "id": 2**70, "score": 1.0}]


def test_a_prediction_too_few_is_refused(tmp_path: Path) -> None:
    predictor = Saying({"score": 1.0})
    predictor.predict = lambda rows: [{"score": 1.0}] * (len(rows) - 1)  # type: ignore[method-assign]
    source = write(tmp_path / "in.jsonl", [{"text": "a"}, {"text": "b"}])
    with pytest.raises(DupletError, match="1 predictions for 2 rows"):
        predict(predictor, source, tmp_path / "out.jsonl")


class FirstRow:
    """A graph that gives what it makes of the first row alone, which NumPy would spread over all of them."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def get_outputs(self) -> Any:
        return self.session.get_outputs()

    def run(self, names: Any, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [array[:1] for array in self.session.run(names, given)]


@pytest.mark.parametrize(
    "task", [name for name, task in task_specs().items() if name != "matching" and task.onnx and task.onnx.open]
)
def test_a_graph_that_gives_fewer_rows_is_refused(task: str, tmp_path: Path) -> None:
    options = {"tagging": {"characters": True, "crf": True}} if task == "tagging" else {}
    write_task(tmp_path / "trained", config_of(task, **options))
    predictor: Any = open_predictor(tmp_path / "trained", threads=1)
    rows = rows_of(task, ["a b", "c d", "sort list"])
    assert len(predictor.predict(rows)) == 3
    writer = getattr(predictor, "writer", None)
    for holder, name in ((writer, "_reader"), (writer, "_step")) if writer else ((predictor, "_session"),):
        whole = getattr(holder, name)
        setattr(holder, name, FirstRow(whole))
        with pytest.raises(InputError, match=r"graph gave \(1, .*: export the model again"):
            predictor.predict(rows)
        setattr(holder, name, whole)


@pytest.mark.parametrize("backend", ["onnx", "mxnet"])
@pytest.mark.parametrize("head", ["cosine", "late_interaction"])
def test_a_matching_network_that_gives_fewer_rows_is_refused(
    head: str, backend: Any, trained: Callable[..., Path]
) -> None:
    predictor: Any = open_predictor(trained(head=head), backend, threads=1)
    rows = [{"query": "a", "document": "b"}, {"query": "c", "document": "d"}]
    assert len(predictor.predict(rows)) == 2
    represent = predictor.encoder._represent
    predictor.encoder._represent = lambda *given: tuple(
        None if array is None else array[:1] for array in represent(*given)
    )
    with pytest.raises(InputError, match="network gave"):
        predictor.predict(rows)


def test_the_label_is_the_likeliest_before_rounding() -> None:
    found = decoding.label_of(["bad", "good"], np.array([0.4999998, 0.5000002]))
    assert found == {"label": "good", "probabilities": {"bad": 0.5, "good": 0.5}}
