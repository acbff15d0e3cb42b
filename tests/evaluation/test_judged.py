"""Rows come back as written, and their statistics are those of the bootstrap."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score

from pipeline.core.errors import InputError
from pipeline.evaluation import bootstrap, judged
from pipeline.evaluation.judged import Classes, Judged, Said
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
    assert again.groups == classes.groups and again.others == {}
    rng = np.random.default_rng(1)
    said = Said.of(rng.integers(0, 3, 30), rng.random(30))
    judged.write(tmp_path / "others.parquet", classes._replace(others={"fused": said}))
    for found_part, part in zip(judged.read(tmp_path / "others.parquet").others["fused"], said):
        np.testing.assert_array_equal(found_part, part)
    judged.write(tmp_path / "wrong.parquet", classes._replace(others={"fused": Said.of(np.full(30, 3))}))
    with pytest.raises(InputError, match="what a system said is out of range"):
        judged.read(tmp_path / "wrong.parquet")


def test_macro_f1_and_auc_of_every_system_that_said_something() -> None:
    """Equal to scikit-learn's and to the graded metrics; differences are paired, p is of what both said."""
    rows, rng = grades(120, ["0", "1", "2"]), np.random.default_rng(2)
    assert rows.classes is not None
    labels, chances = rows.classes.labels, rng.dirichlet(np.ones(3), 120)
    said = Said.of(chances.argmax(axis=1), chances @ np.arange(3))
    rows = rows._replace(values={**rows.values, ("fused", "accuracy"): (said.predicted == labels).astype(float)},
                         others={"fused": said})  # fmt: skip
    assert [rows.measures(system, "macro_f1") for system in ("model", "fused", "majority")] == [True, True, False]
    wanted = f1_score(labels, said.predicted, average="macro")
    assert judged.observed(rows, ("fused", "macro_f1")) == pytest.approx(wanted)
    assert judged.observed(rows, ("fused", "auc")) == pytest.approx(graded_metrics(labels, *said)["auc"])
    own = judged.observed(rows, ("model", "macro_f1"))
    found = judged.difference((rows, ("fused", "macro_f1")), (rows, ("model", "macro_f1")), 200, 1)
    assert found.mean == pytest.approx(wanted - own) and found.low < found.mean < found.high < 0
    p = judged.randomised((rows, ("fused", "macro_f1")), (rows, ("model", "macro_f1")), 500, 1)
    assert p < 0.05
    assert judged.randomised((rows, ("fused", "auc")), (rows, ("fused", "auc")), 100, 1) == 1
    some = judged.subset(rows, np.arange(60))
    np.testing.assert_array_equal(some.others["fused"].predicted, said.predicted[:60])
    assert judged.observed(some, ("fused", "macro_f1")) == pytest.approx(
        f1_score(labels[:60], said.predicted[:60], average="macro")
    )


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


def permutation_p(a: np.ndarray, b: np.ndarray, statistic: Callable[[np.ndarray, np.ndarray], float]) -> float:
    """scipy's p-value over all 2 ** N ways to hand out each pair."""
    found = stats.permutation_test((a, b), statistic, permutation_type="samples", n_resamples=np.inf)
    return float(found.pvalue)


def test_randomisation_is_scipys_of_all_permutations() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(12), rng.random(12) - 0.4
    values = lambda x: Judged("queries", [str(i) for i in range(12)], [""] * 12, None, {}, {MODEL: x})
    exact = permutation_p(a, b, lambda x, y: float(np.mean(x) - np.mean(y)))
    assert 0.01 < exact < 0.2
    assert judged.randomised((values(a), MODEL), (values(b), MODEL), 40_000, 1) == pytest.approx(exact, abs=0.006)
    assert judged.randomised((values(a), MODEL), (values(a), MODEL), 500, 1) == 1
    assert judged.randomised((values(a + 9), MODEL), (values(b), MODEL), 9_999, 1) < 0.002


def test_randomisation_hands_out_whole_groups_weights_and_classes() -> None:
    rng = np.random.default_rng(4)
    nats = ("model", "nats")
    weights = rng.integers(1, 40, 8).astype(float)
    a, b = rng.random(8) + 0.15, rng.random(8)

    def of(values: np.ndarray, groups: list[str] | None = None) -> Judged:
        return Judged("texts", list("abcdefgh"), [""] * 8, groups, {}, {nats: values}, {nats: weights})

    weighted = lambda x: float((x * weights).sum() / weights.sum())
    exact = permutation_p(a, b, lambda x, y: weighted(x) - weighted(y))
    assert judged.randomised((of(a), nats), (of(b), nats), 40_000, 1) == pytest.approx(exact, abs=0.008)

    groups = list("uuuuvvvv")  # two ways that differ in size, each twice: p is 1 or 1/2
    found = judged.randomised((of(a + 1, groups), nats), (of(b, groups), nats), 20_000, 1)
    assert found == pytest.approx(0.5, abs=0.02)

    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    said = [np.array([0, 1, 0, 1, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 0, 1, 1, 0])]
    rows = [of(a)._replace(classes=Classes(["no", "yes"], labels, np.eye(2)[one])) for one in said]
    f1 = lambda x: float(f1_score(labels, x, average="macro"))
    exact = permutation_p(said[0], said[1], lambda x, y: f1(x) - f1(y))
    key = ("model", "macro_f1")
    assert judged.randomised((rows[0], key), (rows[1], key), 40_000, 1) == pytest.approx(exact, abs=0.01)


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
