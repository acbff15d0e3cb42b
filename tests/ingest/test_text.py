"""Running text in one file, cut into splits by position."""

from typing import Any

import pytest

from pipeline.core.errors import InputError

LINES = "".join(f"line {i}\n" for i in range(100))


def texts(ingest: Any, path: str, task: str = "language_model", **split: float) -> dict[str, list[str]]:
    found = ingest({"format": "text", "path": path}, task=task, split=split, max_quarantined_share=0.5)
    return {name: [row["text"].strip() for row in found.records(name)] for name in ("train", "valid", "test")}


@pytest.mark.parametrize(("split", "sizes"), [
    ({"valid": 0.1, "test": 0}, (90, 10, 0)), ({"valid": 0, "test": 0.1}, (90, 0, 10)),
    ({"valid": 0, "test": 0}, (100, 0, 0)), ({"valid": 0.1, "test": 0.05}, (85, 10, 5)),
])  # fmt: skip
def test_a_hundred_lines(split: dict[str, float], sizes: tuple[int, ...], ingest: Any, write: Any) -> None:
    found = texts(ingest, write("t.txt", LINES), **split)
    assert tuple(map(len, found.values())) == sizes
    assert [text for part in found.values() for text in part] == LINES.split("\n")[:-1]


@pytest.mark.parametrize(("count", "sizes"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (9, (7, 1, 1))])
def test_each_split_of_a_short_file_has_a_line(count: int, sizes: tuple[int, ...], ingest: Any, write: Any) -> None:
    found = texts(ingest, write("t.txt", "\n".join(f"line {i}" for i in range(count))), valid=0.1, test=0.1)
    assert tuple(map(len, found.values())) == sizes


@pytest.mark.parametrize(("content", "said"), [("once upon a time " * 50, "1 line,"), ("a\nb\n", "2 lines,")])
def test_fewer_lines_than_splits_are_told(content: str, said: str, ingest: Any, write: Any) -> None:
    path = write("t.txt", content)
    with pytest.raises(InputError, match=f"t.txt has {said} too few for 3 splits: .* break it into lines"):
        texts(ingest, path, valid=0.1, test=0.1)
    whole = texts(ingest, path, valid=0, test=0)
    assert [len(part) for part in whole.values()] == [len(content.splitlines()), 0, 0]


@pytest.mark.parametrize("blank", [range(90, 100), range(80, 90)], ids=["the last tenth", "the one before"])
def test_blank_lines_of_cloze_take_no_split_away(blank: range, ingest: Any, write: Any) -> None:
    content = "".join("\n" if i in blank else f"line {i}\n" for i in range(100))
    found = texts(ingest, write("t.txt", content), "cloze", valid=0.1, test=0.1)
    assert tuple(map(len, found.values())) == (72, 9, 9)
    assert found["test"][-1] == ("line 89" if blank.start == 90 else "line 99")


def test_a_line_over_the_limit_is_said_to_be(ingest: Any, write: Any) -> None:
    path = write("t.txt", "word " * 300)
    with pytest.raises(InputError, match=r"1 of 1 rows are bad .*t.txt:1: too long: more than 1 KiB .*max_row_kb"):
        ingest({"format": "text", "path": path}, task="language_model", max_row_kb=1)


@pytest.mark.parametrize("content", ["", "\n\n \n"])
def test_a_file_without_text_holds_no_rows(content: str, ingest: Any, write: Any) -> None:
    with pytest.raises(InputError, match=r"t.txt holds no rows"):
        texts(ingest, write("t.txt", content), "cloze", valid=0.1, test=0.1)


def test_code_of_python_without_a_test_split(ingest: Any) -> None:
    source = {"format": "python", "of": "code", "lines_per_record": 10, "max_records": 20}
    found = ingest(source, task="language_model", split={"valid": 0.1, "test": 0})
    assert [len(found.records(split)) for split in ("train", "valid", "test")] == [18, 2, 0]


def test_a_chapter_goes_whole_into_one_split(ingest: Any, write: Any) -> None:
    """From a heading to the next; the title before the first is left out, and files do not run into each other."""
    chapter = lambda book, i: f"第{i}回　heading\n\n{book} {i}, 第二回 said within\nmore of {i}\n"
    for book in ("a", "b"):
        write(f"books/{book}.txt", "title\nby the author\n" + "".join(chapter(book, i) for i in range(1, 41)))
    folder = write("books/c.txt", "no heading\n").rpartition("/")[0]
    source = {"format": "text", "path": folder, "begins": r"^第\S{1,7}回\s"}
    found = ingest(source, task="language_model", split={"valid": 0.2, "test": 0.2})
    parts = {name: [row["text"] for row in found.records(name)] for name in ("train", "valid", "test")}
    assert min(map(len, parts.values())) > 5
    every = [text for texts in parts.values() for text in texts]
    assert sorted(every) == sorted(chapter(book, i) for book in "ab" for i in range(1, 41))


def test_a_chapter_over_the_limit_is_put_aside(ingest: Any, write: Any) -> None:
    chapters = [f"# {i}\n" + f"line of {i}\n" * (200 if i == 3 else 2) for i in range(1, 41)]
    source = {"format": "text", "path": write("book.txt", "".join(chapters)), "begins": "^# "}
    found = ingest(
        source, task="language_model", split={"valid": 0.2, "test": 0.2}, max_row_kb=1, max_quarantined_share=0.5
    )
    every = [row["text"] for name in ("train", "valid", "test") for row in found.records(name)]
    assert sorted(every) == sorted(text for text in chapters if "of 3\n" not in text)
    [bad] = found.quarantine
    assert (bad["row"], "a text of" in bad["reason"]) == (7, True), bad


def test_what_is_no_expression_is_refused(ingest: Any, write: Any) -> None:
    with pytest.raises(InputError, match=r"begins.*'\(' is not a regular expression"):
        ingest({"format": "text", "path": write("t.txt", LINES), "begins": "("}, task="language_model")
