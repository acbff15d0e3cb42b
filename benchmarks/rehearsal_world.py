"""The world around the nights of `make rehearsal`: a clock, cron, people's webhook, MLflow's server, data, a disk."""

import contextlib
import http.server
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs import clock
from pipeline import tracking
from pipeline.distributed import heartbeat
from tests.tracking.server import Server

ZONE = "Europe/Berlin"
DISK_MB = 192
# Run before the rehearsal, in a mount namespace of its own: a disk for the root that can be filled, and a machine that
# shows Berlin's time. Nothing of it is left afterwards.
MOUNTS = f"""set -e
mkdir -p "$1/runs" "$1/etc"
mount -t tmpfs -o size={DISK_MB}m none "$1/runs"
cp -a /etc/. "$1/etc/" 2>/dev/null || true
ln -sfn /usr/share/zoneinfo/{ZONE} "$1/etc/localtime"
rm -f "$1/etc/timezone"
mount --bind "$1/etc" /etc
shift
exec "$@"
"""
VOWELS, CONSONANTS = "aeiou", "bdfgklmnprst"
WORDS = [f"{first}{vowel}" for first in CONSONANTS for vowel in VOWELS]
USUAL, OTHER = WORDS[:30], WORDS[30:]  # other words are those of a night whose queries have drifted
LEFT_BYTES = 1 << 18  # what others leave of a full disk


class Clock:
    """The clock that Duplet sees, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.environ[clock.VARIABLE] = str(path)

    def show(self, moment: datetime) -> None:
        """Sets it to an aware time, from which it runs on."""
        self.path.write_text(f"{moment.timestamp() - time.time():.3f}", encoding="ascii")


class Cron:
    """Debian's cron as far as a schedule sees it: the program crontab, and a shell with almost no environment."""

    def __init__(self, folder: Path) -> None:
        self.table = folder / "crontab"
        program = folder / "bin" / "crontab"
        program.parent.mkdir()
        program.write_text(
            f"#!{sys.executable}\nimport pathlib, sys\ntable = pathlib.Path({str(self.table)!r})\n"
            "if sys.argv[1] == '-l':\n    sys.stdout.write(table.read_text() if table.exists() else '')\n"
            "else:\n    table.write_text(sys.stdin.read())\n"
        )
        program.chmod(0o755)
        os.environ["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"

    def fire(self, action: str, cores: int | None = None) -> int:
        """Runs the line of `duplet schedule ACTION`, on so many cores (None: all); its exit code."""
        [line] = [line for line in self.table.read_text().splitlines() if f" schedule {action} " in line]
        command = re.sub(r"\\([\\%])|%.*", lambda match: match[1] or "", line.split(" ", 5)[5])
        bare = {"HOME": os.environ["HOME"], "LOGNAME": "root", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
        free = sorted(os.sched_getaffinity(0))
        return subprocess.run(
            ["/bin/sh", "-c", command], env=bare, stdin=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, free[:cores]),
        ).returncode  # fmt: skip


class Webhook:
    """Whoever is told of nights: keeps the JSON objects that are posted."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        taken = self.messages

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/nights"


def mlflow_server(folder: Path) -> Server:
    """A server that has not been started, over an empty database."""
    folder.mkdir()
    empty = folder / "empty.db"
    tracking.connect(tracking.address(f"sqlite:///{empty}", folder))[1].search_experiments()
    return Server(folder, empty)


def write_pairs(path: Path, when: datetime, count: int, seed: int, words: list[str], turned: int = 0) -> None:
    """Queries of made-up words and documents of what each word means, in another order, as written at a time.

    A word means the one with an n; `turned`: that of the word so many places on, which is wrong.
    """
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        query = rng.sample(range(len(words)), rng.randint(4, 7))
        document = [f"{words[(word + turned) % len(words)]}n" for word in rng.sample(query, len(query))]
        rows.append({"qid": f"{seed}-{i}", "query": " ".join(words[word] for word in query),
                     "document": " ".join(document)})  # fmt: skip
    _write(path, when, "".join(json.dumps(row) + "\n" for row in rows))


def write_broken(path: Path, when: datetime) -> None:
    """A page that says an error, where rows should be."""
    _write(path, when, "<html><body>502 Bad Gateway</body></html>\n" * 50)


def _write(path: Path, when: datetime, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    os.utime(path, (when.timestamp(), when.timestamp()))


@contextlib.contextmanager
def killing_a_rank(root: Path) -> Iterator[list[int]]:
    """Meanwhile: the first training that makes updates loses a rank; yields its process id, once it is killed."""
    killed: list[int] = []
    over = threading.Event()

    def wait() -> None:
        while not over.is_set() and not killed:
            for work in root.glob("work/train-*"):
                for beat in heartbeat.beats(work):
                    if beat.rank == 1 and beat.update > 3 and beat.phase == "training":
                        os.kill(beat.pid, signal.SIGKILL)
                        killed.append(beat.pid)
                        return
            time.sleep(0.002)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


class FullDisk:
    """A file of somebody else that fills the root's disk."""

    def __init__(self, root: Path) -> None:
        self.path = root / "other people's file"

    def fill(self) -> None:
        """Leaves LEFT_BYTES."""
        disk = os.statvfs(self.path.parent)
        with self.path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - LEFT_BYTES)

    def make_room(self) -> None:
        """Removes it."""
        self.path.unlink()
