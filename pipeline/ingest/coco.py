"""Microsoft COCO's files as they are distributed: captions or questions in JSON, and folders or zip files of images.

Lin et al., "Microsoft COCO: common objects in context", 2014; the splits of Karpathy and Fei-Fei, 2015
(dataset_coco.json); questions and answers of Goyal et al., "Making the V in VQA matter", 2017.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import Config
from pipeline.config.sources import CocoSource, Column, Columns, SplitName
from pipeline.core.errors import InputError, one_line
from pipeline.ingest import images, places
from pipeline.ingest.rows import BadRow, Row, is_missing, one_form, shorten

COLUMNS = Columns(metadata=("kind",))
KARPATHY_SPLITS: dict[str, SplitName] = {"train": "train", "restval": "train", "val": "valid", "test": "test"}
_SPLIT = "#split"  # an entry's own split, of Karpathy's file
# What is read of each of a file's objects; a whole COCO has hundreds of thousands.
_READ = {
    "id", "file_name", "image_id", "caption", "filename", "split", "sentences", "raw", "question_id", "question",
    "multiple_choice_answer", "answer_type", "images", "annotations", "questions",
}  # fmt: skip
_LAST_NUMBER = re.compile(r"(?<!\d)(\d{1,19})\.[^.]+$")


class Entry(NamedTuple):
    """A caption, or a question with its answer, as a file lists it."""

    image: str | int | float  # the image's file name, or its number (2 or 2.0) where the file has no names
    number: int  # of the entry within its file, from 1
    values: dict[Column, Any]


def read(
    source: CocoSource, config: Config, limit_bytes: int, folder: Path
) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Rows with `image`, its name, and `caption`, or `question` and `answer`; leaves the images in `folder`.

    Entries whose image is not there are bad rows.

    Raises:
        InputError: a file is not of COCO's form, or no entry has an image.
    """
    by_split = {split: list(_entries(source, split)) for split in files(source)}
    if len(by_split) == 1 and None in by_split:
        by_split = _divided(by_split[None])
    with ExitStack() as stack:
        opened = [
            images.open_pictures(address, source.size_px, limit_bytes, folder, stack) for address in source.images
        ]
        load = {name: reader for names, reader in opened for name in names}
        numbers = {int(match[1]): name for name in load if (match := _LAST_NUMBER.search(name))}

        def name_of(entry: Entry) -> str | None:
            name = one_form(entry.image) if isinstance(entry.image, str) else numbers.get(int(entry.image))
            return name if name in load else None

        every = list(dict.fromkeys(n for entries in by_split.values() for entry in entries if (n := name_of(entry))))
        if not every:
            listed = ", ".join(map(places.shown_address, files(source).values()))
            pictures = ", ".join(map(places.shown_address, source.images))
            raise InputError(f"no entry of {listed} names an image of {pictures}: check ingest.source")
        rows = {name: row for row, name in enumerate(every)}
        shape = (source.size_px, source.size_px, 3)
        with images.Writer(folder, every, shape, images.PIXEL) as writer:
            problems: dict[str, BadRow | None] = {}  # of each image that was read

            def read_rows(split: SplitName | None, entries: list[Entry]) -> Iterator[Row]:
                file = places.name_of(_address(source, split))
                for entry in entries:
                    yield _row(file, entry, name_of(entry), load, rows, writer, problems)

            for split, entries in by_split.items():
                yield split, read_rows(split, entries)


def _row(
    file: str, entry: Entry, name: str | None, load: dict[str, Any],
    rows: dict[str, int], writer: images.Writer, problems: dict[str, BadRow | None],
) -> Row:  # fmt: skip
    problem: BadRow | None = BadRow("image", f"{entry.image} is not among ingest.source.images")
    if name is not None:
        if name not in problems:
            try:
                writer.put(rows[name], load[name](name))
                problems[name] = None
            except BadRow as error:
                problems[name] = error
        problem = problems[name]
    values: dict[Column, Any] = {"image": name or str(entry.image), "kind": "", **entry.values}
    text = " ".join(str(value) for value in values.values())
    return Row(file, entry.number, values, shorten(text), problem)


# --- the files --------------------------------------------------------------------------------------------------------
def files(source: CocoSource) -> dict[SplitName | None, str]:
    """The file of each split that lists captions or questions."""
    paths = source.captions or source.questions
    return {None: paths} if isinstance(paths, str) else dict((paths or {}).items())


def _address(source: CocoSource, split: SplitName | None) -> str:
    by_split = files(source)
    return by_split[split] if split in by_split else by_split[None]


