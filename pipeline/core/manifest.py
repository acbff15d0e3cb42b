"""The contract of a stage's folder: what went in (its key), what is in it (hashed files), and how it came about."""

import contextlib
import getpass
import importlib.metadata
import json
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core import atomic_files, fingerprints
from pipeline.core.errors import InputError
from pipeline.core.redaction import hide_all
from pipeline.core.version import __version__

FORMAT = 1
NAME = "manifest.json"


@dataclass(frozen=True)
class KeyParts:
    """All that shapes a stage's output. Two runs with equal parts give the same folder."""

    code: int  # the stage's own version, raised when its output changes
    config: dict[str, Any]
    inputs: dict[str, str]  # name -> hash of content, or key of the stage before
    libraries: dict[str, str]

    @property
    def key(self) -> str:
        """The first 16 hex digits of the parts' digest: the folder's name."""
        return atomic_files.digest(asdict(self))[:16]

    def changed_since(self, old: dict[str, Any]) -> list[str]:
        """Which parts differ from a manifest's `key_parts`, as `config.ingest.split` and so on; empty when none do."""
        new = hide_all(asdict(self))  # as the manifest keeps it
        return [name for part in new for name in _differences(part, old.get(part), new[part])]


def _differences(name: str, old: Any, new: Any) -> list[str]:
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return [d for key in sorted({*old, *new}) for d in _differences(f"{name}.{key}", old.get(key), new.get(key))]
    return [name]


@dataclass(frozen=True)
class Manifest:
    stage: str
    key: str
    key_parts: dict[str, Any]
    counts: dict[str, Any]
    files: dict[str, dict[str, Any]]  # name within the folder -> bytes, sha256
    seconds: float
    created: str
    git_commit: str | None
    versions: dict[str, str]
    format: int = FORMAT
    extra: dict[str, Any] = field(default_factory=dict)


def versions(*names: str) -> dict[str, str]:
    """Installed versions of the named distributions; MXNet's may be that of a CUDA wheel, mxnet-cu117."""
    return {name: _version(name) for name in names}


def installed(*names: str) -> dict[str, str]:
    """As `versions`, without distributions that are not there: who only serves a model has no MXNet."""
    by_name = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            by_name[name] = _version(name)
    return by_name


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        others = importlib.metadata.packages_distributions().get(name)
        if not others:
            raise
        return importlib.metadata.version(others[0])


def utc(seconds: float | None = None) -> str:
    """A time, or now, as it is kept: 2026-11-30T16:41:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def person() -> str:
    """Who runs this command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"


def git_commit() -> str | None:
    """The commit of the checkout this code runs from, with + where files differ from it; None outside of one.

    A repository that encloses an environment in which Duplet is installed does not hold its files, and is none.
    """
    here = Path(__file__).parent
    try:
        run = lambda *args: (
            subprocess.run(
                ["git", "-C", str(here), *args], capture_output=True, text=True, check=True, timeout=10
            ).stdout
        )
        run("ls-files", "--error-unmatch", Path(__file__).name)
        return run("rev-parse", "HEAD").strip() + (
            "+" if run("status", "--porcelain", "--untracked-files=no").strip() else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def write(
    folder: Path, stage: str, parts: KeyParts, counts: dict[str, Any], began: float, extra: dict[str, Any] | None = None
) -> Manifest:
    """Writes the manifest of all files in `folder` into it; `began` is a time.time()."""
    listed = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": atomic_files.sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != NAME
    }
    manifest = Manifest(
        stage=stage,
        key=parts.key,
        key_parts=asdict(parts),
        counts=counts,
        files=listed,
        seconds=round(time.time() - began, 3),
        created=utc(),
        git_commit=git_commit(),
        versions={"duplet": __version__} | installed("mxnet", "gluonnlp", "horovod", "mlflow", "numpy", "pyarrow"),
        extra=extra or {},
    )
    written = asdict(manifest)
    written |= {part: hide_all(written[part]) for part in ("key_parts", "extra")}
    (folder / NAME).write_text(atomic_files.as_json(written, indent=1, ensure_ascii=False), encoding="utf-8")
    return manifest


def readable(folder: Path, stage: str, verify: bool = False) -> Manifest | None:
    """A stage folder's manifest; None where it is missing or damaged, or (`verify`) one of its files is."""
    try:
        return load(folder, stage, "", verify)
    except InputError:
        return None


def load(folder: Path, stage: str, remake: str, verify: bool = True) -> Manifest:
    """Reads a stage folder's manifest and (unless told not to) checks every file's size and hash against it.

    Args:
        remake: the command that makes the folder again, for the error's sentence.

    Raises:
        InputError: the folder, its manifest or one of its files is missing, of another format, cut short or changed.
    """
    path = folder / NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**data)
        if not all(isinstance(part, dict) for part in (manifest.key_parts, manifest.counts, manifest.extra)):
            raise ValueError("key_parts, counts and extra must be objects")
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.files.items()}
    except FileNotFoundError:
        raise InputError(f"{folder} is not a finished {stage} folder (no {NAME}): run `{remake}`") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): delete {folder} and run `{remake}`") from None
    if manifest.format != FORMAT or manifest.stage != stage:
        raise InputError(
            f"{path} is of stage {manifest.stage}, format {manifest.format}, need {stage}, {FORMAT}: run `{remake}`"
        )
    if verify:
        for name, (size, sha256) in listed.items():
            file = folder / name
            if not file.is_file():
                problem = "is missing"
            elif (actual_size := file.stat().st_size) != size:
                problem = f"has {actual_size} bytes instead of {size}"
            elif fingerprints.sha256(file) != sha256:
                problem = "has changed since it was written"
            else:
                continue
            raise InputError(f"{file} {problem}: delete {folder} and run `{remake}`")
    return manifest
