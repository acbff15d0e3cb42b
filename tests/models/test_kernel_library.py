"""Where our own recurrent layers cannot be had, wholly or in bfloat16: what is said, what runs, what is refused."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import check_config
from pipeline.core.errors import InputError
from pipeline.models.kernel import build, library
from pipeline.orchestration import flow
from tests.networks import built_layers, look_again


@pytest.fixture(scope="module", autouse=True)
def built() -> Iterator[None]:
    built_layers()
    yield
    look_again()


@pytest.fixture()
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An environment whose site-packages is an empty folder."""
    monkeypatch.setattr(library.sysconfig, "get_path", lambda name: str(tmp_path))
    library.found.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    library.found.cache_clear()


def test_not_built(elsewhere: Path) -> None:
    why = f"its own are not built: run {library.BUILD}"
    assert library.found() == (None, "", f"MXNet's ({why})", why)


def test_a_file_that_is_no_library(elsewhere: Path) -> None:
    library.location().write_bytes(b"not a library")
    library.checksum().write_text(hashlib.sha256(b"not a library").hexdigest())
    assert library.found().path is None
    assert "its own do not load" in library.found().phrase and "\n" not in library.found().phrase


@pytest.fixture(scope="module")
def good() -> tuple[bytes, str]:
    """The library and its checksum, as built."""
    return library.location().read_bytes(), library.checksum().read_text()


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "no checksum"])
def test_a_damaged_library_is_never_loaded_and_is_built_anew(
    damage: str, good: tuple[bytes, str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, digest = good
    spoiled = {"cut": whole[: len(whole) // 2], "changed": whole[:-9] + b"x" + whole[-8:], "empty": b""}
    library.location().write_bytes(spoiled.get(damage, whole))
    if damage != "no checksum":
        library.checksum().write_text(digest)
    assert library.found()[:3] == (None, "", f"MXNet's ({library.location()} is damaged: run {library.BUILD})")
    made = []
    monkeypatch.setattr(build, "_run", lambda *arguments: (made.append(arguments), _link(arguments, whole)))
    build.build()
    assert made and library.whole()
    library.found.cache_clear()
    assert library.found().path == library.location()


def _link(arguments: tuple[str, ...], library_bytes: bytes) -> None:
    """In the compiler's place."""
    Path(arguments[arguments.index("-o") + 1]).write_bytes(library_bytes)


def test_a_library_of_other_sources_is_not_taken(good: tuple[bytes, str], elsewhere: Path) -> None:
    other = library.location().with_name("duplet_recurrent_0123456789abcdef.so")
    other.write_bytes(good[0])
    other.with_suffix(".sha256").write_text(good[1])
    assert library.found().phrase == f"MXNet's (its own are not built: run {library.BUILD})"


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler", "its own are not built: no no-such-compiler found"),
        ("false", "its own are not built: false failed: exit code 1"),
    ],
)
def test_a_compiler_that_is_missing_or_broken(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", compiler)
    build.main()  # raises nothing: set-up goes on
    assert reason in capsys.readouterr().err
    assert library.found().phrase == f"MXNet's ({reason})"
    assert [path.suffix for path in elsewhere.iterdir()] == [".failed"]


def test_another_processor_family(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    build.main()
    assert library.found().phrase == "MXNet's (its own are for x86-64 only, this is aarch64)"


def test_other_sources_are_another_library(elsewhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = library.location()
    copied = tmp_path / "sources"
    copied.mkdir()
    for name in (*library.SOURCES, "build.py"):
        (copied / name).write_bytes((library.HERE / name).read_bytes() + b"\n")
    monkeypatch.setattr(library, "HERE", copied)
    assert library.location() != before


def test_the_setting_decides(elsewhere: Path) -> None:
    """On a host that has none of our own."""
    none = f"MXNet's (its own are not built: run {library.BUILD})"
    assert library.planned("auto", gpus=False) == library.planned("own", gpus=False) == none
    assert library.planned("mxnet", gpus=False) == "MXNet's (model.kernel=mxnet)"
    assert library.planned("auto", gpus=True) == "MXNet's on a GPU"
    for precision in ("auto", "bfloat16"):
        assert library.planned("auto", False, precision) == none


def test_a_compiler_that_knows_no_bfloat16_builds_the_rest(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "old-compiler"
    old.write_text(
        '#!/bin/sh\ncase "$*" in *-mavx512bf16*) echo "error: unrecognized option" >&2; exit 1;; esac\nexec g++ "$@"\n'
    )
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    build.main()
    found = library.found()
    assert found.path == library.location() and not library.complaint().exists()
    assert found.no_bfloat16 == "the compiler that built them knows no AVX512_BF16"
    assert found.phrase.endswith(f"float32; no bfloat16: {found.no_bfloat16})")
    assert (
        library.planned("auto", False, "auto") == f"{library.planned('auto', False)} (no bfloat16: {found.no_bfloat16})"
    )
    assert "float32 and" not in library.planned("auto", False, "bfloat16")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"precision": "bfloat16"}, r"model\.precision=bfloat16 cannot be had: .*not built.*to auto or float32"),
        ({"kernel": "own"}, r"model\.kernel=own cannot be had, .*not built: .*set model.kernel to auto"),
    ],
)
def test_what_cannot_be_had_is_refused_before_any_work_where_the_workers_run_here(
    model: dict[str, str], sentence: str, elsewhere: Path, tmp_path: Path
) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text('{"query": "a", "document": "b"}\n')
    config = check_config({"name": "own", "root": str(tmp_path / "runs"), "model": model,
                           "ingest": {"source": {"format": "jsonl", "path": str(source)}}}, "test")  # fmt: skip
    with pytest.raises(InputError, match=sentence):
        flow.run(config, "own", "train", pytest.fail)
    assert [path.name for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")] == []
