"""What a supervisor remembers and decides: failures, steps lost, pauses, and when to give up. Pure but for reading."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from jobs.spec import JobSpec
from pipeline.core.errors import GateError, InputError
from pipeline.distributed import heartbeat, job_folder

SAME_STEP = 3  # failures at one step, one after the other: it would fail there again
LONGEST_PAUSE_S = 600.0


class Failure(NamedTuple):
    """One start of a run that did not end well."""

    exit_code: int
    reason: str  # without a full stop
    stage: str  # whose workers were at work; empty before the first
    reached: int | None  # the last update done, where there was one
    checkpoint: int  # update of the newest checkpoint; 0 where there is none

    @property
    def lost(self) -> int:
        """Updates that the next start does again."""
        return max(0, (self.reached or 0) - self.checkpoint)

    def sentence(self, next_workers: int) -> str:
        """For the log and the tags."""
        at = f" at update {self.reached}, {self.lost} updates lost" if self.reached is not None else ""
        stage = f" in {self.stage}" if self.stage else ""
        return f"failed{stage}{at} ({self.reason}): starting again on {next_workers} workers"


def failure(folder: Path, exit_code: int, reason: str) -> Failure:
    """What a run that has ended left in its job's folder and its work folder."""
    noted = job_folder.read(folder, job_folder.WORKERS)
    work = Path(noted["work"]) if "work" in noted else None
    if work is None or not work.exists():
        return Failure(exit_code, reason, str(noted.get("verb", "")), None, 0)
    token = job_folder.read(work, "job.json").get("token")
    reached = heartbeat.reached(list(heartbeat.beats(work, token)))
    return Failure(exit_code, reason, str(noted["verb"]), reached, newest_checkpoint(work))


def newest_checkpoint(work: Path) -> int:
    """The update of the newest checkpoint in a work folder, 0 without one; a folder of that name is whole."""
    updates = [int(path.name.removeprefix("update-")) for path in work.glob("checkpoints/update-[0-9]*")]
    return max(updates, default=0)


def give_up(failures: list[Failure], retries: int) -> str | None:
    """Why not to start again after the last of these failures; None to go on.

    >>> again = Failure(1, "killed", "train", 7, 4)
    >>> give_up([again, again], retries=5) is None
    True
    >>> give_up([again, again, again], retries=5)
    'failed three times at the same step (train, update 7): killed'
    >>> give_up([Failure(1, "a host is away", "train", None, 0)] * 5, retries=5) is None  # it may pass
    True
    """
    last = failures[-1]
    if last.exit_code in (InputError.exit_code, GateError.exit_code):
        return last.reason
    same = len({(f.stage, f.reached) for f in failures[-SAME_STEP:]}) == 1 and len(failures) >= SAME_STEP
    if same and last.reached:  # before an update the fault is more likely around it, and growing pauses may outlast it
        return f"failed three times at the same step ({last.stage}, update {last.reached}): {last.reason}"
    if len(failures) > retries:
        return f"gave up after {retries} restarts: {last.reason}" if retries else last.reason
    return None


def pause_s(restart: int, first_s: float) -> float:
    """How long to wait before the n-th restart: twice as long each time, at most ten minutes.

    >>> [pause_s(n, 5.0) for n in (1, 2, 3, 20)]
    [5.0, 10.0, 20.0, 600.0]
    """
    return min(LONGEST_PAUSE_S, first_s * 2.0 ** min(restart - 1, 30))


def fitting_workers(spec: JobSpec, cores: int, gpus: int) -> int:
    """How many workers to start on a machine of so many cores and GPUs: the most that fit, within the job's range.

    A fixed number is kept, and so is the least number where there is room for fewer: what is too few is refused, or
    warned of, by the run itself.
    """
    room = gpus if spec.gpus_per_worker else cores // (spec.cpus_per_worker or 1)
    return max(spec.min_workers, min(spec.max_workers, room))


def outcome(text: str) -> dict[str, Any]:
    """The object that `duplet --json` printed last; empty where it did not come so far."""
    try:
        result = json.loads(text)
        return result if isinstance(result, dict) else {}
    except ValueError:
        return {}