def addresses(source: CocoSource) -> dict[str, str]:
    """The source's files by what they are for."""
    by_name: dict[str, str] = {}
    for name in ("captions", "questions", "annotations"):
        paths = getattr(source, name)
        by_split = {"all": paths} if isinstance(paths, str) else paths or {}
        by_name |= {f"{name}.{split}": path for split, path in by_split.items()}
    for number, address in enumerate(source.images):
        if address.endswith(".zip"):
            by_name[f"images.{number}"] = address
        else:
            by_name |= {f"images.{number}.{name}": places.join(address, name) for name in places.names_in(address)}
    return by_name


def _entries(source: CocoSource, split: SplitName | None) -> Iterator[Entry]:
    """A file's captions, or questions with their answers.

    Raises:
        InputError: it is not of COCO's form.
    """
    address = _address(source, split)
    content = _json(address)
    if source.captions:
        yield from _captions(content, address)
        return
    paths = source.annotations or ""
    answers_address = paths if isinstance(paths, str) else paths[split or "train"]
    keys = ("question_id", "multiple_choice_answer")
    answers = {
        annotation["question_id"]: (annotation["multiple_choice_answer"], _kind(annotation.get("answer_type")))
        for annotation in _list(_json(answers_address), "annotations", answers_address, keys)
    }
    asked = _list(content, "questions", address, ("question_id", "image_id", "question"))
    for number, question in enumerate(asked, 1):
        answer, kind = answers.get(question["question_id"], ("", ""))
        yield Entry(question["image_id"], number, {"question": question["question"], "answer": answer, "kind": kind})


def _kind(answer_type: Any) -> str:
    return "" if is_missing(answer_type) else str(answer_type)


def _captions(content: Any, address: str) -> Iterator[Entry]:
    if isinstance(content, dict) and "annotations" not in content:  # Karpathy's: the captions lie in the images
        numbers = itertools.count(1)
        for image in _list(content, "images", address, ("filename", "sentences")):
            split = KARPATHY_SPLITS.get(str(image.get("split", "")), "train")
            for sentence in image["sentences"]:
                values: dict[Column, Any] = {"caption": sentence.get("raw", ""), _SPLIT: split}
                yield Entry(image["filename"], next(numbers), values)
        return
    names = {image["id"]: image["file_name"] for image in _list(content, "images", address, ("id", "file_name"))}
    for number, annotation in enumerate(_list(content, "annotations", address, ("image_id", "caption")), 1):
        yield Entry(
            names.get(annotation["image_id"], annotation["image_id"]), number, {"caption": annotation["caption"]}
        )


def _divided(entries: list[Entry]) -> dict[SplitName | None, list[Entry]]:
    """One file's entries by the splits that they name; all under None where they name none."""
    if not entries or _SPLIT not in entries[0].values:
        return {None: entries}
    by_split: dict[SplitName | None, list[Entry]] = {}
    for entry in entries:
        by_split.setdefault(entry.values.pop(_SPLIT), []).append(entry)
    return by_split


def _json(address: str) -> Any:
    with places.open_binary(address) as stream, places.sentences(places.shown_address(address), address):
        content = stream.read()
    try:
        return json.loads(content, object_hook=_lean)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{places.shown_address(address)} is not valid JSON ({one_line(error, 100)})") from None


def _lean(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key in _READ}


def _is_name(value: Any) -> bool:
    whole = isinstance(value, float) and value.is_integer()
    return isinstance(value, str) or whole or (isinstance(value, int) and not isinstance(value, bool))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


# What an entry is found by must be of its kind; what it says (a caption, a question) is looked at row by row.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("id", "image_id", "question_id"), (_is_name, "a text or a whole number")),
    **dict.fromkeys(("file_name", "filename"), (_is_text, "a text")),
    "sentences": (_are_objects, "a list of objects"),
}


def _list(content: Any, name: str, address: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The objects of a list, each with all of `keys`, of their kinds. Raises InputError, with the entry's number."""
    items = content.get(name) if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise InputError(f"{places.shown_address(address)} has no list {name!r}: it is not a file of COCO's form")
    kinds = [(key, *_KINDS[key]) for key in keys if key in _KINDS]
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict) or not all(key in item for key in keys):
            raise InputError(
                f"{places.shown_address(address)}: entry {number} of {name!r} lacks one of {', '.join(keys)}"
            )
        for key, is_right, kind in kinds:
            if not is_right(item[key]):
                raise InputError(
                    f"{places.shown_address(address)}: entry {number} of {name!r} has the {key} "
                    f"{one_line(json.dumps(item[key]), 40)}, which must be {kind}: mend or remove the entry"
                )
    return items
