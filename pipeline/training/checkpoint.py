"""Checkpoints: folders that exist whole or not at all, with everything a training needs to go on, and checksums."""

import json
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.core import atomic_files
from pipeline.models.kernel import library
from pipeline.training.batch_plan import Position

FORMAT = 1


@dataclass
class State:
    """Where a training stands, but for parameters and moments. All of it is in the checkpoint."""

    update: int = 0  # updates done
    position: Position = field(default_factory=Position)
    best: float | None = None  # of the metric that validation maximises
    best_update: int | None = None
    without_better: int = 0  # validations since the best one
    finished: bool = False
    skipped: int = 0  # updates whose loss or gradients were not finite
    overflows: int = 0  # updates left out because a gradient was too large for float16
    half_scale: float = 2.0**10  # that gradients are multiplied by before they travel as float16
    half_since: int = 0  # updates since that changed
    order: int = 0  # CRC-32 of the example numbers of all updates, in their order
    kernel: str = ""  # what runs the recurrent layers, as recurrent_kernel.agree names it; empty: not decided yet
    pending: list[list[float]] = field(default_factory=list)  # loss and gradient norm of updates not yet logged
    history: list[dict[str, float]] = field(default_factory=list)  # what was logged, by update


class Checkpoint(NamedTuple):
    folder: Path
    state: State
    parameters: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]


def save(
    folder: Path, state: State, parameters: dict[str, np.ndarray], moments: dict[str, np.ndarray], keep: int
) -> None:
    """Writes `update-N` under `folder`, then removes all but the newest `keep` and the best.

    Later ones go too: a training only comes to stand before them when they are damaged.
    """
    current = f"update-{state.update:08d}"
    for left in folder.glob(".update-*"):  # by a kill
        shutil.rmtree(left)
    with atomic_files.new_folder(folder / current) as new:
        np.savez(new / "parameters.npz", **parameters)
        np.savez(new / "moments.npz", **moments)
        (new / "state.json").write_text(json.dumps({"format": FORMAT, **asdict(state)}), encoding="utf-8")
        sums = {path.name: atomic_files.sha256(path) for path in sorted(new.iterdir())}
        (new / "checksums.json").write_text(json.dumps(sums), encoding="utf-8")
    updates = {name for name in names(folder) if name <= current}
    best = f"update-{state.best_update:08d}" if state.best_update is not None else current
    updates = {*sorted(updates)[-keep:], best}
    for name in names(folder):
        if name not in updates:
            atomic_files.remove_folder(folder / name)


class Writing:
    """Writes checkpoints in a thread, one at a time; what goes wrong there is raised by the next call."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._at_work: Future[None] | None = None

    def begin(
        self,
        folder: Path,
        state: State,
        parameters: dict[str, np.ndarray],
        moments: dict[str, np.ndarray],
        keep: int,
    ) -> None:
        """As `save`, of arrays that nobody changes any more; waits for the one before."""
        self.wait()
        now = replace(state, pending=list(state.pending), history=list(state.history))
        self._at_work = self._thread.submit(save, folder, now, parameters, moments, keep)

    def wait(self) -> None:
        """Returns when the newest checkpoint is whole. Raises what kept it from it."""
        at_work, self._at_work = self._at_work, None
        if at_work is not None:
            at_work.result()

    def close(self) -> None:
        """`wait`, and no more checkpoints."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()


def names(folder: Path) -> list[str]:
    """Names of the checkpoints under a folder, oldest first."""
    return [path.name for path in atomic_files.finished(folder, "update-*") if path.is_dir()]


def load(folder: Path) -> Checkpoint:
    """Reads one checkpoint.

    Raises:
        ValueError: a file is missing, cut short or changed.
    """
    try:
        sums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
        for name in ("parameters.npz", "moments.npz", "state.json"):
            if atomic_files.sha256(folder / name) != sums[name]:
                raise ValueError(f"{folder / name} has changed or was cut short")
        values: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError(f"{folder} has another format than {FORMAT}")
        values["position"] = Position(*values["position"])
        values.setdefault("kernel", library.MXNET)  # before there were others
        parameters, moments = (atomic_files.arrays(folder / name) for name in ("parameters.npz", "moments.npz"))
        return Checkpoint(folder, State(**values), parameters, moments)
    except (OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{folder} is damaged ({type(error).__name__}: {error})") from None


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, or None, and a warning for each newer one that is damaged."""
    warnings: list[str] = []
    for name in reversed(names(folder)):
        try:
            return load(folder / name), warnings
        except ValueError as error:
            warnings.append(f"checkpoint {name} is left out: {error}")
    return None, warnings
