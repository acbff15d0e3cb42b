"""Evaluation files that are well formed and wrong: told at the door, or else whatever reads them can show them."""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import PromoteConfig
from pipeline.core.errors import InputError
from pipeline.evaluation import judged
from pipeline.evaluation.judged import Judged
from pipeline.registry import gate
from pipeline.reporting import comparison, figures, page
from pipeline.reporting.folder import load, read_record

Make = Callable[..., Path]
WRONG: tuple[Any, ...] = (None, "x", -1, 1.5, True, 10**40, float("nan"), [], {"x": 1})
FILES = ("metrics.json", "run.json", "histograms.json", "alignments.json", "history.json", "wins.jsonl")


@pytest.fixture
def whole(evaluation: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An evaluation with every file; figures are made and not painted, which takes seconds."""
    monkeypatch.setattr(figures, "_svg", lambda figure, title, **_: f"<svg>{len(figure.axes)}{title!s:.0}</svg>")
    values = {(system, "mrr@10"): np.linspace(0, 1, 6) ** power for system, power in (("model", 1), ("bm25", 2))}
    rows = Judged("queries", [f"q{i}" for i in range(6)], ["words"] * 6, None, {}, values)
    folder = evaluation("whole", {"ranking": rows})
    for name, content in {
        "histograms.json": [{"title": "t", "x": "x", "edges": [0, 1, 2], "series": [{"name": "s", "counts": [3, 4]}]}],
        "alignments.json": [
            {"title": "t", "rows": ["a"], "columns": ["b", "c"], "label": "cosine", "values": [[0.1, 0.2]], "cut": 1,
             "axes": ["r", "c"], "weights": [{"text": "q", "what": "w", "tokens": ["a"], "values": [0.2]}]},
        ],
        "history.json": [{"update": 1, "loss": 0.5}, {"update": 2, "loss": 0.4, "valid/mrr@10": None}],
    }.items():  # fmt: skip
        (folder / name).write_text(json.dumps(content))
    document = {"text": "d", "relevance": 1, "score": None}
    win = {"query": "q", "model": 1.0, "bm25": 0.5, "difference": 0.5, "relevant": [document], "model_top": [document],
           "bm25_top": []}  # fmt: skip
    (folder / "wins.jsonl").write_text(json.dumps(win) + "\n")
    tables = json.loads((folder / "metrics.json").read_text())
    for table in tables.values():
        table["samples"] = 20
    (folder / "metrics.json").write_text(json.dumps(tables))
    return folder


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a part of a JSON value stands, itself first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with another part at a place; `...`: without it."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1 and new is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def shown(folder: Path, other: Path) -> None:
    """All that reads an evaluation."""
    found, beside = load(folder), load(other)
    page.build(found)
    for runs in ([found, beside], [beside, found]):
        comparison.text(comparison.compare(runs))
        gate.decide(*runs, PromoteConfig(metric="mrr@10"))
    assert read_record(folder)["stages"]["train"]["key"]


@pytest.mark.parametrize("name", FILES)
def test_what_is_accepted_can_be_shown_and_the_rest_is_a_sentence(
    name: str, whole: Path, evaluation: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "RANDOMISATIONS", 20)
    monkeypatch.setattr(page, "environment", functools.cache(page.environment))
    other = evaluation("other", {"ranking": judged.read(whole / "judged-ranking.parquet")})
    shown(whole, other)
    path = whole / name
    good = json.loads(path.read_text())
    refused = 0
    for at in places(good):
        taken = 0
        for new in (*WRONG, ...) if at else WRONG:
            path.write_text(json.dumps(changed(good, at, new)) + "\n")
            try:
                found = load(whole)
                read_record(whole), list(found.wins())
                taken += 1
                if taken <= 2:  # of each place: a page takes a tenth of a second
                    shown(whole, other)
            except InputError as error:
                refused += 1
                assert str(whole) in str(error) or "whole" in str(error), error
    assert refused >= 4 * len([*places(good)])


@pytest.mark.parametrize("model", [None, "x", [], 1, {"head": []}, {"head": {}}, {"head": 1}])
def test_a_model_of_a_wrong_type_is_told(model: Any, whole: Path) -> None:
    path = whole / "run.json"
    record = json.loads(path.read_text())
    record["configuration"]["model"] = model
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"run\.json"):
        page.build(load(whole))


def table_of(folder: Path) -> tuple[Path, pa.Table]:
    path = folder / "judged-ranking.parquet"
    return path, pq.read_table(path)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", [None] * 6), ("text", [None] * 6), ("model/mrr@10", ["x"] * 6), ("model/mrr@10", [float("nan")] * 6),
        ("model/mrr@10", [[1.0]] * 6), ("bm25/mrr@10", [None] * 6),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_judged_are_told(column: str, values: list[Any], whole: Path) -> None:
    path, table = table_of(whole)
    new = table.set_column(table.column_names.index(column), column, pa.array(values))
    pq.write_table(new.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(InputError, match=r"judged-ranking\.parquet cannot be read"):
        load(whole)


def test_an_id_of_two_rows_is_no_pair(whole: Path, evaluation: Make) -> None:
    path, table = table_of(whole)
    new = table.set_column(0, "id", pa.array(["q1", "q1", "q2", "q3", "q4", "q5"]))
    pq.write_table(new.replace_schema_metadata(table.schema.metadata), path)
    other = load(evaluation("other"))
    with pytest.raises(InputError, match="the id 'q1' stands for several examples"):
        comparison.compare([load(whole), other])


def test_a_damaged_neighbour_hides_no_other_run(evaluation: Make) -> None:
    from pipeline.registry import resolve_run

    one, two = evaluation("one"), evaluation("two")
    (one / "run.json").write_text('{"stages": []}')
    assert list(resolve_run.newest_first(two.parent.parent)) == [two]
