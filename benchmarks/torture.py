"""Kills trainings at random moments and compares what comes out with what undisturbed ones gave: `make torture`.

Each training is killed about ten times, the same command (or job) going on each time, and then left to finish. Its last
checkpoint (parameters, moments, history, metrics, place and order of examples), its trained folder and its points must
be, bit for bit, those of a training that nobody disturbed. Ends with 1 on any difference.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import yaml

from pipeline.config import load_config
from pipeline.core.event_log import Spool
from pipeline.distributed import heartbeat, launcher
from pipeline.orchestration import flow
from pipeline.training import batch_plan

PER_RUN = 10  # kills, before a training is left to finish
START_S = 10.0  # a start takes about so long: kills of the whole or of the command fall into it too
TRAINING_S = 2.0  # a rank is killed at most so long after the first update
LIMIT_S = 240.0
# What is killed, and when; "job" ones are of a supervised job, which `duplet jobs resume` goes on with.
KINDS = {
    "one rank": "after a start",
    "all ranks": "after a start",
    "the command": "from its start on",
    "everything": "from its start on",
    "during a checkpoint": "all ranks",
    "during a validation": "all ranks",
    "the supervisor": "of a job",
}


class Case(NamedTuple):
    workers: int
    kind: str


class Killed(NamedTuple):
    case: Case
    phase: str  # what rank 0 was at, as its last heartbeat says


def configuration(folder: Path, pairs: int = 400) -> Path:
    """A training of some 1,500 tiny updates, with dropout, that saves and validates often."""
    rng = random.Random(0)
    rows = []
    for i in range(pairs):
        words = rng.sample([f"w{j}" for j in range(12)], rng.randint(4, 7))
        rows.append({"qid": f"q{i}", "query": " ".join(words), "document": " ".join(reversed(words))})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = {
        "name": "torture",
        "ingest": {"source": {"format": "jsonl", "path": str(folder / "pairs.jsonl"), "columns": {"query_id": "qid"}}},
        "tokenize": {"max_tokens": {"query": 8, "document": 8}, "min_count": 1},
        "model": {"embedding": 12, "hidden": 10, "layers": 2, "dropout": 0.2},
        "train": {
            "threads_per_worker": 1, "max_pairs_per_update": 16, "epochs": 75, "patience_validations": None,
            "log_every_updates": 5, "checkpoint_every_updates": 7, "validate_every_updates": 45,
        },
        "evaluate": {"bootstrap_samples": 20},
        "tracking": {"system_metrics": False},
    }  # fmt: skip
    path = folder / "torture.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


class Training:
    """One root with a training in it, which is started, killed and started again."""

    def __init__(self, config: Path, root: Path, workers: int, overrides: list[str], job: bool = False) -> None:
        self.config, self.root, self.job, self.id = config, root, job, ""
        self.settings = [f"root={root}", f"train.workers={workers}", *overrides]
        self.work = flow.plan(load_config(config, self.settings)).work("train")
        self.kept = root / "kept"
        self.process: subprocess.Popen[str] | None = None
        self.kept.mkdir(parents=True)
        self.work.mkdir(parents=True)
        (self.work / "checkpoints").symlink_to(self.kept)  # a training that is done removes its work folder

    def start(self) -> None:
        """The command, once more; of a job: its submission, or going on with it."""
        if not self.job:
            self.process = subprocess.Popen(
                _duplet("train", self.config, *self.settings),
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        elif self.id:
            run("jobs", "resume", self.id, "--root", self.root)
        else:
            said = run("submit", self.config, *self.settings, "pause_s=0", "--json")
            self.id = json.loads(said.splitlines()[-1])["id"]

    def finish(self) -> None:
        """Waits for a good end. Raises RuntimeError with what was said at another one."""
        if self.job:
            run("jobs", "wait", self.id, "--root", self.root)
            return
        assert self.process is not None
        _, said = self.process.communicate(timeout=LIMIT_S)
        if self.process.returncode:
            raise RuntimeError(f"exit {self.process.returncode}: {said}")

    @property
    def over(self) -> bool:
        """Whether the training is done; then nothing is left to kill."""
        return any(self.root.glob("train/*/manifest.json"))

    def beats(self) -> list[heartbeat.Beat]:
        """The newest heartbeats of ranks that are alive."""
        return [beat for beat in heartbeat.beats(self.work) if launcher.is_worker(beat.pid, self.work.resolve())]

    def kill(self, case: Case, rng: random.Random, after: int = -1) -> Killed | None:
        """Starts, waits for the moment, which comes `after` an update, and kills; None where the training was done
        before."""
        before = {beat.token for beat in heartbeat.beats(self.work)}
        began = time.monotonic()
        self.start()
        mine = lambda: [beat for beat in self.beats() if beat.token not in before]
        if case.kind in ("the command", "everything"):
            moment = rng.uniform(0, START_S)
            self._wait(lambda: time.monotonic() - began > moment)
        else:
            phase = {"during a checkpoint": "saving", "during a validation": "validating"}.get(case.kind, "training")
            at = lambda beat: beat.phase == phase and beat.update >= after
            ready = lambda: len(found := mine()) == case.workers and at(found[0])
            if not self._wait(ready):
                return None
            time.sleep(rng.uniform(0, TRAINING_S if phase == "training" else 0.004))
        if self.over:
            return None
        self._strike(case.kind, mine(), rng)
        last = [beat.phase for beat in heartbeat.beats(self.work) if beat.token not in before]
        return Killed(case, last[0] if last else "starting")

    def _strike(self, kind: str, ranks: list[heartbeat.Beat], rng: random.Random) -> None:
        if kind == "the supervisor":
            state = json.loads((self.root / "jobs" / self.id / "state.json").read_text(encoding="utf-8"))
            _kill(state["pid"])
            return
        assert self.process is not None
        if kind in ("the command", "everything"):
            below = psutil.Process(self.process.pid).children(recursive=True) if kind == "everything" else []
            for pid in (self.process.pid, *(process.pid for process in below)):
                _kill(pid)
        else:
            for beat in [rng.choice(ranks)] if kind == "one rank" else ranks:
                _kill(beat.pid)
        self.process.communicate(timeout=LIMIT_S)  # of a command killed alone, the ranks may still be at work

    def _wait(self, true: Callable[[], bool]) -> bool:
        """Waits for a condition; False where the training ended before."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            if true():
                return True
            if self.process is not None and self.process.poll() is not None:
                self.finish()  # which must have been a good end
            if self.over:
                return False
            time.sleep(0.001)
        raise RuntimeError(f"nothing came within {LIMIT_S:.0f} s")

    def outcome(self) -> dict[str, Any]:
        """Digests of all that must not depend on what happened on the way."""
        last = sorted(self.kept.glob("update-*"))[-1]
        (trained,) = (path.parent for path in self.root.glob("train/*/manifest.json"))
        points = [
            (point.update, {k: v for k, v in point.values.items() if k in ("loss", "gradient_norm", "learning_rate")
                            or (k.startswith("valid/"))})
            for point, _ in Spool(trained / "points.jsonl").read(0)
        ]  # fmt: skip
        found: dict[str, Any] = {"last checkpoint": last.name, "points": _digest(repr(points).encode())}
        for folder, names in (
            (last, ("parameters.npz", "moments.npz", "state.json")),
            (trained, ("parameters.npz", "history.json", "result.json")),
        ):
            for name in names:
                found[f"{folder.parent.name}/{name}"] = _digest((folder / name).read_bytes())
        return found


