"""`duplet runs` and `duplet clean` on roots of small folders, with the runs and versions of a real MLflow."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import cleaning
from jobs import folder as folders
from jobs.spec import JobSpec
from pipeline import tracking
from pipeline.cli.main import main
from pipeline.core import manifest
from pipeline.core.errors import InputError, TryAgain
from pipeline.distributed import job_folder
from pipeline.registry import finished, mlflow_registry
from pipeline.tracking import listing
from tests.jobs.roots import stage
from tests.killing import at_every_step

Spec = Callable[..., JobSpec]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "runs"
    made.mkdir()
    return made


def chain(root: Path, own: str, days: float, name: str = "faq", until: str = "evaluate") -> dict[str, str]:
    """The stages of a run, made some days ago; their keys."""
    keys: dict[str, str] = {}
    for one in ("ingest", "tokenize", "train", "evaluate"):
        needed = {"train": ("tokenize",)}.get(one, tuple(keys))
        counts = {"train": {"valid/mrr@10": 0.5}, "evaluate": {"test/mrr@10": 0.25}}.get(one, {})
        keys[one] = stage(root, one, own, days, name, **{name: keys[name] for name in needed}, counts=counts)
        if one == "train":
            (root / "train" / keys[one] / "config.json").write_text('{"train": {"metric": "mrr@10"}}')
        if one == until:
            break
    return keys


def old(path: Path, days: float) -> Path:
    """A folder whose last change was some days ago."""
    (path / "checkpoint").mkdir(parents=True)
    for one in (path / "checkpoint", path):
        os.utime(one, (time.time() - 86_400 * days,) * 2)
    return path


def clean(root: Path, days: float = 7, keep_runs: int | None = None, dry_run: bool = False) -> cleaning.Outcome:
    return cleaning.collect(root, days, keep_runs, dry_run, lambda _: None)


def names(keys: dict[str, str], *stages: str) -> set[str]:
    return {f"{stage}/{key}" for stage, key in keys.items() if not stages or stage in stages}


def there(root: Path) -> set[str]:
    return {"/".join(one) for one in finished.made(root)}


# --- duplet runs ------------------------------------------------------------------------------------------------------
def test_runs_are_listed_with_their_last_stage_and_best_value(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    whole, trained = chain(root, "a", 2), chain(root, "b", 1, "other", "train")
    old(root / "work" / "train-0123456789abcdef", 0)
    assert main(["runs", "--root", str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = [(row["name"], row["stages"], row["metric"], row["value"], row["folder"]) for row in found["runs"]]
    assert rows == [
        ("other", ["ingest", "tokenize", "train"], "valid mrr@10", 0.5, f"{root}/train/{trained['train']}"),
        ("faq", ["ingest", "tokenize", "train", "evaluate"], "test mrr@10", 0.25,
         f"{root}/evaluate/{whole['evaluate']}"),
    ]  # fmt: skip
    assert [row["run_id"] for row in found["runs"]] == [None, None]
    assert found["runs"][1]["bytes"] > found["runs"][0]["bytes"] > 0
    assert [(one["stage"], one["at_work"]) for one in found["unfinished"]] == [("train", False)]
    assert main(["runs", "--root", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "test mrr@10 0.25" in lines[2] and "train unfinished" in lines[3]


def test_runs_know_their_run_of_mlflow(
    root: Path, empty_database: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    shutil.copy(empty_database, root)
    keys = chain(root, "a", 0)
    run_id = tracked(root, "FINISHED", {name: keys[name] for name in ("train", "evaluate")})
    assert main(["runs", "--root", str(root), "--json"]) == 0
    assert [row["run_id"] for row in json.loads(capsys.readouterr().out)["runs"]] == [run_id]


def test_runs_of_nothing_and_of_what_is_damaged(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--root", str(root)]) == 0
    assert "there is nothing under" in capsys.readouterr().out
    assert main(["runs", "--root", str(root / "none")]) == 2
    assert "no folder" in capsys.readouterr().err
    keys = chain(root, "a", 0)
    (root / "evaluate" / keys["evaluate"] / manifest.NAME).write_text("{")
    assert main(["runs", "--root", str(root), "--uri", "http://127.0.0.1:9"]) == 0
    said = capsys.readouterr()
    assert "is damaged" in said.err and "does not answer" in said.err and f"train/{keys['train']}" in said.out


# --- duplet clean: folders --------------------------------------------------------------------------------------------
def test_what_no_run_uses_goes_and_runs_stay(root: Path) -> None:
    runs = [chain(root, "a", 30), chain(root, "b", 20, until="train")]
    unused, young = chain(root, "c", 30, until="tokenize"), chain(root, "d", 1, until="tokenize")
    before = there(root)
    dry = clean(root, dry_run=True)
    assert there(root) == before and set(dry.folders) == names(unused) and dry.after < dry.before
    done = clean(root)
    assert done.folders == dry.folders and done.after < done.before
    assert there(root) == names(runs[0]) | names(runs[1]) | names(young)
    assert clean(root).folders == []


def test_older_runs_go_where_only_the_newest_are_kept(root: Path) -> None:
    first, second, third = (chain(root, own, days) for own, days in (("a", 30), ("b", 20), ("c", 10)))
    other = chain(root, "d", 40, "other")
    assert set(clean(root, keep_runs=2).folders) == names(first)
    assert set(clean(root, keep_runs=1).folders) == names(second)
    assert there(root) == names(third) | names(other)


def test_a_training_that_another_went_on_from_stays(root: Path) -> None:
    first = chain(root, "a", 30, until="train")
    (root / "train" / first["train"] / "parameters.npz").write_bytes(b"numbers")
    path = root / "train" / first["train"] / manifest.NAME
    kept = json.loads(path.read_text())
    kept["files"] = {"parameters.npz": {"bytes": 7, "sha256": "5" * 64}}
    path.write_text(json.dumps(kept))
    tokenized = chain(root, "b", 20, until="tokenize")
    stage(root, "train", "b", 20, tokenize=tokenized["tokenize"], **{"train.start_from": "5" * 64})
    assert clean(root, keep_runs=1).folders == []


def test_work_that_nobody_goes_on_with_goes(root: Path, job_spec: Spec) -> None:
    going = [old(root / "work" / f"train-{16 * '1'}", 10), old(root / "work" / f"rejudge-{16 * '5'}", 10)]
    partial = old(root / "ingest" / f".{16 * '6'}.partial", 10)
    judged = old(root / "work" / f"rejudge-{16 * '7'}", 10)
    young, locked, of_a_job = (old(root / "work" / f"train-{16 * digit}", days) for digit, days in
                               (("2", 1), ("3", 10), ("4", 10)))  # fmt: skip
    job = folders.create(job_spec(root=str(root)), {"job.sh": "x"})
    folders.write_state(job, {"state": "cancelled"})
    (job / job_folder.STAGES).write_text(json.dumps({"train": 16 * "4"}))
    (root / "train").mkdir()
    (root / "rejudged").mkdir()
    with (root / "train" / f".{16 * '3'}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (root / "rejudged" / f".{16 * '7'}.lock").open("a") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            planned = set(clean(root, dry_run=True).folders)
            done = set(clean(root).folders)
        assert done == planned == {f"{one.parent.name}/{one.name}" for one in (*going, partial)}
    assert young.exists() and locked.exists() and judged.exists() and of_a_job.exists() and not partial.exists()
    folders.write_state(job, {"state": "finished"})
    assert set(clean(root).folders) == {f"work/{one.name}" for one in (locked, of_a_job, judged)}


def test_what_nights_means_and_commands_at_work_use_stays(root: Path, job_spec: Spec) -> None:
    night, seed, at_work, unused = (chain(root, own, 30) for own in "abcd")
    chain(root, "e", 20)  # the newest
    (root / "schedules" / "faq-1a2b3c4d").mkdir(parents=True)
    job = folders.create(job_spec(id="faq-1a2b3c4d-20261101-0200", root=str(root)), {"job.sh": "x"})
    folders.write_state(job, {"state": "finished"})
    (job / job_folder.STAGES).write_text(json.dumps(night))
    (root / "seeds" / "faq-1").mkdir(parents=True)
    (root / "seeds" / "faq-1" / "results.json").write_text(json.dumps({"evaluations": [seed["evaluate"]]}))
    run = tracking.Tracking(tracking.address(None, root), "x", "x", lambda _: None, False, apart=False)
    run.tags({f"duplet.key.{name}": key for name, key in at_work.items()})
    done = clean(root, keep_runs=1)
    run.close("FINISHED")
    assert set(done.folders) == names(unused)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--keep-runs", "0"], "keeps at least one run"),
        (["--days", "-1"], "keeps at least one run"),
        (["--root", "none"], "no folder"),
    ],
)
def test_told_to_keep_nothing(
    root: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert main(["clean", "--root", str(root), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_where_needs_are_not_known_nothing_goes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unused = chain(root, "a", 30, until="tokenize")
    keys = chain(root, "b", 30)
    path = root / "evaluate" / keys["evaluate"] / manifest.NAME
    kept = path.read_text()
    path.write_text('{"format": 9}')
    with pytest.raises(InputError, match="nothing was removed"):
        clean(root)
    path.write_text(kept)
    with (root / ".gc.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TryAgain, match="is at work"):
            clean(root)
    settings = root / "train" / keys["train"] / "config.json"
    settings.write_text('{"tracking": {"uri": "http://ann:***@127.0.0.1:9"}, "train": {}}')
    with pytest.raises(InputError, match=r"the MLflow of .* is not known"):
        clean(root)
    settings.write_text('{"tracking": {"uri": "http://127.0.0.1:9"}, "train": {}}')
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TryAgain, match="does not answer"):
        clean(root)
    assert there(root) == names(unused) | names(keys)
    settings.unlink()
    assert set(clean(root).folders) == names(unused)


def test_killed_at_any_step_nothing_is_left_in_part(root: Path, tmp_path: Path) -> None:
    kept, *_ = chain(root, "a", 30), chain(root, "b", 30, until="tokenize"), old(root / "work" / "train-1", 30)
    pristine = tmp_path / "pristine"
    root.rename(pristine)

    def again() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(pristine, root)

    def left(_: int) -> None:
        assert all(one.manifest for one in finished.made(root).values())
        clean(root)
        assert there(root) == names(kept) and not list(root.glob("*/.*.old")) and not list((root / "work").iterdir())
        again()

    again()
    assert at_every_step(lambda: clean(root), left, writing=True) > 8


# --- duplet clean: MLflow ---------------------------------------------------------------------------------------------
def tracked(root: Path, ended: str, stages: dict[str, str], failing: str | None = None) -> str:
    """A command's run with a run per stage; `failing`: the name of the one that fails."""
    run = tracking.Tracking(tracking.address(None, root), "faq", "faq", pytest.fail, False, apart=False)
    run.tags({f"duplet.key.{name}": key for name, key in stages.items()})
    for name, key in stages.items():
        try:
            with run.stage(name):
                run.params({"key": key})
                if name == failing:
                    raise KeyError
        except KeyError:
            pass
    run.close(ended)
    assert run.run_id is not None
    return run.run_id


def test_failed_runs_go_and_what_is_registered_stays(root: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, root)
    where = tracking.address(None, root)
    registered, kept = chain(root, "a", 30), chain(root, "b", 20)
    good = tracked(root, "FINISHED", registered)
    failed = tracked(root, "FAILED", {"ingest": 16 * "1", "train": 16 * "2"}, "train")
    later = tracked(root, "FAILED", {"train": kept["train"], "evaluate": 16 * "3"}, "evaluate")  # made what stays
    version = mlflow_registry.Registry(where, "faq").register(good, registered["train"], {})
    commands = lambda: {one.run_id for one in listing.known(where) if one.key is None}
    done = clean(root, days=7, keep_runs=1)
    assert (done.runs, done.folders) == ([], [f"evaluate/{registered['evaluate']}"])
    assert commands() == {good, failed, later}
    done = clean(root, days=0, keep_runs=1)
    assert len(done.runs) == 3 and done.runs[-1] == failed and commands() == {good, later} and done.folders == []
    assert there(root) == names(registered, "ingest", "tokenize", "train") | names(kept)
    mlflow_registry.Registry(where, "faq").remove(version)
    assert set(clean(root, days=0, keep_runs=1).folders) == names(registered, "ingest", "tokenize", "train")
