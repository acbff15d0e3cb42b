"""A root at an address: folders of stages in an object store, by a copy on each machine."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import spec
from pipeline.config import check_config
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError, TryAgain
from pipeline.ingest import s3
from pipeline.orchestration import lease, store
from pipeline.orchestration.lease import Lease
from pipeline.orchestration.store import Store
from tests.buckets import Server, cut, failing, reached, slow
from tests.conftest import duplet_command, last_json
from tests.jobs.local_jobs import assert_bitwise_equal

ROOT = "s3://bucket/runs"
KEY = "train/0123456789abcdef"
FREE: Any = SimpleNamespace(check=lambda: None)  # a lease that is held for good


@pytest.fixture(scope="module")
def started() -> Iterator[Server]:
    made = Server()
    made.put("bucket")
    yield made
    made.close()


@pytest.fixture
def bucket(started: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with reached(started, monkeypatch) as served:
        there = Store("s3://bucket", Path("copy"))
        there.remove(*there.names("runs"))
        yield served


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    monkeypatch.setattr(lease, "LEASE_S", 1.0)
    monkeypatch.setattr(s3, "_ATTEMPTS", 3)


def folder_of(copy: Path) -> Path:
    """A finished folder of a stage, with a file in a folder and one of several pieces."""
    folder = copy / KEY
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.txt").write_text("text")
    (folder / "large.bin").write_bytes(bytes(range(256)) * 9000)
    (folder / "empty").write_bytes(b"")
    manifest.write(folder, "train", manifest.KeyParts(1, {}, {}, {}), {"updates": 3}, time.time())
    return folder


def held(there: Store) -> Lease:
    return Lease(there, "train-0123456789abcdef", there.copy.name, "ann on a host", lambda _: None)


def send(there: Store, folder: Path) -> None:
    with held(there) as own:
        there.send(folder, own)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FAULTS = {
    "none": None, "500": failing("500 Internal Server Error", "InternalError", 2),
    "503": failing("503 Slow Down", "SlowDown", 2), "cut": cut, "slow": slow,
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_was_sent_is_fetched_as_it_was(fault: str, bucket: Server, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a")
    send(Store(ROOT, tmp_path / "a"), folder)
    other = Store(f"{ROOT}/", tmp_path / "b")
    bucket.fault = FAULTS[fault]
    assert other.fetch(tmp_path / "b" / KEY)
    assert content(tmp_path / "b" / KEY) == content(folder)
    bucket.fault, bucket.asked = None, []
    assert other.fetch(tmp_path / "b" / KEY)
    assert {path.rpartition("/")[2] for path in bucket.asked} == {manifest.NAME}  # the rest is here
    assert Store(ROOT, tmp_path / "b").names("locks") == []


def test_any_address_that_fsspec_knows_is_a_store(tmp_path: Path) -> None:
    folder, there = folder_of(tmp_path / "a"), Store("memory://of-a-test/runs", tmp_path / "a")
    other = Store(there.address, tmp_path / "b")
    assert not other.fetch(tmp_path / "b" / KEY)
    send(there, folder)
    assert other.fetch(tmp_path / "b" / KEY)
    assert content(tmp_path / "b" / KEY) == content(folder)
    assert there.names("train") == sorted(f"{KEY}/{name}" for name in content(folder))
    there.remove(*there.names(""), "of/none")
    assert there.names("") == []


@pytest.mark.parametrize("lost", ["inner/a.txt", "large.bin", manifest.NAME])
def test_an_upload_that_was_cut_off_leaves_nothing_that_counts(lost: str, bucket: Server, tmp_path: Path) -> None:
    folder, there = folder_of(tmp_path / "a"), Store(ROOT, tmp_path / "a")
    bucket.refuse = lambda path: path.endswith(lost)
    with pytest.raises(TryAgain, match=f"{ROOT}/{KEY}/{lost} cannot be reached: .*goes on from here"):
        send(there, folder)
    other = Store(ROOT, tmp_path / "b")
    assert not other.holds(tmp_path / "b" / KEY)
    assert not other.fetch(tmp_path / "b" / KEY)
    assert not (tmp_path / "b" / KEY).exists()
    bucket.refuse = lambda path: False
    send(there, folder)
    assert other.fetch(tmp_path / "b" / KEY)
    assert content(tmp_path / "b" / KEY) == content(folder)


def test_what_is_in_the_store_counts_and_is_checked(bucket: Server, tmp_path: Path) -> None:
    folder, there = folder_of(tmp_path / "a"), Store(ROOT, tmp_path / "a")
    send(there, folder)
    here, other = tmp_path / "b" / KEY, Store(ROOT, tmp_path / "b")
    there.write(f"{KEY}/inner/a.txt", b"Text")
    with pytest.raises(
        InputError, match=f"{ROOT}/{KEY}/inner/a.txt is not what its manifest says: remove {ROOT}/{KEY}"
    ):
        other.fetch(here)
    there.remove(f"{KEY}/inner/a.txt")
    with pytest.raises(InputError, match=r"inner/a.txt is missing: remove"):
        other.fetch(here)
    assert not here.exists()
    listed = json.loads((folder / manifest.NAME).read_text())
    outside = listed | {
        "files": {"../../outside": {"bytes": 4, "sha256": atomic_files.sha256(folder / "inner" / "a.txt")}}
    }
    there.write("outside", b"text")
    there.write(f"{KEY}/{manifest.NAME}", json.dumps(outside).encode())
    with pytest.raises(InputError, match="not one below its folder"):
        other.fetch(here)
    assert not (tmp_path / "b" / "outside").exists()
    there.write(f"{KEY}/{manifest.NAME}", b"{}")
    with pytest.raises(InputError, match=r"manifest.json is damaged \('files'\): remove"):
        other.fetch(here)
    # a folder that was made here and sent by another machine first is replaced by that one's
    send(there, folder)
    folder_of(tmp_path / "b")
    assert content(here) != content(folder)
    assert other.fetch(here)
    assert content(here) == content(folder)


def test_credentials_that_have_expired_are_said(bucket: Server, tmp_path: Path) -> None:
    bucket.fault = failing("400 Bad Request", "ExpiredToken", 10**6)
    with pytest.raises(InputError, match=r"credentials \(AWS_ACCESS_KEY_ID.* expired") as error:
        Store(ROOT, tmp_path).fetch(tmp_path / KEY)
    assert "of-a-test" not in str(error.value)
    bucket.fault = failing("500 Internal Server Error", "InternalError", 10**6)
    with pytest.raises(TryAgain, match=f"{ROOT}/{KEY}/manifest.json cannot be reached"):
        Store(ROOT, tmp_path).fetch(tmp_path / KEY)


class Claims:
    """Objects that are listed as soon as they are written, in memory; each call takes a moment."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        time.sleep(0.001)
        return self.objects.get(name)

    def write(self, name: str, content: bytes) -> None:
        time.sleep(0.001)
        self.objects[name] = content

    def names(self, folder: str) -> list[str]:
        found = sorted(name for name in list(self.objects) if name.startswith(f"{folder}/"))
        time.sleep(0.001)
        return found

    def remove(self, *names: str) -> None:
        for name in names:
            self.objects.pop(name, None)


