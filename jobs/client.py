"""A cluster's command-line client: found or missed in one sentence, its refusals told apart from its bad moments."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from jobs import programs
from pipeline.core.errors import DupletError, InputError, TryAgain, one_line

PATIENCE_S = 120


class Client(NamedTuple):
    """The programs of one cluster.

    need: what is missing when a program is, and what to do; busy: words in an error that a later try may not meet.
    """

    cluster: str
    missing: str
    busy: tuple[str, ...] = ()

    def need(self, *programs: str) -> None:
        """Raises InputError when one of the programs is not installed."""
        for program in programs:
            if shutil.which(program) is None:
                raise InputError(f"no {program} found: the target needs {self.missing}")

    def run(self, *command: str, stdin: str | None = None, allow: str | None = None) -> str:
        """What a command writes on stdout.

        Args:
            allow: an error that holds these words gives "" instead (any error, and a missing program, if empty).

        Raises:
            InputError: the cluster refuses, or the program is missing.
            TryAgain: the cluster cannot be reached, or is too busy now.
        """
        if allow == "" and shutil.which(command[0]) is None:
            return ""
        self.need(command[0])
        try:
            done = programs.run(*command, stdin=stdin, timeout_s=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise TryAgain(
                f"{self.cluster} has not answered {command[0]} for {PATIENCE_S} s: try again later"
            ) from None
        if done.returncode == 0:
            return done.stdout
        message = one_line(done.stderr) or one_line(done.stdout) or f"exit {done.returncode}"
        if allow is not None and allow in message:
            return ""
        raise self.refusal(message)

    def stream(self, *command: str) -> Iterator[str]:
        """Lines of what a command writes on stdout, as they come; raises as `run`."""
        self.need(command[0])
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace") as process,
        ):
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    yield line.rstrip("\n")
            finally:
                process.terminate()
            if process.wait() > 0:
                errors.seek(0)
                raise self.refusal(one_line(errors.read()) or f"exit {process.returncode}")

    def refusal(self, message: str) -> DupletError:
        """The error for what a command said when it failed."""
        # what is the matter often stands last
        short = message if len(message) <= 400 else f"{message[:150]} … {message[-250:]}"
        if any(words.lower() in message.lower() for words in self.busy):
            return TryAgain(f"{self.cluster} cannot take this now ({short}): try again later")
        return InputError(f"{self.cluster} refuses ({short}): fix this and run the same command again")


def lines_of(
    path: Path, follow: bool, ended: Callable[[], bool], ask_s: float = 5.0, look_s: float = 0.5
) -> Iterator[str]:
    """Lines of a growing file, without line ends; `follow`: until `ended` says so, asked every `ask_s` seconds."""
    rest, offset, last = b"", 0, not follow
    asked = 0.0
    while True:
        if path.exists():
            with path.open("rb") as file:
                file.seek(offset)
                new = file.read()
            offset += len(new)
            *whole, rest = (rest + new).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace")
        if last:
            if rest:
                yield rest.decode("utf-8", "replace")
            return
        if time.monotonic() - asked > ask_s:
            last, asked = ended(), time.monotonic()  # then reads once more what came before the end
        if not last:
            time.sleep(look_s)
