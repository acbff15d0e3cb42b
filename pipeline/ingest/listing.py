"""Which files a source means: one, a list, a pattern or a folder, here or at an address, in one order for ever.

A folder means all files in it and below it, but for names that begin with . or _, which tools use for what is not data
(checksums, markers, files being written). Sorted by name, so that the order is that of their parts.
"""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pipeline.core import atomic_files
from pipeline.core.errors import InputError, TryAgain
from pipeline.ingest import places
from pipeline.ingest.rows import Row

NAME = "sources.json"  # in the stage's folder: what was read
_PATTERN = re.compile(r"[*?\[]")
_REMOTE_PATTERN = re.compile(r"[*\[]")  # after a question mark stands a query
_BEING_WRITTEN = "_temporary"  # where Hadoop and Spark keep what a job has not finished
Given = str | Sequence[str]


class Source(NamedTuple):
    """A file as it was when it was listed."""

    address: str
    version: str  # see places.fingerprint
    size: int | None  # bytes; None where a remote file system does not tell


def files(paths: Given, marker: str | None = None, endings: tuple[str, ...] = ()) -> list[str]:
    """The addresses of the files that are meant, each once.

    Args:
        marker: the name of a file that every folder must hold.
        endings: which files of a folder are meant, where it holds any that end so.

    Raises:
        InputError: a pattern without a file, a folder without one, no such file or folder.
        TryAgain: a folder that is still being written.
    """
    addresses = [
        file for place in ([paths] if isinstance(paths, str) else paths) for file in _files(place, marker, endings)
    ]
    return list(dict.fromkeys(addresses))


def _files(place: str, marker: str | None, endings: tuple[str, ...]) -> list[str]:
    """As `files`, of one place."""
    if places.is_remote(place):
        return _remote(place, marker, endings)
    path = places.path_of(place)
    if path.is_dir():
        return _in_folder(str(path), marker, endings)
    if not path.exists() and _PATTERN.search(place):
        matched = [name for name in sorted(glob.glob(str(path), recursive=True)) if _is_data(name)]
        return _matched(place, matched, str(path), marker, endings)
    return [place]  # opening it says if it is not there


def _matched(place: str, matched: list[str], pattern: str, marker: str | None, endings: tuple[str, ...]) -> list[str]:
    """The files of what a pattern matches: files and folders. Raises InputError for none."""
    addresses = [
        file for name in matched for file in (_in_folder(name, marker, endings) if os.path.isdir(name) else [name])
    ]
    if not addresses:
        nearest = places.existing_folder(Path(_PATTERN.split(pattern)[0] + "x"))
        raise InputError(f"no file matches {place}; {places.holds(nearest)}")
    for folder in dict.fromkeys(os.path.dirname(name) for name in matched if not os.path.isdir(name)):
        _check_finished(folder, _names(Path(folder or ".")), marker)
    return addresses


def _in_folder(folder: str, marker: str | None, endings: tuple[str, ...]) -> list[str]:
    """All data files below a local folder.

    Raises:
        InputError: there is none, or a folder below it cannot be listed.
        TryAgain: it is not finished.
    """
    _check_finished(folder, _names(Path(folder)), marker)
    addresses = []
    for where, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if _is_data(name))
        addresses += [os.path.join(where, name) for name in names if _is_data(name)]
    return _chosen(folder, sorted(addresses), endings)


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f"source folder {error.filename} cannot be listed: {error.strerror or error}") from None


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError as error:
        _refuse(error)


def _check_finished(folder: str, names: Iterable[str], marker: str | None) -> None:
    """Raises TryAgain for a folder without its marker, or with what a job has not finished."""
    if marker and marker not in names:
        raise TryAgain(
            f"source folder {places.shown_address(folder) or '.'} has no file {marker} (ingest.source.marker): what "
            "writes it has not finished; run again when it has"
        )
    if _BEING_WRITTEN in names:
        raise TryAgain(
            f"source folder {places.shown_address(folder) or '.'} holds {_BEING_WRITTEN}: what writes it has not "
            f"finished; run again when it has, or remove {_BEING_WRITTEN} if it was given up"
        )


