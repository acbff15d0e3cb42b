"""Rows come back as written, and their statistics are those of the bootstrap."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.evaluation import bootstrap, judged
from pipeline.evaluation.judged import Judged
from pipeline.evaluation.metrics import graded_metrics
from tests.reporting.conftest import grades, ranking

MODEL, BM25 = ("model", "mrr@10"), ("bm25", "mrr@10")


def test_rows_come_back(tmp_path: Path) -> None:
    rows = ranking(20, 0.4, text="x" * 300 + "{}")._replace(
        weights={MODEL: np.arange(20.0)}, slices={"a/b (%)": np.array([np.nan, *range(19)])}
    )
    judged.write(tmp_path / "rows.parquet", rows)
    found = judged.read(tmp_path / "rows.parquet")
    assert found.ids == rows.ids
    assert found.texts[3] == "x" * 199 + "…"
    np.testing.assert_array_equal(found.values[MODEL], rows.values[MODEL])
    np.testing.assert_array_equal(found.weights[MODEL], rows.weights[MODEL])
    np.testing.assert_array_equal(found.slices["a/b (%)"], rows.slices["a/b (%)"])
    assert found.classes is None
    classes = grades(30, ["bad", "a/b", "好"])
    judged.write(tmp_path / "classes.parquet", classes)
    again = judged.read(tmp_path / "classes.parquet")
    assert again.classes is not None
    assert again.classes.names == ["bad", "a/b", "好"]
    np.testing.assert_array_equal(again.classes.probabilities, classes.classes.probabilities)
    assert again.groups == classes.groups


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judged-ranking.parquet"
    judged.write(path, ranking(20, 0.4))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"judged-ranking\.parquet cannot be read.*duplet evaluate"):
        judged.read(path)


def test_statistics_are_the_bootstraps() -> None:
    rows = ranking(50, 0.4)
    a, b = rows.values[MODEL], rows.values[BM25]
    assert judged.intervals(rows, [MODEL], 300, 4)[0] == pytest.approx(bootstrap.mean_interval(a, 300, 4))
    found = judged.difference((rows, MODEL), (rows, BM25), 300, 4)
    assert found == pytest.approx(bootstrap.paired_difference(a, b, 300, 4))


def test_weights_make_a_ratio_of_sums() -> None:
    values = {("model", "nats"): np.array([1.0, 3.0])}
    rows = Judged("texts", ["a", "b"], ["", ""], None, {}, values, {("model", "nats"): np.array([30.0, 10.0])})
    assert judged.observed(rows, ("model", "nats")) == pytest.approx((30 + 30) / 40)


def test_grouped_rows_are_drawn_together_and_metrics_of_classes_follow() -> None:
    rows = grades(60, ["0", "1", "2"])
    assert rows.classes is not None
    assert rows.metrics == ["accuracy", "macro_f1", "auc"]
    wanted = graded_metrics(rows.classes.labels, rows.classes.predicted, rows.classes.scores)
    for metric in rows.metrics:
        assert judged.observed(rows, ("model", metric)) == pytest.approx(wanted[metric])
    groups = np.array([int(name[1:]) for name in rows.groups or []])
    times = np.concatenate(list(bootstrap.resamples(20, 40, 1)))[:, groups]
    drawn = judged.resampled([(rows, ("model", "accuracy"))], 40, 1)[0]
    right = rows.values["model", "accuracy"]
    np.testing.assert_allclose(drawn, times @ right / times.sum(axis=1))


def test_chunks_do_not_change_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = grades(60, ["0", "1"])
    whole = judged.resampled([(rows, ("model", "accuracy"))], 50, 2)[0]
    monkeypatch.setattr(bootstrap, "DRAWS_PER_CHUNK", 130)
    np.testing.assert_array_equal(judged.resampled([(rows, ("model", "accuracy"))], 50, 2)[0], whole)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 11))
def test_matching_does_not_depend_on_the_order(order: list[int], kept: int) -> None:
    a = ranking(12, 0.3, seed=1)
    b = judged.subset(ranking(12, 0.5, seed=2), np.array(order[:kept]))
    one, other = judged.matched(a, b)
    assert one.ids == other.ids == sorted(b.ids, key=a.ids.index)
    for key in one.values:
        np.testing.assert_array_equal(one.values[key], [a.values[key][a.ids.index(i)] for i in one.ids])
        np.testing.assert_array_equal(other.values[key], [b.values[key][b.ids.index(i)] for i in one.ids])
    ours, theirs = (one, ("model", "map@100")), (other, ("model", "map@100"))
    assert judged.difference(ours, theirs, 50, 1).mean == pytest.approx(-judged.difference(theirs, ours, 50, 1).mean)
