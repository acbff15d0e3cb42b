"""N workers of B pairs must compute what one worker of N B pairs computes: loss, gradient, step and validation; and so
must workers that take their share in parts.

Every head with every loss, with listed negatives, texts that repeat, and documents of equal tokens.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import check_config
from pipeline.orchestration import flow
from tests.conftest import reversed_pairs
from tests.tasks import teachers
from tests.updates.cases import HEADS
from tests.workers.by_workers import run_by
from tests.workers.equality import assert_equal

pytestmark = pytest.mark.workers

SIZES = (1, 2, 3, 4)
PARTS = ((1, 2), (1, 3), (2, 2))  # workers, and the parts that each takes its share in
GRADED = {"evaluate": {"kinds": ["graded"]}}
LOSSES: dict[str, dict[str, Any]] = {
    "in-batch softmax": {"train": {"loss": {"listed_negatives": 2}}},
    "hinge": {"train": {"loss": {"kind": "hinge", "negatives": 3, "listed_negatives": 1}}},
    "softmax": {"train": {"loss": {"kind": "pointwise", "grades": 3}, "metric": "accuracy"}, **GRADED},
    "ordinal": {
        "train": {"loss": {"kind": "pointwise", "grades": 3, "link": "ordinal"}, "metric": "accuracy"},
        **GRADED,
    },
}
CASES: dict[str, dict[str, Any]] = {
    **{
        f"{loss}, {head}": {**case, "model": {"head": head, "towers": ("shared", "separate")[number % 2]}}
        for number, (loss, case) in enumerate(LOSSES.items())
        for head in HEADS
    },
    "pairs alone": {"plain": True},
    "MXNet's recurrent layers": {"plain": True, "model": {"kernel": "mxnet"}},
    # float32 where the processor lacks it
    "bfloat16": {"plain": True, "model": {"precision": "bfloat16"}, "within": 0.02},
    "hinge, fewer documents than negatives": {"train": {"loss": {"kind": "hinge", "negatives": 40}}},
    # several workers score their queries in parts of one or two, one worker all at once
    # the output's bias shifts all scores alike: its gradient is noise, which a slower rate keeps below the bound
    "parts, mlp": {"scores": 9000, "rate": 0.01, "model": {"head": "mlp"}},
    "parts, bilinear": {"scores": 60, "model": {"head": "bilinear"},
                        "train": {"loss": {"kind": "hinge", "negatives": 3}}},
    "parts, late_interaction": {"scores": 4000, "model": {"head": "late_interaction"}},
    "ranking and graded": {"model": {"head": "late_interaction"},
                           "train": {"loss": LOSSES["ordinal"]["train"]["loss"], "metric": "map@100"},
                           "evaluate": {"kinds": ["ranking", "graded"], "candidates": "listed"}},
    # seven further texts are cut unevenly, and of one most parts have none
    "taught, cosine": {"teach": {"vectors": [], "scores": "", "further_per_update": 7},
                       "train": {"loss": {"listed_negatives": 2}}},
    "taught, late_interaction": {"teach": {"vectors": [], "further_per_update": 1, "weight": 0.9},
                                 "scores": 4000, "model": {"head": "late_interaction", "towers": "separate"}},
    "taught, dot": {"teach": {"scores": ""}, "model": {"head": "dot"}, "scores": 60,
                    "train": {"loss": {"kind": "hinge", "negatives": 3, "listed_negatives": 1}}},
    "mined": {"mine": {"by": ["bm25"], "first_rank": 1}, "train": {"loss": {"listed_negatives": 3}}, "plain": True},
    "taught, ordinal": {"teach": {"vectors": []}, **LOSSES["ordinal"]},
}  # fmt: skip

# its masks differ with the number of shares, so no number of workers equals another
MASKED: dict[str, Any] = {"plain": True, "model": {"dropout": 0.4}}


def graded_rows(count: int) -> list[dict[str, Any]]:
    """Queries with three documents each, of grades 0, 1 and 2, of uneven lengths.

    Each third query says what the one before it says, and shares its best document; another document has the same
    tokens as that one and is another text.
    """
    rng = np.random.default_rng(5)
    draw = lambda n: " ".join(f"w{i}" for i in rng.integers(0, 30, n))
    rows: list[dict[str, Any]] = []
    for q in range(count):
        query, best = draw(rng.integers(1, 8)), draw(rng.integers(1, 8))
        if q % 3 == 2:
            query, best = rows[-1]["query"], rows[-1]["document"]
        texts = (draw(rng.integers(1, 8)), best.upper() if q % 3 == 1 else draw(rng.integers(1, 8)), best)
        rows += [{"qid": f"q{q}", "query": query, "document": text, "relevance": g} for g, text in enumerate(texts)]
    return rows


def with_files(teach: dict[str, Any], ingested: Path, folder: Path) -> dict[str, Any]:
    """A teacher of train alone, since drawn pairs agree with none, and of forty further texts."""
    rows = teachers.records(ingested, "train")
    texts = [*teachers.texts(rows), *(f"w{i % 30} more{i}" for i in range(40))]
    vectors = teachers.written(folder / "vectors.parquet", texts, teachers.vectors_of(texts))
    scores = teachers.scored(folder / "scores.parquet", teachers.for_all_pairs(rows))
    return {name: {"vectors": [vectors], "scores": scores}[name] for name in ("vectors", "scores") if name in teach}


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """computed(size, parts=1): a folder with all cases computed by so many workers, started once for all cases."""
    folder = tmp_path_factory.mktemp("global-batch")
    for name, rows in (("plain", reversed_pairs(100)), ("graded", graded_rows(60))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cases: list[dict[str, Any]] = []
    tokenized: dict[str, Any] = {}
    ingested: dict[str, Path] = {}
    for case in (*CASES.values(), MASKED):
        graded = not case.get("plain", False)
        source = str(folder / ("graded.jsonl" if graded else "plain.jsonl"))
        columns = {"query_id": "qid"} | ({"relevance": "relevance"} if graded else {})
        config = {
            "name": "test",
            "root": str(folder / "runs"),
            "seed": 3,
            "ingest": {"source": {"format": "jsonl", "path": source, "columns": columns}},
            "tokenize": {"max_tokens": {"query": 8, "document": 12}, "min_count": 1},
            "model": {"embedding": 12, "hidden": 10, "layers": 2, "dropout": 0.0, **case.get("model", {})},
            "train": {
                "max_pairs_per_update": 16,
                "optimizer": {"clip_norm": 0.3, "kind": "sgd"},
                **case.get("train", {}),
            },
            "evaluate": case.get("evaluate", {}),
            "tracking": {"system_metrics": False, "send": "later"},
        }
        if source not in tokenized:
            stages = flow.run(check_config(config, "test"), "test", "tokenize", lambda line: None).stages
            tokenized[source], ingested[source] = stages["tokenize"]["folder"], Path(stages["ingest"]["folder"])
        others = {}
        if teach := case.get("teach"):
            config["teach"] = teach | with_files(teach, ingested[source], folder)
        config["mine"] = case.get("mine", {})
        for stage in {"teach", "mine"} & case.keys():
            made = flow.run(check_config(config, "test"), "test", stage, lambda line: None)
            others[stage] = made.stages[stage]["folder"]
        cases.append(
            {
                "config": config,
                "tokenized": tokenized[source],
                "others": others,
                "scores": case.get("scores"),
                "rate": case.get("rate", 0.05),
            }
        )
    (folder / "cases.json").write_text(json.dumps(cases))

    @functools.cache
    def compute(size: int, parts: int = 1) -> Path:
        done = run_by(size, Path(__file__).with_name("global_step.py"), str(folder / "cases.json"), str(parts))
        assert done.returncode == 0, done.stdout + done.stderr
        return folder

    return compute


@pytest.mark.parametrize("size", SIZES)
def test_all_cases_can_be_computed(size: int, computed: Callable[[int], Path]) -> None:
    """By itself, so that no test takes the time of several numbers of workers."""
    assert len(list(computed(size).glob(f"size-{size}-parts-1-case-*.npz"))) == len(CASES) + 1


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("name", CASES)
def test_several_workers_equal_one(name: str, size: int, computed: Callable[[int], Path]) -> None:
    number = list(CASES).index(name)
    files = (computed(n) / f"size-{n}-parts-1-case-{number}.npz" for n in (1, size))
    assert_equal(*files, within=CASES[name].get("within", 1e-5))


@pytest.mark.parametrize(("size", "parts"), PARTS)
def test_all_cases_can_be_computed_in_parts(size: int, parts: int, computed: Callable[..., Path]) -> None:
    assert len(list(computed(size, parts).glob(f"size-{size}-parts-{parts}-case-*.npz"))) == len(CASES) + 1


@pytest.mark.parametrize(("size", "parts"), PARTS)
@pytest.mark.parametrize("name", CASES)
def test_parts_equal_the_whole(name: str, size: int, parts: int, computed: Callable[..., Path]) -> None:
    number = list(CASES).index(name)
    files = (computed(n, p) / f"size-{n}-parts-{p}-case-{number}.npz" for n, p in ((1, 1), (size, parts)))
    assert_equal(*files, within=CASES[name].get("within", 1e-5))


def test_the_cases_hold_what_they_are_for(computed: Callable[[int], Path]) -> None:
    """Listed negatives, excluded documents, documents of equal tokens, and fewer of them than are wanted."""
    listed = np.load(computed(1) / f"size-1-parts-1-case-{list(CASES).index('in-batch softmax, cosine')}.npz")
    few = np.load(computed(4) / f"size-4-parts-1-case-{list(CASES).index('hinge, fewer documents than negatives')}.npz")
    assert min(listed[f"listed {update}"] for update in range(3)) > 0
    assert sum(listed[f"excluded {update}"] for update in range(3)) > 0
    assert few["sampled 0"] > 0 and few["sampled 0"] < 40 * 16
    mined = np.load(computed(1) / f"size-1-parts-1-case-{list(CASES).index('mined')}.npz")
    assert min(mined[f"listed {update}"] for update in range(3)) > 10
    taught = np.load(computed(1) / f"size-1-parts-1-case-{list(CASES).index('taught, cosine')}.npz")
    assert min(taught[f"margins {update}"] for update in range(3)) > 10
    assert min(taught[f"further {update}"] for update in range(3)) == 7


def test_the_parts_of_a_worker_draw_the_masks_of_as_many_workers(computed: Callable[..., Path]) -> None:
    workers, parts, alone = (
        computed(n, p) / f"size-{n}-parts-{p}-case-{len(CASES)}.npz" for n, p in ((2, 1), (1, 2), (1, 1))
    )
    assert_equal(workers, parts, within=1e-5)
    with pytest.raises(AssertionError):
        assert_equal(workers, alone, within=1e-5)