def torture(folder: Path, cases: list[Case], seed: int, say: Callable[[str], None], *overrides: str) -> list[str]:
    """Kills by `cases`, says a line per kind, and returns what came out different, empty where nothing did."""
    rng, config = random.Random(seed), configuration(folder)
    template = folder / "template"
    run("tokenize", config, f"root={template}")
    different: list[str] = []
    killed: Counter[tuple[Case, str]] = Counter()
    runs = 0
    for key, group in itertools.groupby(sorted(cases, key=_run_of), key=_run_of):
        workers, job = key
        expected = finished(training_of(config, folder / f"undisturbed-{workers}-{job}", template, workers, overrides))
        waiting = list(group)
        rng.shuffle(waiting)
        while waiting:
            runs += 1
            training = training_of(config, folder / f"run-{runs}", template, workers, overrides, job)
            done: list[str] = []
            while waiting and len(done) < PER_RUN and (found := training.kill(waiting[-1], rng)):
                killed[waiting.pop(), found.phase] += 1
                done.append(found.case.kind)
            if not training.over:
                training.start()
            got = finished(training, started=True)
            names = [name for name in expected if expected[name] != got[name]]
            say(f"run {runs}: {workers} worker{'s' * (workers > 1)}, {len(done)} kills, {len(names)} differences")
            different += [f"run {runs} ({', '.join(done)}): {name}" for name in names]
    for case in sorted({case for case, _ in killed}):
        phases = {phase: n for (one, phase), n in killed.items() if one == case}
        during = ", ".join(f"{phase} {n}" for phase, n in sorted(phases.items()))
        say(f"{case.workers} worker{'s' * (case.workers > 1)}, {case.kind}: {sum(phases.values())} kills ({during})")
    say(f"{sum(killed.values())} kills in {runs} trainings: {len(different)} differences")
    return different


def _run_of(case: Case) -> tuple[int, bool]:
    return case.workers, case.kind == "the supervisor"


def training_of(
    config: Path, root: Path, template: Path, workers: int, overrides: tuple[str, ...], job: bool = False
) -> Training:
    for stage in ("ingest", "tokenize"):
        shutil.copytree(template / stage, root / stage)
    return Training(config, root, workers, list(overrides), job)


def finished(training: Training, started: bool = False) -> dict[str, Any]:
    if not started:
        training.start()
    training.finish()
    found = training.outcome()
    shutil.rmtree(training.root, ignore_errors=True)
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _duplet(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]


def run(*arguments: object) -> str:
    done = subprocess.run(_duplet(*arguments), capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        raise RuntimeError(f"duplet {' '.join(map(str, arguments))}: exit {done.returncode}: {done.stderr}")
    return done.stdout


def seek_s(examples: int, places: int, seed: int) -> float:
    """The slowest of finding the next batches at random places of a plan, from nothing but the lengths, in seconds."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 64, (examples, 2)).astype(np.int32)
    slowest = 0.0
    for place in range(places):
        made = batch_plan.Plan(
            lengths, 64, 32_768, seed + place
        )  # of another order each time, so none is known already
        epoch, pool = int(rng.integers(10)), int(rng.integers(made.pools))
        began = time.perf_counter()
        made.updates_per_epoch()  # a training asks for that first
        made.batches(epoch, pool)
        slowest = max(slowest, time.perf_counter() - began)
    return slowest


def main() -> int:
    """Exit 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    say = lambda line: print(line, flush=True)
    kinds = [Case(workers, kind) for kind in KINDS for workers in (1, 2) if (workers, kind) != (1, "all ranks")]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="duplet-torture-") as folder:
        cases = list(itertools.islice(itertools.cycle(kinds), args.kills))
        different = torture(Path(folder), cases, args.seed, say)
    for line in different:
        say(f"different: {line}")
    say(f"took {time.monotonic() - began:.0f} s")
    say(f"finding one of 20 random places among 10,000,000 examples: {seek_s(10_000_000, 20, args.seed):.2f} s at most")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
