"""A teacher of classifiers: its file, its losses, and that the student follows it as much as it is told to."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mxnet import nd
from scipy.special import log_softmax, softmax

from pipeline.core.errors import InputError
from pipeline.models.losses import taught_losses
from pipeline.tasks import teaching
from tests.conftest import last_json
from tests.models.test_losses import difference, gradient
from tests.tasks.test_learns_sentences import FILLERS, configured

NAMES = ["bad", "good", "odd"]
RNG = np.random.default_rng(1)
LOGITS, TEACHER = (RNG.normal(0, 2, (5, 3)).astype(np.float32) for _ in range(2))


# --- the file ---------------------------------------------------------------------------------------------------------
def parquet(path: Path, ids: list[str], scores: np.ndarray, names: list[str] = NAMES) -> Path:
    pd.DataFrame({"id": ids, **{name: scores[:, i] for i, name in enumerate(names)}}).to_parquet(path)
    return path


def test_both_forms_are_read_and_labels_put_in_order(tmp_path: Path) -> None:
    ids = list("abcde")
    np.savez(tmp_path / "t.npz", ids=ids, names=NAMES[::-1], scores=LOGITS[:, ::-1])
    for path in (parquet(tmp_path / "t.parquet", ids, LOGITS), tmp_path / "t.npz"):
        found = teaching.read(path, NAMES)
        assert found.ids == ids
        np.testing.assert_array_equal(found.logits, LOGITS)
    chances = teaching.read(parquet(tmp_path / "p.parquet", ids, softmax(LOGITS, axis=1)), NAMES)
    np.testing.assert_allclose(chances.logits, log_softmax(LOGITS, axis=1), atol=1e-4)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    ids, nan = list("abcde"), np.where(np.arange(15).reshape(5, 3) == 7, np.nan, LOGITS)
    (folder / "cut.parquet").write_bytes(parquet(folder / "whole.parquet", ids, LOGITS).read_bytes()[:-20])
    np.savez(folder / "width.npz", ids=ids, names=NAMES, scores=LOGITS[:, :2])
    np.savez(folder / "lacks.npz", ids=ids, scores=LOGITS)
    more = parquet(folder / "more.parquet", ids, np.c_[LOGITS, LOGITS[:, 0]], [*NAMES, "new"])
    return {
        "absent": (folder / "nowhere.parquet", "cannot be read"),
        "cut": (folder / "cut.parquet", "cannot be read"),
        "no names": (folder / "lacks.npz", "an npz with ids, names and scores"),
        "twice": (parquet(folder / "twice.parquet", list("abcda"), LOGITS), "the id 'a' twice"),
        "not a number": (parquet(folder / "nan.parquet", ids, nan), "a score of 'c' is not a finite number"),
        "width": (folder / "width.npz", r"scores of the shape \(5, 2\) for 5 ids and 3 labels"),
        "a label lacks": (parquet(folder / "less.parquet", ids, LOGITS[:, :2], NAMES[:2]), "no scores of the label"),
        "one too many": (more, "'new', which is not a label"),
    }


def test_a_bad_file_is_one_sentence(tmp_path: Path) -> None:
    for path, said in bad_files(tmp_path).values():
        with pytest.raises(InputError, match=said):
            teaching.read(path, NAMES)


class Split:
    """As much of a split as a teacher looks at."""

    ids = ["b", "a", "x", "y"]


def test_a_record_that_the_teacher_lacks_is_named(tmp_path: Path) -> None:
    found = teaching.read(parquet(tmp_path / "t.parquet", list("abcde"), LOGITS), NAMES)
    there, logits = found.of(Split())  # type: ignore[arg-type]
    assert there.tolist() == [True, True, False, False]
    np.testing.assert_array_equal(logits, LOGITS[[1, 0]])
    with pytest.raises(InputError, match=r"lacks 2 of 4 records of the train split \('x', 'y'\)"):
        teaching.of_all(found, Split())  # type: ignore[arg-type]


# --- the losses -------------------------------------------------------------------------------------------------------
def by_hand(logits: np.ndarray, kind: str, temperature: float = 2.0) -> float:
    logits, teacher = logits.astype(np.float64), TEACHER.astype(np.float64)
    if kind == "logits":
        mine, theirs = (x - x.mean(axis=1, keepdims=True) for x in (logits, teacher))
        return float(((mine - theirs) ** 2).mean())
    chances = softmax(teacher / temperature, axis=1)
    apart = log_softmax(teacher / temperature, axis=1) - log_softmax(logits / temperature, axis=1)
    return float((chances * apart).sum(axis=1).mean() * temperature**2)


@pytest.mark.parametrize("kind", ["logits", "kl"])
def test_losses_and_gradients_are_those_of_the_formula(kind: str) -> None:
    loss = lambda x: taught_losses(x, nd.array(TEACHER), kind, 2.0).mean().reshape(1)
    assert loss(nd.array(LOGITS)).asscalar() == pytest.approx(by_hand(LOGITS, kind), rel=5e-5)
    expected = difference(lambda x: by_hand(x, kind), LOGITS.astype(np.float64))
    np.testing.assert_allclose(gradient(loss, LOGITS), expected, atol=1e-4)
    shifted = nd.array(TEACHER + np.arange(5)[:, None])
    np.testing.assert_allclose(
        taught_losses(nd.array(LOGITS), shifted, kind, 2.0).asnumpy(),
        taught_losses(nd.array(LOGITS), nd.array(TEACHER), kind, 2.0).asnumpy(), rtol=1e-4, atol=1e-5,
    )  # fmt: skip


# --- the student ------------------------------------------------------------------------------------------------------
@pytest.mark.learns
@pytest.mark.timeout(900)  # trains two models
@pytest.mark.parametrize("kind", ["logits", "kl"])
def test_a_student_follows_its_teacher_or_the_labels(kind: str, duplet: Callable[..., Any], tmp_path: Path) -> None:
    """Train's labels are all wrong, the teacher is right: with weight 1 the student is right, with 0 it never is."""
    rng, paths = random.Random(1), {}
    wrong = dict(zip(NAMES, NAMES[1:] + NAMES[:1]))
    for split, count in (("train", 300), ("valid", 60), ("test", 120)):
        rows = []
        for _ in range(count):
            name, words = rng.choice(NAMES), rng.choices(FILLERS, k=rng.randint(1, 4))
            words.insert(rng.randrange(len(words) + 1), f"is-{name}")
            rows.append({"text": " ".join(words), "label": wrong[name] if split == "train" else name})
        paths[split] = str(tmp_path / f"{split}.jsonl")
        Path(paths[split]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configured(tmp_path, "classification", [{"text": "a", "label": "b"}], train={"epochs": 6})
    config["ingest"] = {"source": {"format": "jsonl", "paths": paths}}
    ingested = Path(last_json(duplet("ingest", config, "--json"))["stages"]["ingest"]["folder"])
    tables = [pq.read_table(ingested / f"records-{split}.parquet").to_pylist() for split in ("train", "valid")]
    records = [*tables[0], *tables[1]]
    scores = np.array([[4.0 * (f"is-{name}" in row["text"]) for name in NAMES] for row in records])
    parquet(tmp_path / "teacher.parquet", [row["id"] for row in records], scores)
    found = {}
    for weight in (0, 1):
        config["teach"] = {"scores": str(tmp_path / "teacher.parquet"), "weight": weight, "kind": kind, "by": "a sage"}
        ran = duplet("run", config, "--json")
        assert "a sage has accuracy 1.0000" in ran.stderr and "0.0000 accuracy on train" in ran.stderr
        found[weight] = last_json(ran)["metrics"]["test/accuracy"]
    assert found[1] > 0.97 and found[0] < 0.03


def test_a_teacher_of_another_task_is_refused(duplet: Callable[..., Any], small_config: Callable[..., Any]) -> None:
    tagging = {"name": "t", "task": "tagging", "ingest": {"source": {"format": "python", "of": "kinds"}}}
    done = duplet("teach", {**tagging, "teach": {"scores": "x.parquet"}})
    assert done.returncode == 2 and "teach.scores is for task matching or classification, not tagging" in done.stderr
    done = duplet("teach", small_config())
    assert done.returncode == 2 and "has no stage teach" in done.stderr
