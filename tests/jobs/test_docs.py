"""Every command of docs/jobs.md runs as it is written; it and the targets' pages print what they show."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import main
from tests.flow.pages import blocks_of

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
TARGETS = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "targets").glob("*.md")))
BLOCKS = blocks_of(PAGE)
VERBS = "(?:submit|jobs|schedule)"  # what is said of other verbs is looked at by the tests of these
LINES = [
    line.removeprefix("$ ")
    for block in BLOCKS
    for line in block.splitlines()
    if re.match(rf"(\$ )?duplet {VERBS} ", line)
]
WRITTEN = re.findall(r"`(duplet (?:submit|schedule) [^`…]+)`", PAGE)  # in a sentence, with all its arguments
COMMANDS = sorted({re.sub(r"\s+#.*", "", line) for line in (*LINES, *WRITTEN)})
# what is another's at each run: identities, and the hash of a schedule's place
VARIES = re.compile(r"-\d{8}-\d{6}-[0-9a-f]{8}|(?<=demo-)[0-9a-f]{8}")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder and environment that the page has in mind; no folder of its own is left."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DUPLET_DATA", str(tmp_path))
    return tmp_path / "runs"


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_as_written(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, verb, action, *rest = shlex.split(command)
    before = set((ROOT / "runs").rglob("*")) if (ROOT / "runs").exists() else set()
    if verb == "submit" or (verb == "schedule" and action.endswith(".yaml")):
        code = main([verb, action, *rest, *([] if "--dry-run" in rest else ["--dry-run"])])
        assert (code, capsys.readouterr().err) == (0, "")
    else:  # there is no such job or schedule here, and that is all that is wrong
        code = main([verb, action, *rest, "--root", str(here)])
        said = capsys.readouterr().err
        assert code == (0 if action == "list" else 2)
        assert action == "list" or re.match(rf"duplet {verb}: there is no (job|schedule) ", said)
    assert (set((ROOT / "runs").rglob("*")) if (ROOT / "runs").exists() else set()) == before


@pytest.mark.parametrize("block", [block for block in (*BLOCKS, *blocks_of(TARGETS)) if block.startswith("$ duplet")])
def test_a_command_prints_what_the_page_shows(block: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, *shown = block.splitlines()
    assert main(shlex.split(command)[2:]) == 0
    said = [VARIES.sub("-X", line) for line in capsys.readouterr().out.splitlines()]
    for line in shown:
        there = line.replace("/home/ann/duplet/.venv/bin/python", sys.executable).replace("/home/ann/duplet", str(ROOT))
        assert line == "…" or VARIES.sub("-X", there) in said, line
