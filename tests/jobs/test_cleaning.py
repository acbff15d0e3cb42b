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
from tests.jobs.roots import names, stage
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
        (["--days", "-1"], "keeps at least one run"),
        (["--days", "nan"], "keeps at least one run"),
        (["--root", "none"], "no folder"),
    ],
)
def test_told_to_keep_nothing(
    root: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert main(["clean", "--root", str(root), *arguments]) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(InputError, match="keeps at least one run"):
        clean(root, keep_runs=0)


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


def test_what_unfinished_work_reads_stays_as_long_as_the_work(root: Path) -> None:
    read, replayed, unused = (chain(root, own, 30, until="tokenize") for own in "abc")
    teacher, taught = (chain(root, own, 30, until="train") for own in "df")
    chain(root, "e", 20)  # the newest
    work = old(root / "work" / f"train-{16 * '1'}", 1)
    folder = lambda keys, name: f"/moved/since/{name}/{keys[name]}"
    job = {"ingested": folder(read, "ingest"), "tokenized": folder(read, "tokenize"), "trained": None}
    (work / "job.json").write_text(json.dumps({**job, "others": {"teacher": folder(teacher, "train")}}))
    kept = old(root / "work" / f"train-{16 * '2'}-not-finite-00000120", 1)
    (kept / "update.json").write_text(
        json.dumps({"tokenized": folder(replayed, "tokenize"), "others": {"teach": folder(taught, "train")}})
    )
    assert set(clean(root, keep_runs=1).folders) == names(unused)
    later = time.time() - 10 * 86_400
    for path in (work, kept):
        for one in (*path.rglob("*"), path):
            os.utime(one, (later, later))
    gone = {f"work/{path.name}" for path in (work, kept)} | names(read) | names(replayed) | names(teacher)
    gone |= names(taught)
    assert set(clean(root, keep_runs=1).folders) == gone


def test_an_update_kept_for_replay_is_of_its_training(root: Path) -> None:
    kept = old(root / "work" / f"train-{16 * '2'}-not-finite-00000120", 10)
    [work] = finished.unfinished(root)
    assert (work.stage, work.key) == ("train", 16 * "2")
    (root / "train").mkdir()
    with (root / "train" / f".{16 * '2'}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert clean(root).folders == []
    assert clean(root).folders == [f"work/{kept.name}"]


def test_runs_whose_configuration_is_not_known_stay(root: Path) -> None:
    for own, days in (("a", 30), ("b", 20)):
        keys = chain(root, own, days)
        for name, key in keys.items():
            path = root / name / key / manifest.NAME
            written = json.loads(path.read_text())
            del written["extra"]["configuration"]
            path.write_text(json.dumps(written))
    assert clean(root, keep_runs=1).folders == []


@pytest.mark.parametrize("place", ["runs/indexes/faq", "faq"])
def test_a_training_that_a_search_index_was_built_with_stays(root: Path, place: str) -> None:
    indexed, second = (chain(root, name, 30, until="train") for name in ("a", "d"))
    gone, _ = chain(root, "b", 20), chain(root, "c", 10)
    index = root.parent / place
    index.mkdir(parents=True)
    model, rerank = ({"folder": f"{root}/train/{keys['train']}", "key": keys["train"]} for keys in (indexed, second))
    (index / "index.json").write_text(json.dumps({"format": 1, "model": model, "settings": {"rerank": rerank}}))
    words_alone = root.parent / "words"
    words_alone.mkdir()
    (words_alone / "index.json").write_text(json.dumps({"model": None}))
    assert set(clean(root, keep_runs=1).folders) == names(gone)


def test_a_sweeps_best_trial_stays_whatever_mlflow_knows(root: Path) -> None:
    best, other, _ = chain(root, "a", 30), chain(root, "b", 20), chain(root, "c", 10)
    sweep = root / "sweeps" / "faq-1"
    sweep.mkdir(parents=True)
    (sweep / "study.db").write_text("")
    with pytest.raises(InputError, match=r"the best trial of .*faq-1 is not known: run the sweep to its end"):
        clean(root, keep_runs=1)
    clean(root)
    trials = [{"run_id": 32 * "1", "evaluation": f"runs/evaluate/{keys['evaluate']}"} for keys in (best, other)]
    results = sweep / "results.json"
    for content in ({}, {"trials": []}, {"trials": [{"run_id": 32 * "1"}]}):  # damaged, or of an older version
        results.write_text(json.dumps(content))
        with pytest.raises(InputError, match="the best trial of"):
            clean(root, keep_runs=1)
    results.write_text(json.dumps({"trials": trials}))
    os.utime(results, (time.time() - 100,) * 2)  # the study went on, and was interrupted
    with pytest.raises(InputError, match="the best trial of"):
        clean(root, keep_runs=1)
    os.utime(results)
    assert set(clean(root, keep_runs=1).folders) == names(other)


# --- duplet clean: MLflow ---------------------------------------------------------------------------------------------
def tracked(
    root: Path, ended: str, stages: dict[str, str], failing: str | None = None, where: tracking.Address | None = None
) -> str:  # fmt: skip
    """A command's run with a run per stage; `failing`: the name of the one that fails."""
    where = where or tracking.address(None, root)
    run = tracking.Tracking(where, "faq", "faq", pytest.fail, False, apart=False)
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


def test_a_run_that_a_job_knows_by_its_journal_alone_stays(root: Path, empty_database: Path, job_spec: Spec) -> None:
    """MLflow got it by `duplet sync`: the job's next start finds it by the journal's name, and goes on in it."""
    shutil.copy(empty_database, root)
    where = tracking.address(None, root)
    run = tracking.Tracking(where, "faq", "faq", pytest.fail, False, apart=False)
    run.close("KILLED")
    assert run.journal is not None
    job = folders.create(job_spec(root=str(root)), {"job.sh": "x"})
    for known, left in ((run.journal, True), ("another", False)):
        (job / job_folder.JOURNAL).write_text(known)
        clean(root, days=0)
        assert (run.run_id in {one.run_id for one in listing.known(where)}) is left


def test_the_runs_of_other_programs_stay(root: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, root)
    where = tracking.address(None, root)
    failed, parent = (tracked(root, "FAILED", {"ingest": 16 * digit}) for digit in "12")
    with tracking.asked(where, "run") as (_, client):
        experiment = client.get_experiment_by_name("faq").experiment_id
        theirs = [client.create_run(experiment, run_name="theirs").info.run_id]
        theirs.append(client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id)
        for run_id in theirs:
            client.set_terminated(run_id, "FAILED")
    done = clean(root, days=0)
    left = {one.run_id for one in listing.known(where)}
    assert {parent, *theirs} < left and failed in done.runs and failed not in left


def test_a_finished_training_keeps_its_run_and_the_one_above(root: Path, empty_database: Path) -> None:
    """Its folder has gone: what MLflow has is all that is left of it."""
    shutil.copy(empty_database, root)
    run_id = tracked(root, "FAILED", {"train": 16 * "1", "evaluate": 16 * "2"}, "evaluate")
    assert clean(root, days=0).runs == []
    assert run_id in {one.run_id for one in listing.known(tracking.address(None, root))}


def test_what_mlflow_has_not_got_yet_stays(root: Path) -> None:
    unsent, gone, _ = chain(root, "a", 30), chain(root, "b", 20), chain(root, "c", 10)
    planned = cleaning.plan(root, time.time(), 1)
    run = tracking.Tracking(tracking.address(None, root), "x", "x", lambda _: None, False, later=True)
    run.tags({f"duplet.key.{name}": key for name, key in unsent.items()})
    work = old(root / "work" / f"train-{unsent['train']}", 10)
    run.close("FINISHED")
    meanwhile = {one.path.name: cleaning._remove(root, one) for one in planned if one.path}
    assert meanwhile == {key: keys is gone for keys in (unsent, gone) for key in keys.values()}
    for dry_run in (True, False):
        assert clean(root, keep_runs=1, dry_run=dry_run).folders == [f"work/{work.name}"]
    shutil.rmtree(root / "tracking")
    assert set(clean(root, keep_runs=1).folders) == names(unsent)


def test_what_is_registered_under_the_root_stays_wherever_else_mlflow_is(
    root: Path, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_database, root)
    champion, gone, _ = chain(root, "a", 30), chain(root, "b", 20), chain(root, "c", 10)
    good = tracked(root, "FINISHED", champion)
    mlflow_registry.Registry(tracking.address(None, root), "faq").register(good, champion["train"], {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(InputError, match=r"other\.db of MLFLOW_TRACKING_URI is not there"):
        clean(root, keep_runs=1)
    shutil.copy(empty_database, tmp_path / "other.db")
    done = clean(root, days=0, keep_runs=1)
    assert set(done.folders) == names(gone) | names(champion, "evaluate") and done.runs == []


def test_a_database_that_is_not_where_a_training_says_stops_all(root: Path) -> None:
    keys, unused = chain(root, "a", 30), chain(root, "b", 30, until="tokenize")
    settings = root / "train" / keys["train"] / "config.json"
    settings.write_text('{"tracking": {"uri": "sqlite:///team.db"}, "train": {}}')
    with pytest.raises(InputError, match=r"nothing was removed, since the MLflow database .*team\.db of .* not there"):
        clean(root)
    assert there(root) == names(keys) | names(unused)


@pytest.mark.parametrize("name", ["theirs", "Ann's", 'Ann\'s "best"', "a\\b"])
def test_a_version_that_a_person_registered_in_mlflow_stays(root: Path, empty_database: Path, name: str) -> None:
    shutil.copy(empty_database, root)
    where = tracking.address(None, root)
    by_hand, gone, _ = chain(root, "a", 30), chain(root, "b", 20), chain(root, "c", 10)
    tracked(root, "FINISHED", by_hand)
    [training] = (run for run in listing.known(where) if run.key == by_hand["train"])
    with tracking.asked(where, "run") as (_, client):
        client.create_registered_model(name)
        client.create_model_version(name, f"runs:/{training.run_id}/model", training.run_id)
    assert set(clean(root, keep_runs=1).folders) == names(gone) | names(by_hand, "evaluate")
