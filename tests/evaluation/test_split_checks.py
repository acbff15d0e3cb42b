"""What is wrong with a split is said when ingest or tokenize ends, before any training, and by the right remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import check_config
from pipeline.core.errors import InputError
from pipeline.distributed import launcher
from pipeline.orchestration import flow, summary

Run = Callable[..., list[str]]
GOOD = [f"query number {i}\tdocument number {i} text\t1" for i in range(40)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """run(rows by split or rows, header, until="evaluate", **settings) -> what was said before any worker began."""

    def no_worker(*_: object) -> None:
        raise AssertionError("a training began")

    monkeypatch.setattr(launcher, "run", no_worker)

    def _run(
        rows: list[str] | dict[str, list[str]],
        header: str = "query\tdocument\tlabel",
        until: str = "evaluate",
        task: str = "matching",
        split: dict[str, float] | None = None,
        **settings: Any,
    ) -> list[str]:
        source: dict[str, Any] = {"format": "tsv"}
        if task == "matching":
            source["columns"] = {"relevance": "label"}
        paths = {}
        for name, lines in (rows if isinstance(rows, dict) else {"all": rows}).items():
            paths[name] = str(tmp_path / f"{name}.tsv")
            Path(paths[name]).write_text("\n".join([header, *lines]) + "\n")
        source |= {"path": paths["all"]} if "all" in paths else {"paths": paths}
        ingest = {"source": source, "split": split or {"valid": 0.1, "test": 0.1}}
        data = {
            "name": "t", "task": task, "root": str(tmp_path / "runs"), "ingest": ingest, "tokenize": {"min_count": 1},
            "tracking": {"uri": str(tmp_path / "nowhere"), "max_wait_s": 0, "system_metrics": False}, **settings,
        }  # fmt: skip
        said: list[str] = []
        monkeypatch.setattr(flow, "Tracking", Untracked)
        flow.run(check_config(data, "test"), "t.yaml", until, said.append)
        return said

    return _run


class Untracked:
    """Tracking that sends nothing."""

    run_id, journal, on = None, None, False

    @classmethod
    def of(cls, *_: object, **__: object) -> "Untracked":
        return cls()

    def stage(self, _: str) -> "Untracked":
        return self

    def __enter__(self) -> "Untracked":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


FATAL: dict[str, tuple[dict[str, list[str]], dict[str, Any], str]] = {
    "a relevance that is not whole": (
        {"train": GOOD, "valid": [*GOOD, "a\tb\t0.5"], "test": GOOD},
        {},
        r"relevance 0\.5 in the valid split is not a whole number.*: check .*/valid\.tsv "
        r"\(ingest\.source\.paths\.valid\)$",
    ),
    "no relevant pair in test": (
        {"train": GOOD, "valid": GOOD, "test": ["a b\tc d\t0"]},
        {},
        r"the test split has no relevant pair to judge by: check .*/test\.tsv",
    ),
    "no relevant pair in train": (
        {"train": ["a b\tc d\t0"], "valid": GOOD, "test": GOOD},
        {},
        r"the train split has no relevant pair: check .*/train\.tsv",
    ),
    "no valid": (
        {"train": GOOD[:3], "test": GOOD},
        {"split": {"valid": 0.001, "test": 0}},
        r"the valid split has no pair: .*raise ingest\.split\.valid=0\.001, .* or give ingest\.source\.paths\.valid",
    ),
    "a file of two rows": (
        {"all": GOOD[:2]},
        {},
        r"the valid split has no pair: the source has 2 records, too few for this share: give 20 or more, or raise "
        r"ingest\.split\.valid=0\.1",
    ),
    "a grade too high": (
        {"train": [*GOOD, "a\tb\t3"], "valid": GOOD, "test": GOOD},
        {"train": {"loss": {"kind": "pointwise", "grades": 3}}, "evaluate": {"kinds": ["graded"]}},
        r"relevance 3 in the train split is not one of the grades 0 … 2 of train\.loss\.grades",
    ),
    "one grade, of which auc does not exist": (
        {"train": [*GOOD, "a\tb\t0"], "valid": GOOD, "test": GOOD},
        {"train": {"loss": {"kind": "pointwise", "grades": 2}, "metric": "auc"}, "evaluate": {"kinds": ["graded"]}},
        r"train\.metric=auc cannot be measured: the valid split has one grade only",
    ),
}


@pytest.mark.parametrize("name", FATAL)
def test_a_split_that_cannot_be_used_ends_the_run_before_training(name: str, run: Run) -> None:
    rows, settings, message = FATAL[name]
    with pytest.raises(InputError, match=message):
        run(rows, **settings)


def test_a_split_that_no_later_stage_uses_is_only_said(run: Run) -> None:
    said = run({"train": GOOD, "valid": GOOD, "test": ["a b\tc d\t0"]}, until="tokenize")
    assert "warning: the test split has no relevant pair to judge by" in said
    with pytest.raises(AssertionError, match="a training began"):  # nor does a training by itself need it
        run({"train": GOOD, "valid": GOOD, "test": ["a b\tc d\t0"]}, until="train")


def test_a_run_whose_splits_are_up_to_date_is_checked_too(run: Run) -> None:
    rows = {"train": GOOD, "valid": GOOD, "test": ["a b\tc d\t0"]}
    run(rows, until="tokenize")
    with pytest.raises(InputError, match="the test split has no relevant pair"):
        run(rows)


def test_labels_that_training_has_not_are_said(run: Run) -> None:
    rows = {"train": ["x\ta", "y\tb"], "valid": ["x\ta"], "test": ["x\ta", "y\tc", "z\tc", "z\td"]}
    said = run(rows, "text\tlabel", until="tokenize", task="classification")
    message = (
        "3 of 4 rows of the test split have labels that the train split does not have ('c', 'd'): "
        "the model can never predict them"
    )
    assert f"warning: {message}" in said
    only = {"train": ["x\ta", "y\ta"], "valid": ["x\ta"], "test": ["x\ta"]}
    said = run(only, "text\tlabel", until="tokenize", task="classification")
    assert "warning: the train split has one of the labels only: 'a'" in said


@pytest.mark.parametrize(
    ("loss", "kinds", "more", "why"),
    [
        ({}, ["ranking"], [], "no pair of the train split is irrelevant"),
        ({}, ["ranking"], ["a\tb\t0"], None),
        ({"kind": "pointwise"}, ["graded"], ["a\tb\t0"], "a pointwise loss draws none"),
    ],
)
def test_listed_negatives_that_do_nothing_are_said(
    loss: dict[str, Any], kinds: list[str], more: list[str], why: str | None, run: Run
) -> None:
    rows = {"train": [*GOOD, *more], "valid": GOOD, "test": GOOD}
    settings = {"train": {"loss": loss | {"listed_negatives": 2}}, "evaluate": {"kinds": kinds}}
    said = [line for line in run(rows, until="tokenize", **settings) if "does nothing" in line]
    wanted = [f"warning: train.loss.listed_negatives=2 does nothing: {why}"] if why else []
    assert list(dict.fromkeys(said)) == wanted


def test_span_f1_needs_tags_that_mark_spans(run: Run) -> None:
    rows = {name: ["a b\tNOUN VERB"] for name in ("train", "valid", "test")}
    with pytest.raises(InputError, match=r"span_f1 needs tags that mark spans .* has NOUN, VERB: set train\.metric="):
        run(rows, "text\ttags", task="tagging", train={"metric": "span_f1"})


def test_a_vocabulary_that_knows_nothing_is_refused_and_one_that_knows_little_is_said(run: Run) -> None:
    rows = [f"{'abcdefghij'[i // 10]}{'klmnopqrst'[i % 10]}q\t{'abcdefghij'[i % 10]}{'uvwxyzklmn'[i // 10]}d\t1"
            for i in range(100)]  # fmt: skip
    with pytest.raises(
        InputError, match=r"^100% of the tokens of the train split are unknown: .*min_count=2.*; lower t"
    ):
        run(dict.fromkeys(("train", "valid", "test"), rows), tokenize={"min_count": 2})
    known = [f"known words\tof text {i}\t1" for i in range(40)]
    said = run({"train": known, "valid": known, "test": rows}, until="tokenize")
    assert any(line.startswith("warning: 100% of the tokens of the test split are unknown") for line in said)


def test_the_lines_after_ingest_and_tokenize_say_what_was_left_out_and_cut(run: Run, tmp_path: Path) -> None:
    train = ["a b\tone two three\t1", "a b\tone two three\t1", "c\tfour\t1"]
    rows = {"train": train, "valid": train, "test": [*GOOD, "a\t\t1"]}
    with pytest.raises(InputError, match=r"1 of 47 rows are bad \(2\.1%\)"):
        run(rows)
    said = run({**rows, "test": GOOD}, until="tokenize", tokenize={"min_count": 1, "max_tokens": {"document": 3}})
    [ingested] = [line for line in said if line.startswith("ingest: 4")]
    assert ingested == (
        "ingest: 45 records (train 2, valid 3, test 40); copies left out: 1; "
        "copies of rows in valid and test, each of which counts: 1"
    )
    [tokenized] = [line for line in said if line.startswith("tokenize: ") and "vocabulary" in line]
    assert (
        "document: 44 texts, 128 tokens, 91% of the texts cut at 3 tokens (tokenize.max_tokens.document)" in tokenized
    )
    again = run({**rows, "test": GOOD}, until="tokenize", tokenize={"min_count": 1, "max_tokens": {"document": 3}})
    assert ingested in again and tokenized in again, "it is said of what is up to date, too"


def test_judgements_put_aside_are_said_with_the_file_that_lists_them(tmp_path: Path) -> None:
    counts = {
        "records": {"kept": 7, "duplicates": 0, "splits": {"train": 4, "valid": 1, "test": 2}},
        "documents": {"kept": 9, "duplicates": 0}, "queries": {"kept": 5, "duplicates": 1},
        "quarantine_reasons": {"unknown document": 55},
    }  # fmt: skip
    assert summary.ingest(counts, tmp_path) == (
        "ingest: 7 records (train 4, valid 1, test 2); 9 documents; 5 queries; copies left out: 1; put aside: 55 "
        f"judgements of unknown documents (counted as not found): {tmp_path}/quarantine.jsonl"
    )


@pytest.mark.parametrize(
    "settings,updates,ended",
    [
        ({"patience_validations": 2}, 40, "2 validations without a better one (train.patience_validations)"),
        (
            {"patience_validations": None, "max_updates": 40, "schedule": {"warmup_updates": 2}},
            40,
            "40 updates (train.max_updates)",
        ),
        ({"patience_validations": 5, "epochs": 9}, 40, "9 epochs (train.epochs)"),
    ],
)
def test_the_line_after_train_says_what_was_kept_and_why_it_ended(
    settings: dict[str, Any], updates: int, ended: str, tmp_path: Path
) -> None:
    config = check_config({"name": "t", "ingest": {"source": {"format": "docstrings"}}, "train": settings}, "test")
    name = f"valid/{config.train.metric}"
    history = [{"update": 10, "loss": 1.0}, *({"update": u, name: 0.4 - abs(u - 20) / 100} for u in (10, 20, 30, 40))]
    (tmp_path / "history.json").write_text(json.dumps(history))
    result = {"updates": updates, "best_update": 20, name: 0.4}
    assert summary.train(result, tmp_path, config) == (
        f"train: highest {name.replace('/', ' ')} 0.4000 at update 20 of 40, which is kept; ended after {ended}"
    )
