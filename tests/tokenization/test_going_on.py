"""A tokenization that was cut off goes on with the pieces that are done, and gives the same bytes."""

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, check_config
from pipeline.core import atomic_files, kept
from pipeline.ingest import stage as ingestion
from pipeline.tokenization import parallel, stage
from tests.killing import at_every_step, killing

PIECES = 26  # of the source below: those of train are read once, when their tokens are counted


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "PIECE_TEXTS", 20)


def configuration(**execution: Any) -> Config:
    settings = {"name": "t", "tokenize": {"min_count": 1, "rows_per_shard": 50}, "execution": execution}
    source = {"format": "tsv", "path": "pairs.tsv"}
    return check_config({**settings, "ingest": {"source": source, "split": {"valid": 0.2, "test": 0.2}}}, "test")


@pytest.fixture
def ingested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"query {i % 97} of {i}\tdocument number {i} text{i % 13}\n" for i in range(200))
    Path("pairs.tsv").write_text(f"query\tdocument\n{rows}")
    folder = tmp_path / "ingested"
    folder.mkdir()
    ingestion.run(configuration(), folder)
    return folder


def run(folder: Path, ingested: Path, work: Path | None, **execution: Any) -> dict[str, str]:
    """The digests of what is written."""
    folder.mkdir(parents=True)
    stage.run(configuration(**execution), ingested, folder, work=work)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def counted(monkeypatch: pytest.MonkeyPatch, after: int | None = None) -> list[int]:
    """Notes each piece that is worked on; the run ends by itself after so many."""
    worked: list[int] = []
    for name in ("count", "encode"):
        real = getattr(parallel, name)

        def noted(piece: parallel.Piece, real: Any = real) -> Any:
            if len(worked) == after:
                raise KeyboardInterrupt
            worked.append(len(piece.texts))
            return real(piece)

        noted.__name__ = name
        monkeypatch.setattr(parallel, name, noted)
    return worked


@pytest.mark.parametrize("done", [0, 1, 5, 20, PIECES - 1, PIECES])
def test_pieces_that_are_done_are_not_done_again(done: int, ingested: Path, tmp_path: Path) -> None:
    alone, work = run(tmp_path / "whole", ingested, None, workers=1), tmp_path / "work"
    with pytest.MonkeyPatch.context() as patch:
        worked = counted(patch, done)
        if done == PIECES:
            assert run(tmp_path / "cut", ingested, work, workers=1) == alone
        else:
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "cut", ingested, work, workers=1)
        assert len(worked) == done
    with pytest.MonkeyPatch.context() as patch:
        worked = counted(patch)
        assert run(tmp_path / "again", ingested, work, workers=1) == alone
        assert len(worked) == PIECES - done


def test_a_kept_piece_that_is_damaged_or_of_other_texts_is_done_again(ingested: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    alone = run(tmp_path / "whole", ingested, work, workers=1)
    counts, encoded, *_ = (min(work.glob(f"{name}-*.done")) for name in ("count", "encode"))
    content = encoded.read_bytes()
    encoded.write_bytes(content[:-20] + bytes(20))
    kept.keep(counts, "of-other-texts", b"{}")
    with pytest.MonkeyPatch.context() as patch:
        worked = counted(patch)
        assert run(tmp_path / "again", ingested, work, workers=1) == alone
        assert len(worked) == 2
    assert encoded.read_bytes() == content


def test_what_an_earlier_form_has_kept_is_not_read(
    ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts were kept as JSON before, and read as arrays since."""
    alone, work = run(tmp_path / "whole", ingested, None, workers=1), tmp_path / "work"
    with monkeypatch.context() as before:
        before.setattr(parallel, "_stamp", lambda piece: atomic_files.digest([piece.field, piece.texts]))
        before.setattr(parallel, "_counted_packed", lambda counted: json.dumps(dict(zip(*counted[:2]))).encode())
        run(tmp_path / "before", ingested, work, workers=1)
    assert run(tmp_path / "again", ingested, work, workers=1) == alone


def test_a_tokenization_that_is_killed_goes_on_and_gives_the_same_bytes(ingested: Path, tmp_path: Path) -> None:
    import gluonnlp  # noqa: F401  (once here, and not in every process that is killed)

    alone, work = run(tmp_path / "whole", ingested, None, workers=1), tmp_path / "work"
    seen: list[int] = []
    step = lambda: run(tmp_path / f"made-{len(seen)}", ingested, work, workers=1)
    at_every_step(step, lambda _: seen.append(len(list(work.glob("*.done")))), stride=18, writing=True)
    assert seen == sorted(seen) and seen[-1] == PIECES and len(set(seen)) > 4
    assert run(tmp_path / "again", ingested, work, workers=1) == alone


@pytest.mark.parametrize("engine", ["processes", "dask"])
def test_other_engines_go_on_with_what_one_process_left(engine: str, ingested: Path, tmp_path: Path) -> None:
    if engine == "dask":
        pytest.importorskip("distributed")
    alone, work = run(tmp_path / "whole", ingested, None, workers=1), tmp_path / "work"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        counted(patch, 15)
        run(tmp_path / "cut", ingested, work, workers=1)
    before = {path.name: path.stat().st_ino for path in work.glob("*.done")}
    with killing(0.5) if engine == "processes" else nullcontext():  # Dask's own start does not survive a kill
        assert run(tmp_path / "made", ingested, work, engine=engine, workers=2) == alone
    after = {path.name: path.stat().st_ino for path in work.glob("*.done")}
    assert len(before) == 15 and len(after) == PIECES
    assert before.items() <= after.items()
