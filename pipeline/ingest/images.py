"""Images beside the records: an array of all of them, its rows' names, and the file of captions that names them."""

import itertools
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.config.sources import CaptionsSource, Column, SplitName
from pipeline.core import atomic_files
from pipeline.core.errors import InputError, one_line
from pipeline.ingest import places
from pipeline.ingest.pictures import ARRAY, FORMATS, NAMES, PIXEL, SHAPE, picture
from pipeline.ingest.rows import BadRow, Row, one_form, shorten

__all__ = ["ARRAY", "FORMATS", "NAMES", "PIXEL", "SHAPE", "Writer", "open_pictures", "picture", "read"]


class Writer(AbstractContextManager["Writer"]):
    """Writes images.npy, (M, …), image by image, with image_names.json, M names, and images.json, one image's shape."""

    def __init__(self, folder: Path, names: Sequence[str], shape: tuple[int, ...], kind: Any) -> None:
        self.names = list(names)
        (folder / NAMES).write_text(json.dumps(self.names, ensure_ascii=False), encoding="utf-8")
        (folder / SHAPE).write_text(json.dumps({"shape": shape}), encoding="utf-8")
        whole = (len(self.names), *shape)
        self._array: Any = atomic_files.mapped_array(folder / ARRAY, kind, whole)

    def put(self, row: int, image: np.ndarray) -> None:
        self._array[row] = image

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._array.flush()
        del self._array


def read(
    source: CaptionsSource, config: Config, limit_bytes: int, folder: Path
) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Rows with `image`, its name, and `caption`, or `question` and `answer`; leaves the images in `folder`.

    Captions of images that are not there, or in none of the splits, are left out; lines that cannot be read are bad
    rows.

    Raises:
        InputError: no caption has an image, or the vectors and their names do not fit.
    """
    captions, bad = _captions(source, [field for field in config.spec.fields if field != "image"], limit_bytes)
    with ExitStack() as stack:
        images, load, shape, kind = _open(source, limit_bytes, folder, stack)
        wanted: dict[SplitName | None, list[str]] = {None: list(captions)}
        if source.splits:
            wanted = {split: _listed(path, source.encoding, limit_bytes) for split, path in source.splits.items()}
        wanted = {split: [n for n in names if n in captions and n in images] for split, names in wanted.items()}
        every = [name for names in wanted.values() for name in names]
        if not every:
            raise InputError(
                f"no caption of {places.shown_address(source.captions)} names an image of "
                f"{places.shown_address(source.images)}: check ingest.source"
            )
        with Writer(folder, every, shape, kind) as writer:
            place = iter(range(len(every)))
            for split, names in wanted.items():
                yield split, itertools.chain(bad, _rows(source, names, captions, load, writer, place))
                bad = []


def _rows(
    source: CaptionsSource,
    names: list[str],
    captions: dict[str, list[tuple[int, dict[Column, Any]]]],
    load: Callable[[str], np.ndarray],
    writer: Writer,
    place: Iterator[int],
) -> Iterator[Row]:
    for name in names:
        problem, row = None, next(place)
        try:
            writer.put(row, load(name))
        except BadRow as error:
            problem = error
        for number, caption in captions[name]:
            text = shorten(" ".join([name, *caption.values()]))
            yield Row(places.name_of(source.captions), number, {"image": name, **caption}, text, problem)


def _captions(
    source: CaptionsSource, fields: Sequence[Column], limit_bytes: int
) -> tuple[dict[str, list[tuple[int, dict[Column, Any]]]], list[Row]]:
    """Name -> its captions, or questions with their answers, with their lines; and the lines that cannot be read.

    What stands behind # in a name is the caption's number.
    """
    captions: dict[str, list[tuple[int, dict[Column, Any]]]] = {}
    bad: list[Row] = []
    for line in places.lines(source.captions, source.encoding, limit_bytes):
        name, _, rest = line.text.partition("\t")
        name = one_form(name.partition("#")[0])
        if line.problem is not None:
            bad.append(places.bad_line(source.captions, line))
        elif name:
            cells = [*rest.split("\t", len(fields) - 1), *[""] * len(fields)]  # what is missing is found to be empty
            captions.setdefault(name, []).append((line.number, dict(zip(fields, cells))))
    return captions, bad


def _listed(path: str, encoding: str, limit_bytes: int) -> list[str]:
    """The names in a file, one per line, each once."""
    return list(dict.fromkeys(n for line in places.lines(path, encoding, limit_bytes) if (n := one_form(line.text))))


def _open(
    source: CaptionsSource, limit_bytes: int, scratch: Path, stack: ExitStack
) -> tuple[dict[str, Any], Callable[[str], np.ndarray], tuple[int, ...], Any]:
    """The images by name, what reads one, one's shape and its kind of numbers."""
    if source.images.endswith(".npy"):
        return _vectors(source, limit_bytes)
    names, load = open_pictures(source.images, source.size_px, limit_bytes, scratch, stack)
    return names, load, (source.size_px, source.size_px, 3), PIXEL


