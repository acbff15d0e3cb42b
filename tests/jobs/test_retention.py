"""`duplet gc` on roots of many nights, whose stages are small folders and whose runs and versions are MLflow's own."""

import fcntl
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jobs import folder as folders
from jobs import nights, retention
from jobs.nights import Verdict
from jobs.spec import JobSpec
from pipeline import tracking
from pipeline.cli.main import main
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError, TryAgain
from pipeline.distributed import job_folder
from pipeline.registry import mlflow_registry
from pipeline.registry.mlflow_registry import BEFORE, EVALUATED, MOVE, Registry
from pipeline.tracking import removal
from tests.jobs.roots import names, stage
from tests.killing import at_every_step

Spec = Callable[..., JobSpec]
NAME = "faq-1a2b3c4d"


class Nights(NamedTuple):
    """A root with a schedule; `night` adds one."""

    root: Path
    make: Spec

    def night(self, day: int, train: str | None = None, state: str = "finished", **runs: str) -> dict[str, str]:
        """A night's job and the stages that it made, or whose training it found up to date; their keys."""
        ingest = stage(self.root, "ingest", f"{day}")
        tokenize = stage(self.root, "tokenize", f"{day}", ingest=ingest)
        train = train or stage(self.root, "train", f"{day}", tokenize=tokenize)
        evaluate = stage(self.root, "evaluate", f"{day}", ingest=ingest, tokenize=tokenize, train=train)
        keys = {"ingest": ingest, "tokenize": tokenize, "train": train, "evaluate": evaluate}
        spec = self.make(id=f"{NAME}-202611{day:02}-0200", root=str(self.root))
        folder = folders.create(spec, {"job.sh": "#!/bin/sh\n"})
        folders.write_state(folder, {"state": state, "exit_code": 0})
        (folder / job_folder.STAGES).write_text(json.dumps(keys))
        for name, value in runs.items():
            (folder / name).write_text(value)
        nights.note(self.root / "schedules" / NAME, Verdict(f"2026-11-{day:02}T02:00", spec.id, 0, "", 1.0, {}))
        return keys

    def collect(self, keep_nights: int = 2, champions: int = 1, dry_run: bool = False) -> retention.Outcome:
        return retention.collect(self.root, keep_nights, champions, dry_run, lambda _: None)

    def there(self) -> set[str]:
        """STAGE/KEY of all finished folders, and jobs/ID."""
        return {
            f"{path.parent.name}/{path.name}"
            for name in (*retention.FOLDERS, "jobs")
            for path in (self.root / name).glob("[!.]*")
        }

    def whole(self) -> None:
        """Each folder that counts as finished is; nothing refers to a folder that is gone, but its job."""
        for name in retention.FOLDERS:
            for path in (self.root / name).glob("[!.]*"):
                manifest.load(path, name, "")


@pytest.fixture
def some(tmp_path: Path, job_spec: Spec) -> Nights:
    root = tmp_path / "runs"
    (root / "schedules" / NAME).mkdir(parents=True)
    return Nights(root, job_spec)


# --- folders ----------------------------------------------------------------------------------------------------------
def test_old_nights_go_and_what_others_need_stays(some: Nights) -> None:
    old, reused, *new = (some.night(day) for day in (1, 2))
    new = [some.night(3, train=reused["train"]), some.night(4)]
    by_hand = stage(some.root, "evaluate", "by hand", ingest=old["ingest"])
    (some.root / "work" / f"train-{old['train']}").mkdir(parents=True)
    before = some.there()
    dry = some.collect(dry_run=True)
    assert some.there() == before and dry.nights == [f"{NAME} 2026-11-01T02:00", f"{NAME} 2026-11-02T02:00"]
    assert dry.before - dry.after > 10_000
    done = some.collect()
    assert done.after < done.before and (done.nights, done.folders) == (dry.nights, dry.folders)
    kept = {*names(new[0]), *names(new[1]), f"ingest/{old['ingest']}", f"evaluate/{by_hand}"}
    assert some.there() == kept | {f"jobs/{NAME}-2026110{day}-0200" for day in (3, 4)}
    assert not list((some.root / "work").iterdir())
    assert some.collect().nights == []


