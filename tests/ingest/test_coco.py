"""Files in the form of COCO, of Karpathy's splits and of VQA v2, made here: what is kept, what is put aside."""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import check_config
from pipeline.core.errors import InputError
from pipeline.ingest import images
from pipeline.ingest import stage as ingest


def jpeg(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((10, 12, 3), shade, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def name(number: int, part: str = "train2014") -> str:
    return f"COCO_{part}_{number:012d}.jpg"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of six pictures, the last of them damaged."""
    folder = tmp_path / "train2014"
    folder.mkdir()
    for number in range(1, 6):
        (folder / name(number)).write_bytes(jpeg(40 * number))
    (folder / name(6)).write_bytes(b"not a picture")
    return folder


def captions_file(path: Path, numbers: list[int], part: str = "train2014") -> str:
    content = {
        "info": {"year": 2014},
        "images": [{"id": n, "file_name": name(n, part), "height": 10, "width": 12} for n in numbers if n != 99],
        "annotations": [
            {"id": 10 * n + i, "image_id": n, "caption": f"picture {n} said in way {i}"}
            for n in numbers
            for i in range(2)
        ],
    }
    path.write_text(json.dumps(content))
    return str(path)


def read(folder: Path, task: str, source: dict[str, Any], **more: Any) -> tuple[dict[str, Any], Path]:
    data = {"name": "c", "task": task, "ingest": {"source": {"format": "coco", "size_px": 8, **source}, **more}}
    output = folder / "ingested"
    output.mkdir()
    return ingest.run(check_config(data, "test"), output), output


HALF = {"max_quarantined_share": 0.9, "split": {"valid": 0, "test": 0}}


def test_captions_of_one_picture_are_its_references(tmp_path: Path, pictures: Path) -> None:
    file = captions_file(tmp_path / "captions.json", [1, 2, 3, 6, 7, 99])
    counts, folder = read(tmp_path, "captioning", {"captions": file, "images": str(pictures)}, **HALF)
    rows = pq.read_table(folder / "records-train.parquet").to_pylist()
    assert [(row["image"], row["caption"]) for row in rows] == [
        (name(n), f"picture {n} said in way {i}") for n in (1, 2, 3) for i in range(2)
    ]
    aside = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert len(aside) == 6 and counts["records"]["quarantined"] == 6
    reasons = [row["reason"] for row in aside]
    assert sum("readable image" in reason for reason in reasons) == 2  # the damaged one
    assert sum("not among ingest.source.images" in reason for reason in reasons) == 4  # no file 7; no image 99 at all
    shades = np.load(folder / images.ARRAY)[:3, 0, 0, 0]
    assert shades.tolist() == [40, 80, 120]
    assert json.loads((folder / images.NAMES).read_text())[:3] == [name(1), name(2), name(3)]


def test_a_file_per_split_and_pictures_in_a_folder_and_a_zip_file(tmp_path: Path, pictures: Path) -> None:
    packed = tmp_path / "val2014.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"val2014/{name(8, 'val2014')}", jpeg(200))
    files = {
        "train": captions_file(tmp_path / "train.json", [1, 2, 3]),
        "valid": captions_file(tmp_path / "valid.json", [4]),
        "test": captions_file(tmp_path / "test.json", [8], "val2014"),
    }
    counts, folder = read(tmp_path, "captioning", {"captions": files, "images": [str(pictures), str(packed)]})
    kept = {split: pq.read_table(folder / f"records-{split}.parquet").num_rows for split in files}
    assert kept == {"train": 6, "valid": 2, "test": 2} and counts["records"]["quarantined"] == 0
    assert np.load(folder / images.ARRAY)[-1, 0, 0].tolist() == [200, 200, 200]


def test_karpathys_file_has_its_own_splits(tmp_path: Path, pictures: Path) -> None:
    listed = [(1, "train"), (2, "restval"), (3, "val"), (4, "test"), *((n, "train") for n in range(10, 60))]
    for n in range(10, 60):  # so many that some would be cut out of train, if any were
        (pictures / name(n)).write_bytes(jpeg(n))
    content = {
        "dataset": "coco",
        "images": [
            {"filename": name(n), "split": split, "cocoid": n, "sentences": [{"raw": f"raw {n}", "tokens": ["raw"]}]}
            for n, split in listed
        ],
    }
    file = tmp_path / "dataset_coco.json"
    file.write_text(json.dumps(content))
    _, folder = read(tmp_path, "captioning", {"captions": str(file), "images": [str(pictures)]})
    found = {
        split: pq.read_table(folder / f"records-{split}.parquet")["caption"].to_pylist()
        for split in ("train", "valid", "test")
    }
    train = ["raw 1", "raw 2", *(f"raw {n}" for n in range(10, 60))]
    assert found == {"train": train, "valid": ["raw 3"], "test": ["raw 4"]}


def questions(tmp_path: Path, numbers: list[int]) -> dict[str, Any]:
    asked = {
        "task_type": "Open-Ended",
        "data_subtype": "train2014",
        "questions": [{"image_id": n, "question": f"what is {n} ?", "question_id": 100 * n} for n in numbers],
    }
    answered = {
        "annotations": [
            {
                "question_id": 100 * n, "image_id": n, "multiple_choice_answer": f"thing {n % 2}",
                "answer_type": "other", "answers": [{"answer": "a", "answer_id": 1}],
            }
            for n in numbers
            if n != 3
        ]
    }  # fmt: skip
    (tmp_path / "q.json").write_text(json.dumps(asked))
    (tmp_path / "a.json").write_text(json.dumps(answered))
    return {"questions": str(tmp_path / "q.json"), "annotations": str(tmp_path / "a.json")}


def test_questions_are_joined_with_their_answers_and_pictures_by_number(tmp_path: Path, pictures: Path) -> None:
    source = {**questions(tmp_path, [1, 2, 3, 4, 7]), "images": [str(pictures)]}
    counts, folder = read(tmp_path, "visual_question", source, **HALF)
    rows = pq.read_table(folder / "records-train.parquet").to_pylist()
    assert [(row["image"], row["question"], row["answer"]) for row in rows] == [
        (name(n), f"what is {n} ?", f"thing {n % 2}") for n in (1, 2, 4)
    ]
    assert json.loads(rows[0]["metadata"]) == {"kind": "other"}
    assert counts["records"]["quarantined"] == 2  # question 3 has no answer, picture 7 is not there


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[1]", "has no list 'images'"),
        ("{", "is not valid JSON"),
        ('{"images": [], "annotations": {}}', "has no list 'annotations'"),
        ('{"images": [{"id": 1}], "annotations": []}', "entry 1 of 'images' lacks one of id, file_name"),
        ('{"images": [], "annotations": []}', "names an image of"),
    ],
)
def test_a_file_of_another_form_is_one_sentence(tmp_path: Path, pictures: Path, content: str, sentence: str) -> None:
    file = tmp_path / "captions.json"
    file.write_text(content)
    with pytest.raises(InputError, match=sentence) as found:
        read(tmp_path, "captioning", {"captions": str(file), "images": [str(pictures)]})
    assert "captions.json" in str(found.value)


IMAGE, CAPTION = {"id": 1, "file_name": name(1)}, {"image_id": 1, "caption": "a"}
SENTENCE = {"filename": name(1), "sentences": [{"raw": "a"}]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"images": [IMAGE, {**IMAGE, "file_name": None}], "annotations": [CAPTION]},
         "entry 2 of 'images' has the file_name null, which must be a text"),
        ({"images": [{**IMAGE, "id": [1]}], "annotations": [CAPTION]},
         "entry 1 of 'images' has the id [1], which must be a text or a whole number"),
        ({"images": [IMAGE], "annotations": [CAPTION, {**CAPTION, "image_id": 1.5}]},
         "entry 2 of 'annotations' has the image_id 1.5"),
        ({"images": [IMAGE], "annotations": [{**CAPTION, "image_id": True}]}, "has the image_id true"),
        ({"images": [IMAGE], "annotations": [{**CAPTION, "image_id": {"n": "\ud800"}}]}, "has the image_id {"),
        ({"images": [SENTENCE, {**SENTENCE, "sentences": None}]},
         "entry 2 of 'images' has the sentences null, which must be a list of objects"),
        ({"images": [{**SENTENCE, "sentences": ["a"]}]}, "entry 1 of 'images' has the sentences"),
        ({"images": [{**SENTENCE, "filename": 7}]}, "entry 1 of 'images' has the filename 7, which must be a text"),
    ],
)  # fmt: skip
def test_what_finds_an_entry_must_be_of_its_kind(
    tmp_path: Path, pictures: Path, content: dict[str, Any], sentence: str
) -> None:
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=re.escape(sentence)) as found:
        read(tmp_path, "captioning", {"captions": str(file), "images": [str(pictures)]})
    assert str(found.value).startswith(f"{file}: entry ") and "\n" not in str(found.value)


@pytest.mark.parametrize("file", ["q.json", "a.json"])
def test_a_question_that_is_found_by_no_id_is_told(tmp_path: Path, pictures: Path, file: str) -> None:
    source = {**questions(tmp_path, [1, 2, 4]), "images": [str(pictures)]}
    path = tmp_path / file
    path.write_text(path.read_text().replace('"question_id": 200', '"question_id": [200]'))
    with pytest.raises(InputError, match=rf"{file}: entry 2 of '\w+' has the question_id \[200\], which must be"):
        read(tmp_path, "visual_question", source, **HALF)


def test_numbers_may_be_floats_and_what_an_entry_says_is_looked_at_row_by_row(tmp_path: Path, pictures: Path) -> None:
    """As pandas writes a column with gaps; an answer's kind that is null is none."""
    source = {**questions(tmp_path, [1, 2, 4]), "images": [str(pictures)]}
    for path, old, new in (
        (tmp_path / "q.json", '"image_id": 2,', '"image_id": 2.0,'),
        (tmp_path / "q.json", '"what is 4 ?"', "null"),
        (tmp_path / "a.json", '"answer_type": "other"', '"answer_type": null'),
    ):
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    counts, folder = read(tmp_path, "visual_question", source, **HALF)
    rows = pq.read_table(folder / "records-train.parquet").to_pylist()
    assert [(row["image"], json.loads(row["metadata"])) for row in rows] == [(name(n), {"kind": ""}) for n in (1, 2)]
    assert counts["records"]["quarantined"] == 1


def test_pictures_of_useless_names_are_passed_over(tmp_path: Path, pictures: Path) -> None:
    """A number of more digits than Python reads, and none at all, as a damaged zip file has it."""
    packed = tmp_path / "more.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("9" * 5000 + ".jpg", jpeg(200))
        archive.writestr("Zz.jpg", jpeg(200))
    packed.write_bytes(packed.read_bytes().replace(b"Zz.jpg", b"\0z.jpg"))
    source = {**questions(tmp_path, [1, 2]), "images": [str(pictures), str(packed)]}
    counts, _ = read(tmp_path, "visual_question", source, **HALF)
    assert counts["records"]["kept"] == 2


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({}, "give either captions, or questions and annotations"),
        ({"captions": "c", "questions": "q"}, "give either captions"),
        ({"questions": "q"}, "need each other"),
        ({"questions": "q", "annotations": {"train": "a"}}, "must both be one file"),
        ({"questions": {"train": "q"}, "annotations": {"test": "a"}}, "must name the same splits"),
    ],
)
def test_settings_that_do_not_fit(source: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_config({"name": "c", "ingest": {"source": {"format": "coco", "images": ["i"], **source}}}, "test")


@pytest.mark.parametrize("task", ["captioning", "visual_question"])
def test_a_source_of_the_other_task_is_refused(tmp_path: Path, pictures: Path, task: str) -> None:
    captions = {"captions": captions_file(tmp_path / "c.json", [1])}
    source = captions if task == "visual_question" else questions(tmp_path, [1])
    with pytest.raises(InputError, match=f"format coco is for task .*, not {task}"):
        read(tmp_path, task, {**source, "images": [str(pictures)]})
