"""`duplet status` beside folders that are damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import flow, manifest
from pipeline.config import check_config

WHOLE = {
    "stage": "train", "key": "k", "key_parts": {"config": {"old": 1}}, "counts": {}, "files": {}, "seconds": 1.0,
    "created": "2026-01-01T00:00:00Z", "git_commit": None, "versions": {},
}  # fmt: skip
DAMAGED = ["", "{", "[]", "null", json.dumps(WHOLE | {"extra": 3}), json.dumps(WHOLE | {"key_parts": None}), "\x00"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_manifest_hides_no_other_and_is_named_where_it_is_its_own(
    content: str, small_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = check_config(small_config(root=str(tmp_path)), "small")
    for name, text in (("aaaa", json.dumps(WHOLE)), ("bbbb", content)):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / manifest.NAME).write_text(text)
    row = flow.status(config)[2]
    assert (row["stage"], row["state"]) == ("train", "changed")
    assert "config.old" in row["changed"]
    own = Path(row["folder"])
    own.mkdir()
    (own / manifest.NAME).write_text(content)
    assert flow.status(config)[2]["state"] == "damaged"
