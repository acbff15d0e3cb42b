"""Programs of tests in a mount namespace of their own, where they may mount disks as small as they like."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pipeline.cli.main

OWN_MOUNTS = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]


def need_mounts(disk: Path) -> None:
    """Makes the folder for a disk; skips the test where nothing can be mounted there."""
    disk.mkdir()
    try:
        probe = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", str(disk)]
        refused = subprocess.run(probe, capture_output=True, text=True).stderr.strip()
    except OSError as error:
        refused = str(error)
    if refused:
        pytest.skip(f"no tmpfs can be mounted here, neither as root nor in a namespace: {refused}")


def printed(program: Path, *arguments: Path) -> dict[str, Any]:
    """The JSON object in the last line of a program that may mount, and may import from tests."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    done = subprocess.run(
        [*OWN_MOUNTS, sys.executable, str(program), *map(str, arguments)],
        capture_output=True, text=True, timeout=280, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)  # -7: SIGBUS
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


def duplet(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command, in such a program."""
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        code = pipeline.cli.main.main(list(arguments))
    return code, said.getvalue()
