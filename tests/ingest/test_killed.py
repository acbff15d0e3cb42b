"""A stage killed at any step leaves nothing or the whole folder, and the next one ends as if nothing had been."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import Config, check_config
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError
from pipeline.ingest import stage
from pipeline.tokenization import stage as tokenization
from tests.killing import at_every_step

REMAKE = "duplet ingest c.yaml"


def configuration(folder: Path) -> Config:
    path = folder / "pairs.tsv"
    if not path.exists():
        path.write_text("query\tdocument\n" + "".join(f"wing {i} flow\theart {i % 5} valve\n" for i in range(40)))
    tokenize = {"min_count": 1, "rows_per_shard": 20}
    source = {"format": "tsv", "path": str(path)}
    return check_config({"name": "t", "ingest": {"source": source}, "tokenize": tokenize}, "test")


def made(folder: Path, name: str, parts: manifest.KeyParts, run: Callable[[Path], dict[str, object]]) -> None:
    """As the flow makes a stage's folder."""
    with atomic_files.lock(folder.parent / f".{folder.name}.lock"):
        if not (folder / manifest.NAME).exists():
            with atomic_files.new_folder(folder) as new:
                manifest.write(new, name, parts, run(new), time.time())


def content(folder: Path) -> dict[str, str]:
    """Every file's hash as the manifest has it, after checking each."""
    found = manifest.load(folder, folder.name, REMAKE)
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {*found.files, manifest.NAME}
    return {name: entry["sha256"] for name, entry in found.files.items()}


def test_ingest_killed_at_every_step_leaves_all_or_nothing(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    parts = stage.parts(config)
    made(tmp_path / "whole" / "ingest", "ingest", parts, lambda new: stage.run(config, new))
    wanted, folder = content(tmp_path / "whole" / "ingest"), tmp_path / "killed" / "ingest"
    seen: set[str] = set()

    def left(step: int) -> None:
        if folder.exists():
            assert content(folder) == wanted, step
        else:
            with pytest.raises(InputError, match="is not a finished ingest folder"):
                manifest.load(folder, "ingest", REMAKE)
        seen.add("whole" if folder.exists() else "nothing")

    killed = at_every_step(lambda: made(folder, "ingest", parts, lambda new: stage.run(config, new)), left)
    assert killed > 15 and seen == {"whole", "nothing"}
    assert {path.name for path in folder.parent.iterdir()} == {"ingest", ".ingest.lock"}


def test_tokenization_killed_at_every_fourth_step_leaves_all_or_nothing(tmp_path: Path) -> None:
    import gluonnlp  # noqa: F401  (once here, and not in every process that is killed)

    config = configuration(tmp_path)
    ingested, folder = tmp_path / "ingest", tmp_path / "killed" / "tokenize"
    made(ingested, "ingest", stage.parts(config), lambda new: stage.run(config, new))
    parts = tokenization.parts(config, "key")
    run = lambda new: tokenization.run(config, ingested, new, workers=1)
    made(tmp_path / "whole" / "tokenize", "tokenize", parts, run)
    wanted = content(tmp_path / "whole" / "tokenize")

    def left(step: int) -> None:
        assert not folder.exists() or content(folder) == wanted, step

    # each is a copy of a process that has MXNet loaded, which takes its time
    assert at_every_step(lambda: made(folder, "tokenize", parts, run), left, stride=4) > 10
    assert content(folder) == wanted
    assert {path.name for path in folder.parent.iterdir()} == {"tokenize", ".tokenize.lock"}


def test_a_folder_that_is_replaced_is_at_every_step_the_old_one_the_new_one_or_none(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    names = [f"{i}" for i in range(5)]

    def write(text: str) -> None:
        with atomic_files.new_folder(folder) as new:
            for name in names:
                (new / name).write_text(text)

    write("old")
    seen: set[str] = set()

    def left(step: int) -> None:
        if folder.exists():
            assert sorted(path.name for path in folder.iterdir()) == names, step
            (text,) = {(folder / name).read_text() for name in names}
            seen.add(text)

    at_every_step(lambda: write("new"), left)
    assert seen == {"old", "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
