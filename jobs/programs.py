"""Other people's programs: what they are given and what they say, byte for byte."""

import subprocess
from typing import NamedTuple


class Said(NamedTuple):
    """How a program ended. Bytes that are not UTF-8 come through unharmed: they are given back as they were."""

    returncode: int
    stdout: str
    stderr: str


def run(*command: str, stdin: str | None = None, timeout_s: float | None = None) -> Said:
    """Runs a program to its end; line ends are left as they are.

    Raises:
        subprocess.TimeoutExpired: it was ended after `timeout_s`.
    """
    input_bytes = None if stdin is None else stdin.encode("utf-8", "surrogateescape")
    done = subprocess.run(command, input=input_bytes, capture_output=True, timeout=timeout_s)
    return Said(done.returncode, *(output.decode("utf-8", "surrogateescape") for output in (done.stdout, done.stderr)))
