"""What runs the commands of a page of the documentation as they are written, in a folder of a user's."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
FRUITS = ("apple", "pear", "plum", "cherry", "grape", "lemon", "melon", "peach")
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "brown", "pink", "grey", "violet")
THINGS = [f"{colour} {fruit}" for colour in COLOURS for fruit in FRUITS]


def commands_of(blocks: list[str]) -> list[str]:
    """Every `duplet …` line of blocks of code, in order, without its comment."""
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("duplet ")]
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines]


def blocks_of(page: str, kind: str = "") -> list[str]:
    """The blocks of code of one kind: "" are commands."""
    return [text for name, text in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) if name == kind]


def files_of(page: str) -> dict[str, str]:
    """The files that a page shows whole: blocks whose first line is a comment with the file's name."""
    found = re.findall(r"^```\w+\n# ([\w./]+\.\w+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return dict(found)


def lists() -> str:
    """A log of clicks: five documents in an order that changes, the first places looked at more."""
    rng = random.Random(1)
    lines = []
    for number, thing in enumerate(THINGS * 5):
        shown = [f"d{THINGS.index(thing)}", *(f"d{place}" for place in rng.sample(range(len(THINGS)), 4))]
        shown = list(dict.fromkeys(rng.sample(shown, len(shown))))
        clicked = [one for place, one in enumerate(shown, 1) if rng.random() < 0.6 / place]
        row = {"session": f"s{number}", "time": number, "query": thing, "shown": shown, "clicked": clicked}
        lines.append(json.dumps(row) + "\n")
    return "".join(lines)


def write_clicks(folder: Path) -> None:
    """The documents and the click log of a day, as the pages on click logs name them."""
    documents = [{"_id": f"d{i}", "title": thing, "text": f"a {thing} is sold here"} for i, thing in enumerate(THINGS)]
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents), encoding="utf-8")
    (folder / "logs").mkdir()
    (folder / "logs" / "2026-11-24.jsonl").write_text(lists(), encoding="utf-8")


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "PATH": path, "HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}


def run(folder: Path, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """A command that must end with 0; `more` are further variables of its environment."""
    finished = subprocess.run(
        command, cwd=folder, env=environment(folder) | more, capture_output=True, text=True, timeout=280, check=False
    )
    assert finished.returncode == 0, f"{shlex.join(command)}: exit {finished.returncode}\n{finished.stderr[-3000:]}"
    assert "Traceback" not in finished.stderr
    return finished


def served(folder: Path, command: list[str]) -> dict[str, object]:
    """The page's answer to one query, from the server that a command starts; it is stopped afterwards."""
    process = subprocess.Popen(
        [*command, "--port", "0"], cwd=folder, env=environment(folder), stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr
        address = next(_addresses(process.stderr))
        request = urllib.request.Request(
            f"{address}/api/search",
            json.dumps({"query": "a red apple"}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, object] = json.load(answer)
        return found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _addresses(lines: Iterator[str]) -> Iterator[str]:
    said = []
    for line in lines:
        said.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            yield found[0]
    raise AssertionError("no address was printed: " + "".join(said))