def test_a_night_at_work_or_still_to_be_done_stays(some: Nights) -> None:
    for day, state in ((1, "running"), (2, "requeued"), (3, "failed"), (4, "finished"), (5, "finished")):
        some.night(day, state=state)
    nights.note(some.root / "schedules" / NAME, Verdict("2026-11-03T02:00", "j", 75, "MLflow is away", 1.0, {}))
    with (some.root / "jobs" / f"{NAME}-20261104-0200" / "supervisor.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert some.collect(1).nights == []
    assert some.collect(1).nights == [f"{NAME} 2026-11-04T02:00"]


def test_a_job_by_hand_keeps_the_stages_that_it_has_named(some: Nights) -> None:
    """It trains still, so that no folder of its own tells what it reads."""
    old = some.night(1)
    some.night(2)
    job = folders.create(some.make(id="faq-20261101-020000-1a2b3c4d", root=str(some.root)), {"job.sh": "x"})
    (job / job_folder.STAGES).write_text(json.dumps({"ingest": old["ingest"], "tokenize": old["tokenize"]}))
    some.collect(1)
    assert names(old, "ingest", "tokenize") <= some.there() and not names(old, "train", "evaluate") & some.there()


def test_what_mlflow_has_not_got_stays(some: Nights) -> None:
    some.night(1, journal="20261101T020000-abcdef")
    some.night(2)
    (some.root / "tracking" / "20261101T020000-abcdef").mkdir(parents=True)
    assert some.collect(1).nights == []
    (some.root / "tracking" / "20261101T020000-abcdef").rmdir()
    assert len(some.collect(1).nights) == 1


def test_a_run_by_hand_that_is_at_work_keeps_what_it_reads(some: Nights) -> None:
    old = some.night(1)
    some.night(2)
    run = tracking.Tracking(tracking.address(None, some.root), "x", "x", lambda _: None, False, apart=False)
    run.tags({"duplet.key.ingest": old["ingest"], "duplet.key.tokenize": old["tokenize"]})
    some.collect(1)
    run.close("FINISHED")
    assert names(old, "ingest", "tokenize") <= some.there() and not names(old, "train", "evaluate") & some.there()


def test_a_locked_folder_stays_and_goes_the_next_time(some: Nights) -> None:
    old = some.night(1)
    some.night(2)
    lock = some.root / "train" / f".{old['train']}.lock"
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        some.collect(1)
        assert {f"train/{old['train']}", f"jobs/{NAME}-20261101-0200"} <= some.there()
        assert not names(old, "ingest", "evaluate") & some.there()
    some.collect(1)
    assert not names(old) & some.there() and f"jobs/{NAME}-20261101-0200" not in some.there()


def test_jobs_that_are_no_nights_stay(some: Nights) -> None:
    for day in (1, 2, 3):
        some.night(day)
    folders.create(some.make(id="faq-20261101-020000-1a2b3c4d", root=str(some.root)), {"job.sh": "x"})
    other = folders.create(some.make(id="else-20261101-0200", root=str(some.root)), {"job.sh": "x"})
    some.collect(1)
    assert {f"jobs/{other.name}", "jobs/faq-20261101-020000-1a2b3c4d"} <= some.there()


def test_a_database_that_is_not_there_stops_all(some: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its registry may hold champions."""
    for day in (1, 2):
        some.night(day)
    before = some.there()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{some.root}/elsewhere.db")
    with pytest.raises(InputError, match=rf"nothing was removed, since .*elsewhere\.db of {NAME}-20261101-0200 is not"):
        some.collect(1)
    assert some.there() == before


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda root: (root / "jobs" / f"{NAME}-20261102-0200" / "spec.json").write_text("{}"), "what a job needs"),
        (lambda root: stage(root, "train", "x"), None),
        (
            lambda root: (root / "train" / stage(root, "train", "x") / "manifest.json").write_text('{"format": 9}'),
            "is damaged or of another version, so what it needs is not known: nothing was removed",
        ),
    ],
)
def test_of_another_version_nothing_is_removed(
    some: Nights, spoil: Callable[[Path], object], sentence: str | None
) -> None:
    for day in (1, 2, 3):
        some.night(day)
    spoil(some.root)
    before = some.there()
    if sentence is None:
        some.collect(1)
        return
    with pytest.raises(InputError, match=sentence):
        some.collect(1)
    assert some.there() == before


def test_told_to_keep_nothing_and_no_root(some: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for nights_kept, champions_kept in ((0, 5), (14, 0), (-3, 5)):
        with pytest.raises(InputError, match="keeps at least one night and one champion"):
            retention.collect(some.root, nights_kept, champions_kept, False, print)
    assert main(["gc", "--root", str(tmp_path / "none")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_one_call_at_a_time(some: Nights) -> None:
    some.night(1)
    some.night(2)
    with (some.root / retention.LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TryAgain, match="another `duplet gc` or `duplet clean` is at work"):
            some.collect(1)
    assert len(some.there()) == 10


def test_killed_at_any_step_what_counts_as_whole_is_and_the_next_call_ends_it(some: Nights, tmp_path: Path) -> None:
    for day in (1, 2, 3):
        some.night(day)
    pristine = tmp_path / "pristine"
    some.root.rename(pristine)

    def again() -> None:
        shutil.rmtree(some.root, ignore_errors=True)
        shutil.copytree(pristine, some.root)

    def left(_: int) -> None:
        some.whole()
        some.collect(1)
        some.whole()
        assert len(some.there()) == 5 and not list(some.root.glob("*/.*.old"))
        again()

    again()
    assert at_every_step(lambda: some.collect(1), left, writing=True) > 20


# --- the registry and MLflow ------------------------------------------------------------------------------------------
@pytest.fixture
def tracked(some: Nights, empty_database: Path) -> Iterator[tuple[Nights, Registry]]:
    """Six nights, each with its runs and a version; those of the 1st, 2nd and 4th became champion."""
    shutil.copy(empty_database, some.root)
    where = tracking.address(None, some.root)
    registry = Registry(where, "faq")
    champion = None
    for day in range(1, 7):
        keys = some.night(day)
        run = tracking.Tracking(where, "faq", "faq", lambda line: pytest.fail(line), False, apart=False)
        for name in ("train", "evaluate"):
            with run.stage(name):
                run.params({"key": keys[name]})
                run.artifact(some.root / name / keys[name], "model" if name == "train" else "evaluation")
        run.close("FINISHED")
        (some.root / "jobs" / f"{NAME}-202611{day:02}-0200" / "run_id").write_text(str(run.run_id))
        training = mlflow_registry.stage_run(where, "train", keys["train"])
        assert training is not None
        version = registry.register(training, keys["train"], {EVALUATED: keys["evaluate"]})
        action = "promoted" if day in (1, 2, 4) else "refused"
        tags = {f"{MOVE}.202611{day:02}": json.dumps({"action": action, "to": version.number})}
        if action == "promoted":
            tags |= {BEFORE: str(champion.number)} if champion else {}
            registry.move(version, champion, tags)
            champion = registry.version(version.number)
        else:
            registry.tag(version, tags)
    yield some, registry


def runs_there(where: tracking.Address) -> dict[str, str]:
    """The days whose runs MLflow has in any state, by the run's name and key."""
    with tracking.asked(where, "run") as (mlflow, client):
        experiments = [one.experiment_id for one in client.search_experiments(mlflow.entities.ViewType.ALL)]
        found = client.search_runs(experiments, run_view_type=mlflow.entities.ViewType.ALL)
        return {one.info.run_id: one.data.params.get("key", one.info.run_name) for one in found}


def test_champions_and_what_they_rest_on_stay(tracked: tuple[Nights, Registry]) -> None:
    some, registry = tracked
    keys = {
        day: job_folder.read(some.root / "jobs" / f"{NAME}-202611{day:02}-0200", "stages.json") for day in range(1, 7)
    }
    artifacts = some.root / "mlflow-artifacts"
    before = len(list(artifacts.rglob("manifest.json")))
    done = some.collect(keep_nights=2, champions=1)
    assert len(done.nights) == 4 and done.versions == 2  # of the 1st and the 3rd night
    all_left = mlflow_registry.all_versions(registry.where, 9)
    assert {one.number for one in (*all_left.kept, *all_left.others)} == {2, 4, 5, 6}
    left = some.there()
    for day, kept in ((1, ()), (3, ()), (2, ("train", "evaluate")), (4, ("train", "evaluate"))):
        assert names(keys[day]) & left == names(keys[day], *kept) if kept else not names(keys[day]) & left
    known = runs_there(registry.where)
    assert set(known.values()) == {"faq"} | {keys[day][name] for day in (2, 4, 5, 6) for name in ("train", "evaluate")}
    assert before - len(list(artifacts.rglob("manifest.json"))) == 4  # of the 1st and the 3rd night
    assert tracking.model_of_run(registry.where, str(registry.version(4).run_id), some.root / "copy").is_dir()
    assert registry.champion() == registry.version(4)
    assert main(["promote", "--back", "--name", "faq", "--root", str(some.root)]) == 0
    assert registry.champion() == registry.version(2)


def test_a_run_that_the_job_s_folder_does_not_know_goes_with_its_night(tracked: tuple[Nights, Registry]) -> None:
    some, registry = tracked
    for day in (1, 6):  # as of a start whose run MLflow got behind the command, or by `duplet sync`
        run = tracking.Tracking(
            registry.where, "faq", f"unknown-{day}", lambda line: pytest.fail(line), False, apart=False
        )
        run.tags({"duplet.job.id": f"{NAME}-202611{day:02}-0200"})
        with run.stage("ingest"):
            run.params({"key": f"ingest-{day}"})
        run.close("FINISHED")
    some.collect(keep_nights=2, champions=1)
    left = set(runs_there(registry.where).values())
    assert {"unknown-6", "ingest-6"} <= left
    assert not {"unknown-1", "ingest-1"} & left


def test_a_champion_of_old_goes_when_others_have_followed_it(tracked: tuple[Nights, Registry]) -> None:
    some, registry = tracked
    keys = job_folder.read(some.root / "jobs" / f"{NAME}-20261102-0200", "stages.json")
    some.collect(keep_nights=2, champions=1)
    assert names(keys, "train", "evaluate") <= some.there() and some.collect(keep_nights=2, champions=1).nights == []
    for number in (5, 6):
        champion = registry.champion()
        assert champion is not None
        move = json.dumps({"action": "promoted", "to": number})
        registry.move(
            registry.version(number), champion, {f"{MOVE}.2026112{number}": move, BEFORE: f"{champion.number}"}
        )
    done = some.collect(keep_nights=2, champions=1)
    assert (done.nights, done.versions) == ([f"{NAME} 2026-11-02T02:00", f"{NAME} 2026-11-04T02:00"], 2)
    assert not names(keys) & some.there() and not (some.root / "jobs" / f"{NAME}-20261102-0200").exists()
    assert keys["train"] not in runs_there(registry.where).values()


def test_nights_on_which_nothing_was_new_do_not_stay_with_their_champion(tracked: tuple[Nights, Registry]) -> None:
    """Each of them has named the champion's training; the champion's own night leads to that."""
    some, _ = tracked
    keys = job_folder.read(some.root / "jobs" / f"{NAME}-20261104-0200", "stages.json")
    for day in range(7, 12):
        some.night(day, **({"train": keys["train"]} if day < 10 else {}))
    some.collect(keep_nights=2, champions=1)
    jobs = {name.removeprefix(f"jobs/{NAME}-202611") for name in some.there() if name.startswith("jobs/")}
    assert jobs == {f"{day:02}-0200" for day in (2, 4, 10, 11)} and names(keys, "train", "evaluate") <= some.there()
    shutil.rmtree(some.root / "jobs" / f"{NAME}-20261104-0200")  # and where that one is gone, one of the others does
    for day in (6, 7, 8):
        some.night(day, train=keys["train"])
    some.collect(keep_nights=2, champions=1)
    jobs = {name.removeprefix(f"jobs/{NAME}-202611") for name in some.there() if name.startswith("jobs/")}
    assert jobs == {f"{day:02}-0200" for day in (2, 8, 10, 11)} and names(keys, "train") <= some.there()


def test_a_registry_that_does_not_answer_costs_nothing(some: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (1, 2, 3):
        some.night(day)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = some.there()
    with pytest.raises(TryAgain, match="does not answer when asked for registered model"):
        some.collect(1)
    assert some.there() == before


class Killed(BaseException):
    """Ends a call where it stands, as a kill does: nothing of ours catches it."""


def test_killed_among_mlflow_s_calls_the_next_call_ends_it(
    tracked: tuple[Nights, Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call is killed before one of its next steps, so that in the end there was a kill between any two."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking import MlflowClient

    some, registry = tracked
    left = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return real(*given, **named)

        return call

    steps: list[tuple[object, str]] = [
        (MlflowClient, "delete_run"), (MlflowClient, "delete_model_version"), (SqlAlchemyStore, "_hard_delete_run"),
        (removal, "_remove_files"), (atomic_files, "remove_folder"),
    ]  # fmt: skip
    for owner, name in steps:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    for kills in range(200):
        left = 2 + kills % 4
        try:
            some.collect(2, 1)
            break
        except Killed:
            some.whole()
            assert registry.champion() == registry.version(4)
    assert kills > 8
    assert len(runs_there(registry.where)) == 12  # of four nights, each with two stages
    assert {one.number for one in mlflow_registry.all_versions(registry.where, 1).others} == {5, 6}
    jobs = {name for name in some.there() if name.startswith("jobs/")}
    assert jobs == {f"jobs/{NAME}-2026110{day}-0200" for day in (2, 4, 5, 6)}  # two of champions, two of the newest


def test_the_disk_is_told_by_folder(some: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes as du counts them."""
    some.night(1)
    (some.root / "mine.txt").write_text("x" * 5000)
    (some.root / "train" / "linked").symlink_to(some.root / "ingest")
    config = tmp_path / "faq.yaml"
    config.write_text(f"root: {some.root}\ningest: {{source: {{format: tsv, path: x.tsv}}}}\n")
    assert main(["status", str(config), "--disk", "--json"]) == 0
    parts: dict[str, Any] = {one["name"]: one for one in json.loads(capsys.readouterr().out.splitlines()[-1])["parts"]}
    for name in ("train", "jobs", "mine.txt"):
        said = subprocess.run(["du", "-s", "--block-size=1", str(some.root / name)], capture_output=True, text=True)
        assert parts[name]["bytes"] == int(said.stdout.split()[0]), name
    assert parts["mine.txt"]["what"] == "not Duplet's" and parts["train"]["what"] == "parameters"