def _chosen(folder: str, addresses: list[str], endings: tuple[str, ...]) -> list[str]:
    if not addresses:
        raise InputError(
            f"source folder {places.shown_address(folder)} holds no file (names that begin with . or _ are passed over)"
        )
    return [name for name in addresses if name.lower().endswith(endings)] or addresses if endings else addresses


def _is_data(name: str) -> bool:
    return not os.path.basename(name).startswith((".", "_"))


def _remote(place: str, marker: str | None, endings: tuple[str, ...]) -> list[str]:
    """As `_files`, at an address. An address of a web server, or within an archive, is one file."""
    if "::" in place or place.startswith(("http://", "https://")):
        return [place]
    system, path = places.file_system(place)
    shown = places.shown_address(place)
    with places.sentences(shown, place):
        pattern = _REMOTE_PATTERN.search(place)
        if pattern is None and not system.isdir(path):
            return [place]
        paths = sorted(system.glob(path) if pattern else system.find(path))
        base = place[: pattern.start()].rpartition("/")[0] if pattern else place.rstrip("/")
        inner = places.file_system(base)[1].rstrip("/")
        below = [str(name).rstrip("/")[len(inner) :].lstrip("/") for name in paths]
        data = [name for name in below if all(map(_is_data, name.split("/")))]
        if pattern is None:
            _check_finished(place, [name.split("/")[0] for name in below], marker)
    if pattern and not data:
        raise InputError(f"no file matches {shown}")
    return _chosen(place, [f"{base}/{name}" for name in data], endings)


def shown(paths: Given | Mapping[str, Given]) -> str:
    """A place for a message."""
    if isinstance(paths, str):
        return places.shown_address(paths)
    if isinstance(paths, Mapping):
        return ", ".join(map(shown, paths.values()))
    first, *more = map(places.shown_address, paths)
    return f"{first} and {len(more)} more" if more else first


def names(addresses: Sequence[str]) -> dict[str, str]:
    """What each file is called in records and messages: its name, with its folders where others have the same.

    >>> names(["d/a/1.txt", "d/b/1.txt"]), names(["d/a/1.txt", "d/b/2.txt"])
    ({'d/a/1.txt': 'a/1.txt', 'd/b/1.txt': 'b/1.txt'}, {'d/a/1.txt': '1.txt', 'd/b/2.txt': '2.txt'})
    """
    plain = {address: places.name_of(address) for address in addresses}
    if len(set(plain.values())) == len(plain):
        return plain
    shown = [places.shown_address(address) for address in addresses]
    depth = 0
    for parts in zip(*(address.split("/")[:-1] for address in shown)):
        if len(set(parts)) > 1:
            break
        depth += 1
    return {address: "/".join(text.split("/")[depth:]) for address, text in zip(addresses, shown)}


def rows(addresses: Sequence[str], read: Callable[[str], Iterable[Row]]) -> Iterator[Row]:
    """The rows of some files, one after the other, each with its file's name."""
    for address, name in names(addresses).items():
        for row in read(address):
            yield row if row.source == name else row._replace(source=name)


def look(addresses: Iterable[str]) -> list[Source]:
    """Each file with its size and version. Raises InputError for one that cannot be read."""
    return [Source(address, places.fingerprint(address), places.size_of(address)) for address in addresses]


def version(sources: Sequence[Source]) -> str:
    """What stands for the content of some files in a stage's key: of one file its own version.

    Of several it is a digest of their names and versions, in their order; where they lie shapes nothing.
    """
    if len(sources) == 1:
        return sources[0].version
    named = names([source.address for source in sources])
    return atomic_files.digest([[named[source.address], source.version] for source in sources])


def write(folder: Path, by_use: Mapping[str, Sequence[Source]]) -> None:
    """Writes which files were read, by what they were for, each with its size and its checksum or version."""
    listed: dict[str, Any] = {
        name: [
            {"file": places.shown_address(source.address), "bytes": source.size, **_checksum(source.version)}
            for source in sources
        ]
        for name, sources in by_use.items()
    }
    if listed:
        (folder / NAME).write_text(atomic_files.as_json(listed, indent=1, ensure_ascii=False), encoding="utf-8")


def _checksum(version: str) -> dict[str, str]:
    return {"version": version} if version.startswith("remote:") else {"sha256": version}
