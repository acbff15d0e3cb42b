"""Programs of tests that one process runs, or several workers together."""

import os
import subprocess
import sys
from pathlib import Path


def run_by(workers: int, program: Path, *arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs a program, which may import from tests, by so many processes."""
    command = [sys.executable, str(program), *arguments]
    if workers > 1:
        launcher = str(Path(sys.executable).with_name("horovodrun"))
        command = [launcher, "--gloo", "-np", str(workers), "-H", f"localhost:{workers}", *command]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    env = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=cwd, env=env)
