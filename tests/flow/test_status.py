"""`duplet status` beside folders that are damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import check_config
from pipeline.core import manifest
from pipeline.core.errors import InputError
from pipeline.models.kernel import library
from pipeline.orchestration import flow
from pipeline.orchestration.model_stages import Train

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


def test_a_configuration_that_never_ran_is_compared_with_no_other(
    small_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = check_config(small_config(root=str(tmp_path)), "small")

    def keep(folder: str, name: str, created: str, code: int) -> None:
        (tmp_path / "train" / folder).mkdir(parents=True)
        kept = WHOLE | {"created": created, "key_parts": {"code": code}, "extra": {"configuration": name}}
        (tmp_path / "train" / folder / manifest.NAME).write_text(json.dumps(kept))

    keep("aaaa", "other", "2026-01-03", Train.VERSION)
    row = flow.status(config)[2]
    assert (row["state"], row["changed"]) == ("not run", [])
    keep("bbbb", "small", "2026-01-01", Train.VERSION)
    keep("cccc", "small", "2026-01-02", -1)
    row = flow.status(config)[2]
    assert row["state"] == "changed"
    assert "code" in row["changed"]  # since the newest run of this name


def test_layers_of_ours_are_asked_for_only_where_workers_would_start(
    small_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = check_config(small_config(model={"kernel": "own"}, root=str(tmp_path)), "small")
    monkeypatch.setattr(library, "found", lambda: library.without("its own are not built"))
    planned, wanted = flow.plan(config), flow.stages_of(config, "evaluate")
    with pytest.raises(InputError, match=r"model\.kernel=own cannot be had"):
        flow._kernel(config, flow._to_do(planned, wanted))
    flow._kernel(config, flow._to_do(planned, flow.stages_of(config, "tokenize")))
    for stage in wanted:
        planned.folder(stage.name).mkdir(parents=True)
        (planned.folder(stage.name) / manifest.NAME).write_text("{}")
    flow._kernel(config, flow._to_do(planned, wanted))