def test_of_many_machines_one_at_a_time_makes_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL_S", 0.005)
    monkeypatch.setattr(lease, "LEASE_S", 600.0)  # none is late, however busy this machine is
    claims, at_work, most, turns = Claims(), [0], [0], []

    def machine(number: int) -> None:
        for turn in range(5):
            with Lease(claims, "train-1", f"copy{number}", f"machine {number}", lambda _: None) as own:
                at_work[0] += 1
                most[0] = max(most[0], at_work[0])
                time.sleep(0.002)
                own.check()
                at_work[0] -= 1
                turns.append((number, turn))

    threads = [threading.Thread(target=machine, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert sorted(turns) == [(number, turn) for number in range(4) for turn in range(5)]
    assert claims.objects == {}


def test_a_machine_that_is_gone_is_not_waited_for_and_one_that_comes_back_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claims, said = Claims(), []
    gone = Lease(claims, "train-1", "a", "ann on host1", said.append)
    monkeypatch.setattr(gone, "_beat", lambda: None)
    gone._beats = threading.Thread(target=lambda: None)
    with gone, Lease(claims, "train-1", "b", "bob on host2", said.append) as own:
        assert said[0].startswith("train-1 is being made by ann on host1")
        own.check()
        with pytest.raises(TryAgain, match="another machine makes train-1"):
            gone.check()
    assert claims.objects == {}
    claims.objects["locks/train-1/a"] = b"left by a kill"
    with Lease(claims, "train-1", "a", "ann on host1", said.append):  # the same copy again: nobody is waited for
        pass
    assert len(said) == 1


def test_a_claim_that_comes_late_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine slept while it wrote its claim anew, and another took over meanwhile."""
    claims, there = Claims(), threading.Event()
    monkeypatch.setattr(lease, "LEASE_S", 0.3)
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    write = claims.write
    with Lease(claims, "train-1", "a", "ann on host1", lambda _: None) as slow:

        def late(name: str, content: bytes) -> None:
            if name.endswith("/a"):
                assert there.wait(20)
            write(name, content)

        monkeypatch.setattr(claims, "write", late)
        with Lease(claims, "train-1", "b", "bob on host2", lambda _: None) as other:
            there.set()
            slow._beats.join(20)
            with pytest.raises(TryAgain, match="another machine makes train-1"):
                slow.check()
            other.check()
            assert list(claims.objects) == ["locks/train-1/b"]


def test_a_holder_that_was_late_and_whom_nobody_followed_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = Claims()
    monkeypatch.setattr(lease, "LEASE_S", 0.0)  # each claim is late
    with Lease(claims, "train-1", "a", "ann on host1", lambda _: None) as own:
        time.sleep(0.3)
        own.check()
        claims.objects["locks/train-1/b"] = b"bob on host2"
        with pytest.raises(TryAgain):
            own.check()


def test_who_lost_the_lease_writes_none_of_the_winners_files(bucket: Server, tmp_path: Path) -> None:
    here, there = (Store(ROOT, tmp_path / name) for name in ("here", "there"))
    folder_of(there.copy)
    there.send(there.copy / KEY, FREE)
    written = {name: there.read(name) for name in there.names("train")}
    changed = folder_of(here.copy)
    (changed / "inner" / "a.txt").write_text("other")
    with pytest.raises(TryAgain, match="another machine makes"):
        here.send(changed, held(here))
    assert {name: there.read(name) for name in there.names("train")} == written


def test_an_empty_manifest_counts_as_none(bucket: Server, tmp_path: Path) -> None:
    """As an exception may leave one while it is sent."""
    here = Store(ROOT, tmp_path)
    here.write(f"{KEY}/manifest.json", b"")
    assert not here.holds(tmp_path / KEY) and not here.fetch(tmp_path / KEY)


def test_checkpoints_are_removed_by_their_sums_first(bucket: Server, tmp_path: Path) -> None:
    here, removed = Store(ROOT, tmp_path), list[str]()
    for name in ("update-1/checksums.json", "update-1/a.npz", "update-2/checksums.json", "update-2/a.npz"):
        here.write(f"work/train-1/checkpoints/{name}", b"x")
    here.remove = lambda *names: removed.extend(names)  # type: ignore[method-assign]
    here.forget(tmp_path / "work" / "train-1")
    assert [name.endswith("checksums.json") for name in removed] == [True, True, False, False]


def test_a_bucket_that_is_not_there_is_named(bucket: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="create the bucket, or correct root"):
        Store("s3://nobucket/runs", tmp_path).write("a", b"x")


@pytest.mark.parametrize("root", ["s3://", "s3:///runs", "S3://bucket/runs"])
def test_an_address_without_a_bucket_is_refused(root: str, small_config: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(InputError, match=r"root\b.*must name a store in small letters and a bucket"):
        check_config(small_config() | {"root": root}, "test")


@pytest.mark.timeout(600)
def test_one_machine_makes_and_another_uses(
    small_config: Callable[..., dict[str, Any]], duplet: Callable[..., Any], bucket: Server, tmp_path: Path
) -> None:
    config = small_config(train={**small_config()["train"], "epochs": 1}) | {"root": ROOT}
    run = lambda machine, verb, *words: duplet(
        verb, config, *words, env={**os.environ, "DUPLET_CACHE": str(tmp_path / machine)}
    )
    made = last_json(run("a", "run", "--json"))
    assert {row["state"] for row in made["stages"].values()} == {"ran"}
    there = Store(ROOT, tmp_path)
    stages = {name.split("/")[0] for name in there.names("")}
    assert stages == {"ingest", "tokenize", "train", "evaluate"}  # neither claims nor checkpoints are left
    states = last_json(run("b", "status", "--json"))["stages"]
    assert [row["state"] for row in states] == ["up to date"] * 4
    assert not list((tmp_path / "b").rglob(manifest.NAME))
    found = run("b", "export", "--output", str(tmp_path / "exported"))
    assert found.returncode == 0, found.stderr
    # what is needed: an exported folder has what the evaluation chose, too
    assert {path.parents[1].name for path in (tmp_path / "b").rglob(manifest.NAME)} == {"train", "evaluate"}
    page = run("c", "report", "--output", str(tmp_path / "page.html"))
    assert page.returncode == 0, page.stderr
    assert (tmp_path / "page.html").read_bytes()
    again = last_json(run("b", "run", "--json"))
    assert {row["state"] for row in again["stages"].values()} == {"up to date"}
    assert again["metrics"] == made["metrics"]
    for stage, row in made["stages"].items():
        assert content(Path(row["folder"])) == content(Path(again["stages"][stage]["folder"]))
        assert str(tmp_path / "b") in again["stages"][stage]["folder"]
    (copy,) = (tmp_path / "b" / "roots").iterdir()
    refused = run("b", "clean", "--root", ROOT)
    assert refused.returncode == 2
    assert f"'{ROOT}' is an address: give a path on this machine; the copy of that root is {copy}" in refused.stderr
    listed = subprocess.run(
        [sys.executable, "-P", "-m", "pipeline.cli", "runs", "--root", str(copy), "--json"],
        text=True,
        capture_output=True,
    )
    assert [run["folder"] for run in last_json(listed)["runs"]] == [again["stages"]["evaluate"]["folder"]]


@pytest.mark.timeout(600)
def test_a_training_goes_on_on_another_machine_and_ends_bitwise_equal(
    small_config: Callable[..., dict[str, Any]], duplet: Callable[..., Any], bucket: Server, tmp_path: Path
) -> None:
    config = small_config()
    config["train"] |= {"epochs": 12, "patience_validations": None, "checkpoint_every_updates": 1}
    undisturbed = tmp_path / "undisturbed"
    last_json(duplet("train", config, f"root={undisturbed}", "--json"))

    config |= {"root": ROOT}
    environment = {**os.environ, "DUPLET_CACHE": str(tmp_path / "a")}
    command = duplet_command(tmp_path, "train", config)
    process = subprocess.Popen(command, text=True, stderr=subprocess.PIPE, env=environment)
    there, end = Store(ROOT, tmp_path), time.monotonic() + 200
    while not (whole := [name for name in there.names("work") if name.endswith(store.SUMS)]):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    for path in (tmp_path / "a").glob("roots/*/work/train-*/rank-*.pid"):
        os.kill(int(path.read_text()), signal.SIGKILL)
    process.kill()
    process.communicate(timeout=60)
    assert not there.names("train")
    assert whole

    claims = there.names("locks")
    assert claims  # of the machine that is gone
    there.remove(*claims)  # instead of the minute and a half in which it would be waited for
    finished = duplet("train", config, env={**os.environ, "DUPLET_CACHE": str(tmp_path / "b")})
    assert finished.returncode == 0, finished.stderr
    assert "which another machine left in s3://bucket/runs" in finished.stderr
    assert "going on from update-" in finished.stderr
    (copy,) = (tmp_path / "b" / "roots").iterdir()
    assert_bitwise_equal(copy, undisturbed)
    assert not there.names("work")
    assert not there.names("locks")


def test_a_job_runs_with_the_address_and_lies_in_the_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DUPLET_CACHE", str(tmp_path))
    (tmp_path / "c.yaml").write_text(f"root: {ROOT}\ningest: {{source: {{format: docstrings}}}}\n")
    job = spec.read(str(tmp_path / "c.yaml"), [], {"target": "kubernetes", "workers": "1"})
    assert f'root="{ROOT}"' in job.settings(1)
    assert job.folder.is_relative_to(tmp_path / "roots")
    assert job.environment["DUPLET_CACHE"] == str(tmp_path)


def test_a_checkpoint_that_came_in_part_is_none(bucket: Server, tmp_path: Path) -> None:
    """Its sums are sent last; and only what is newer than what is here is fetched."""
    here = Store(ROOT, tmp_path / "a")
    work, said = tmp_path / "a" / "work" / "train-1", list[str]()

    def checkpoint(update: int) -> None:
        folder = work / "checkpoints" / f"update-{update:08d}"
        folder.mkdir(parents=True)
        (folder / "parameters.npz").write_text(f"{update}")
        (folder / store.SUMS).write_text("{}")

    def seen_elsewhere(name: str) -> list[str]:
        other = Store(ROOT, tmp_path / name)
        with other.carried(tmp_path / name / "work" / "train-1", FREE, said.append):
            return sorted(
                str(path.relative_to(tmp_path / name / "work" / "train-1")) for path in (tmp_path / name).rglob("*.*")
            )

    with pytest.raises(TryAgain, match="stopped"), here.carried(work, FREE, said.append):
        (work / "points.jsonl").parent.mkdir(parents=True)
        (work / "points.jsonl").write_text("points")
        checkpoint(3)
        raise TryAgain("stopped")
    first = ["checkpoints/update-00000003/checksums.json", "checkpoints/update-00000003/parameters.npz", "points.jsonl"]
    assert seen_elsewhere("b") == first
    bucket.refuse = lambda path: path.endswith("6/parameters.npz")
    with pytest.raises(TryAgain, match="stopped"), here.carried(work, FREE, said.append):
        checkpoint(6)
        raise TryAgain("stopped")
    assert "a checkpoint is only on this machine" in said[-1]
    assert [name for name in seen_elsewhere("c") if name.endswith(store.SUMS)] == [first[0]]
    bucket.refuse = lambda path: False
    with pytest.raises(TryAgain, match="stopped"), here.carried(work, FREE, said.append):
        for path in sorted((work / "checkpoints" / "update-00000003").iterdir()):
            path.unlink()
        (work / "checkpoints" / "update-00000003").rmdir()
        raise TryAgain("stopped")
    assert seen_elsewhere("d") == [name.replace("3", "6") for name in first]
    # here a newer one than there
    checkpoint(9)
    with here.carried(work, FREE, said.append):
        assert (work / "checkpoints" / "update-00000009").exists()
