"""What a run and the job that started it leave for each other, in the folder that DUPLET_JOB_FOLDER names.

The job: `tags.json`, tags for the MLflow run. The run: `run_id` and `journal` (of pipeline.tracking), so that a job's
next start goes on in the same MLflow run, `stages.json`, the keys of its stages, and `workers.json`, where its workers
leave their heartbeats. Without the variable, or where the folder cannot be written, nothing happens: a run never fails
on account of it.
"""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from pipeline.core import atomic_files

VARIABLE = "DUPLET_JOB_FOLDER"
TAGS, RUN_ID, JOURNAL, WORKERS, STAGES = "tags.json", "run_id", "journal", "workers.json", "stages.json"


def tags() -> dict[str, str]:
    """The tags that the job wants its run to have."""
    content = read(folder(), TAGS)
    return {str(name): str(value) for name, value in content.items()}


def runs(where: Path | None) -> list[str]:
    """The journal and the MLflow run of the job's start before this one, as far as they are known."""
    contents = []
    for name in (JOURNAL, RUN_ID):
        with contextlib.suppress(OSError):
            contents.append((where / name).read_text(encoding="utf-8").strip() if where else "")
    return [name for name in contents if name]


def run_id(where: Path | None) -> str | None:
    """MLflow's id of the job's run, where it is known."""
    return next((name for name in runs(where) if re.fullmatch("[0-9a-f]{32}", name)), None)


def keep_run(run_id: str | None, journal: str | None) -> None:
    """Notes this run's MLflow run and journal."""
    for name, value in ((RUN_ID, run_id), (JOURNAL, journal)):
        if value:
            _write(name, value)


def keep_workers(verb: str, work: Path, workers: int) -> None:
    """Notes which stage's workers are about to start, how many, and their work folder."""
    _write(WORKERS, json.dumps({"verb": verb, "work": str(work), "workers": workers}))


def keep_stages(keys: dict[str, str]) -> None:
    """Notes the key of each stage that this run needs or makes."""
    _write(STAGES, json.dumps(keys))


def folder() -> Path | None:
    """The job's folder, if this run belongs to a job."""
    value = os.environ.get(VARIABLE)
    return Path(value) if value else None


def read(where: Path | None, name: str) -> dict[str, Any]:
    """A JSON object of a job's folder; empty where there is none."""
    return atomic_files.json_object(where / name) if where else {}


def _write(name: str, text: str) -> None:
    where = folder()
    if where is not None:
        with contextlib.suppress(OSError):
            atomic_files.write_text(where / name, text)