def open_pictures(
    address: str, size_px: int, limit_bytes: int, scratch: Path, stack: ExitStack
) -> tuple[dict[str, Any], Callable[[str], np.ndarray]]:
    """The pictures of a folder or a zip file by name, and what reads one: (size_px, size_px, 3) uint8.

    Raises:
        InputError: the zip file cannot be read.
    """
    if address.endswith(".zip"):
        file = stack.enter_context(places.open_seekable(address, scratch))
        try:
            archive = stack.enter_context(zipfile.ZipFile(file))
        except Exception as error:  # zipfile passes on those of zlib, bz2, lzma and struct
            raise InputError(
                f"{places.shown_address(address)} is not a readable zip file ({one_line(error, 100)})"
            ) from None
        files = ((entry.filename.rpartition("/")[2], entry) for entry in archive.infolist())
        members = {one_form(name): entry for name, entry in files if name}  # a folder has none, nor a damaged entry

        def unpack(name: str) -> np.ndarray:
            try:
                with archive.open(members[name]) as stream:
                    return picture(_whole(stream, limit_bytes), size_px)
            except BadRow:
                raise
            except Exception as error:  # as above
                raise BadRow("image", f"cannot be unpacked ({type(error).__name__})") from None

        return members, unpack
    names = {one_form(name): name for name in places.names_in(address)}

    def load(name: str) -> np.ndarray:
        try:
            with places.open_binary(places.join(address, names[name])) as stream:
                return picture(_whole(stream, limit_bytes), size_px)
        except BadRow:
            raise
        except Exception as error:  # gzip, Arrow and each remote driver have errors of their own
            raise BadRow("image", f"cannot be read ({type(error).__name__})") from None

    return names, load


def _whole(stream: Any, limit_bytes: int) -> bytes:
    content: bytes = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise BadRow("image", f"over ingest.max_row_kb={limit_bytes // 1024}")
    return content


def _vectors(
    source: CaptionsSource, limit_bytes: int
) -> tuple[dict[str, Any], Callable[[str], np.ndarray], tuple[int, ...], Any]:
    address = places.shown_address(source.images)
    try:
        vectors = np.load(places.local_path(source.images), mmap_mode="r", allow_pickle=False)
        fits = vectors.ndim in (2, 3) and vectors.dtype.kind == "f" and min(vectors.shape) > 0
    except atomic_files.NOT_AN_ARRAY as error:
        raise InputError(f"{address} cannot be read as numpy's .npy ({error})") from None
    if not fits:
        raise InputError(
            f"{address} holds {vectors.dtype} of shape {vectors.shape}; give floats, (images, numbers) or "
            "(images, places, numbers)"
        )
    names = (
        _listed(source.names, source.encoding, limit_bytes)
        if source.names
        else [str(row) for row in range(len(vectors))]
    )
    if len(names) != len(vectors):
        raise InputError(f"{address} has {len(vectors)} rows, but there are {len(names)} names in ingest.source.names")
    rows = {name: row for row, name in enumerate(names)}

    def load(name: str) -> np.ndarray:
        vector = np.asarray(vectors[rows[name]], np.float32)
        if not np.isfinite(vector).all():
            raise BadRow("image", "its vector is not finite")
        return vector

    return rows, load, tuple(vectors.shape[1:]), np.float32
