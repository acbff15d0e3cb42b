"""Splits are a pure function of group and seed."""

import collections

import pytest

from pipeline.config import SplitShares
from pipeline.ingest.splits import shares_to_cut, split_of

NONE = SplitShares(valid=0, test=0)
# worked out once with sha256 and fractions by hand
FIXED = {
    "json.decoder": "train",
    "Q4": "valid",
    "Q2": "train",
    "Q3": "valid",
    "花呗": "train",
    "": "train",
    "Q7": "train",
}
FIXED_SEED_2 = "tr va tr tr va tr va te va va te te"


def test_fixed_examples_that_every_machine_must_give() -> None:
    shares = SplitShares(valid=0.2, test=0.3)
    found = {group: split_of(group, 1, shares) for group in FIXED}
    assert found == FIXED
    assert " ".join(split_of(f"g{i}", 2, shares)[:2] for i in range(12)) == FIXED_SEED_2


def test_shares_are_met_and_seeds_differ() -> None:
    shares = SplitShares(valid=0.1, test=0.2)
    groups = [f"group {i}" for i in range(20_000)]
    counts = collections.Counter(split_of(group, 5, shares) for group in groups)
    assert counts["valid"] == pytest.approx(2000, abs=150)
    assert counts["test"] == pytest.approx(4000, abs=200)
    assert [split_of(g, 5, shares) for g in groups[:99]] != [split_of(g, 6, shares) for g in groups[:99]]


def test_another_share_of_valid_leaves_test_as_it_was() -> None:
    groups = [str(i) for i in range(500)]
    tests = [{g for g in groups if split_of(g, 1, SplitShares(valid=v, test=0.1)) == "test"} for v in (0, 0.1, 0.5)]
    assert tests[0] and tests[0] == tests[1] == tests[2]


def test_no_share_no_rows() -> None:
    assert {split_of(str(i), 1, NONE) for i in range(200)} == {"train"}


def test_only_what_is_not_given_is_cut_and_only_from_train() -> None:
    shares = SplitShares(valid=0.1, test=0.2)
    assert shares_to_cut(None, {None: ""}, shares) == shares
    assert shares_to_cut("train", {"train": ""}, shares) == shares
    assert shares_to_cut("train", {"train": "", "test": ""}, shares) == SplitShares(valid=0.1, test=0)
    assert shares_to_cut("train", {"train": "", "valid": "", "test": ""}, shares) == NONE
    assert shares_to_cut("test", {"test": ""}, shares) == NONE
