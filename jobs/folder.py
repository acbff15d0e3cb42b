"""A job's folder under ROOT/jobs: what was handed over, how it stands, its log; for its owner only.

`spec.json` and the rendered files come whole or not at all. `handle` is the target's own name for the job, `state.json`
its state as far as somebody on the spot writes it down, `tags.json` the tags of its MLflow run, `log` its output.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import spec as specs
from jobs.spec import JobSpec
from jobs.texts import shell
from pipeline.core import atomic_files
from pipeline.core.errors import DupletError, InputError, TryAgain
from pipeline.distributed import job_folder

HANDLE, STATE, TAGS, LOG, CONFIG = "handle", "state.json", job_folder.TAGS, "log", specs.CONFIG
JOB_TAG = "duplet.job.id"  # of the job's MLflow run
CANCEL = "cancel"  # an empty file: the job was cancelled, rather than stopped by somebody else's signal


@dataclass(frozen=True)
class Record:
    """A submitted job, as its folder tells it."""

    spec: JobSpec
    folder: Path
    handle: str | None  # None: was never handed over

    def state(self) -> dict[str, Any]:
        """What state.json holds; empty where there is none yet or it is damaged."""
        return atomic_files.json_object(self.folder / STATE)


def create(spec: JobSpec, rendered: dict[str, str]) -> Path:
    """Makes the job's folder with what is to be handed over.

    Raises:
        TryAgain: the disk is full.
        InputError: the folder cannot be written for another reason.
    """
    script = next(iter(rendered))
    tags = {
        JOB_TAG: spec.id, "duplet.job.target": spec.target, "duplet.job.folder": str(spec.folder),
        "duplet.job.script": rendered[script][:4900],
    }  # fmt: skip
    content = {specs.SPEC: spec.model_dump_json(indent=1), **rendered, TAGS: json.dumps(tags)}
    content.setdefault(specs.CONFIG, spec.config_text)
    try:
        atomic_files.owners_folder(spec.folder.parent)
        with atomic_files.new_folder(spec.folder) as new:
            new.chmod(0o700)
            for name, text in content.items():
                path = new / name
                path.write_text(text, encoding="utf-8")
                path.chmod(0o700 if text.startswith("#!") else 0o600)
    except OSError as error:
        raise refusal(spec.folder, error) from None
    return spec.folder


def refusal(folder: Path, error: OSError) -> DupletError:
    """The sentence for a folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TryAgain(f"the disk of {folder.parent} is full, no job was submitted: make room and submit again")
    return InputError(
        f"job folder {folder} cannot be written ({error.strerror}), no job was submitted: "
        "set root to a folder you can write"
    )


def resumed(spec: JobSpec) -> str:
    """What goes on with a job that has ended unfinished, for the end of a sentence."""
    return f"`{shell('duplet', 'jobs', 'resume', spec.id, '--root', spec.root)}` goes on"


def write_handle(folder: Path, handle: str) -> None:
    """Notes the target's own name for the job."""
    atomic_files.write_text(folder / HANDLE, handle)


def write_state(folder: Path, values: dict[str, Any]) -> None:
    """Writes state.json. On a full disk the room of the old one is used; raises OSError where that is not enough."""
    text = json.dumps(values, indent=1)
    try:
        atomic_files.write_text(folder / STATE, text)
    except OSError:
        for partial in folder.glob(f".{STATE}.*"):
            partial.unlink(missing_ok=True)
        with (folder / STATE).open("r+b") as file:
            file.write(text.encode())
            file.truncate()


def remove(folder: Path) -> None:
    """Leaves nothing of a job that was not taken."""
    shutil.rmtree(folder, ignore_errors=True)


def load(folder: Path) -> Record:
    """Reads a job's folder. Raises InputError where it holds no job, or a damaged one."""
    try:
        spec = specs.check(json.loads((folder / specs.SPEC).read_text(encoding="utf-8")))
    except (OSError, ValueError, InputError) as error:
        raise InputError(f"{folder / specs.SPEC} cannot be read ({error}): is {folder} a job's folder?") from None
    try:
        handle = (folder / HANDLE).read_text(encoding="utf-8").strip()
    except OSError:
        handle = None
    return Record(spec, folder, handle or None)


def records(root: Path) -> Iterator[Record]:
    """All jobs under a root, oldest first; damaged ones are left out."""
    paths = [path for path in (root / "jobs").glob("*") if (path / specs.SPEC).is_file() and path.name[0] != "."]
    for path in sorted(paths, key=lambda path: (path / specs.SPEC).stat().st_mtime):
        try:
            yield load(path)
        except InputError:
            continue


def find(root: Path, job: str) -> Record:
    """The job of an id, the beginning of one, or a folder's path. Raises InputError for none or several."""
    if os.sep in job:
        return load(Path(job))
    names = sorted(path.parent.name for path in (root / "jobs").glob(f"*/{specs.SPEC}") if path.parent.name[0] != ".")
    chosen = [name for name in names if name == job] or [name for name in names if job and name.startswith(job)]
    if len(chosen) == 1:
        return load(root / "jobs" / chosen[0])
    if chosen:
        raise InputError(f"{job!r} begins {len(chosen)} job ids ({', '.join(chosen[-3:])}): give more of it")
    listing = shell("duplet", "jobs", "list", "--root", str(root))
    raise InputError(
        f"there is no job {job!r} under {root / 'jobs'}: `{listing}` shows those there are, --root "
        "says where else to look"
    )
