"""Pairs made of documents: what is asked, what answers, and that no document's pairs are in two splits."""

import json
import random
from pathlib import Path

import pytest

from pipeline.ingest.leaks import normalized
from pipeline.search.documents import Document
from pipeline.tokenization import training_pairs
from pipeline.tokenization.training_pairs import pairs_of, sentences, split_of

PROSE = (
    "The wing carries the lift of the flow. Its drag grows with the angle, e.g. in a climb. "
    "A stall follows when the flow separates from it! Is the tail different? Short. "
)


def test_sentences_of_prose_and_chinese() -> None:
    assert sentences(PROSE) == [
        "The wing carries the lift of the flow.",
        "Its drag grows with the angle, e.g. in a climb.",
        "A stall follows when the flow separates from it!",
        "Is the tail different?",
    ]
    assert sentences("机翼产生升力。阻力随着角度增加！") == ["机翼产生升力。", "阻力随着角度增加！"]
    assert sentences("x = 1; y[2] = {3: 4}; 5 + 6 == 11 ** 2 / 3") == []


def test_a_title_asks_for_the_first_passage_and_a_sentence_for_the_rest() -> None:
    document = Document("a", "About thin wings", PROSE)
    first, *others = pairs_of(document, random.Random(1), 3)
    assert first == ("About thin wings", PROSE.strip(), "title")
    assert len(others) == 2 and {pair.source for pair in others} == {"sentence"}
    for pair in others:
        assert pair.query in PROSE and pair.document.startswith("About thin wings\n")
    assert [pair.source for pair in pairs_of(document, random.Random(1), 1)] == ["title"]


def test_a_sentence_is_taken_out_nine_times_in_ten() -> None:
    chance = random.Random(3)
    found = [pair for _ in range(500) for pair in pairs_of(Document("a", "", PROSE), chance, 2)]
    out = sum(pair.query not in pair.document for pair in found) / len(found)
    assert len(found) == 1000 and out == pytest.approx(0.9, abs=0.03)
    for pair in found:
        left = {word for word in PROSE.split() if word not in pair.query.split()}
        assert left <= {*pair.document.split()}, "nothing else is taken out"


def test_headings_ask_for_their_sections() -> None:
    body = " ".join(f"word{i}" for i in range(100))
    text = f"{body}\n\n## How it stalls\n\n{body}\n\n## Landing the plane\n\n{body}"
    document = Document("a", "Wings", text, '{"format": "markdown"}')
    found = [pair for pair in pairs_of(document, random.Random(1), 1) if pair.source == "heading"]
    assert [pair.query for pair in found] == ["How it stalls", "Landing the plane"]
    assert all(pair.document.startswith("Wings\nword0 word1") for pair in found)


def test_splits_are_by_document_and_of_their_shares(tmp_path: Path) -> None:
    prose = [(f"Unique{i} " + PROSE * 8).replace(" the ", f" the {i}th ") for i in range(300)]
    documents = [Document(f"d{i}", f"Title number {i}", text) for i, text in enumerate(prose)]
    counts = training_pairs.write(documents, tmp_path, 500)
    assert counts["train"] == 500
    rows = {split: [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
            for split in training_pairs.SPLITS}  # fmt: skip
    assert {split: len(found) for split, found in rows.items()} == {split: counts[split] for split in rows}
    shares = [split_of(f"d{i}") for i in range(10_000)]
    assert shares.count("valid") / 10_000 == pytest.approx(0.1, abs=0.01)
    assert shares.count("test") / 10_000 == pytest.approx(0.1, abs=0.01)
    titles = {split: {row["query"] for row in found if row["source"] == "title"} for split, found in rows.items()}
    assert titles["test"] and titles["valid"] and not titles["test"] & titles["train"]
    for title in titles["test"]:
        assert split_of("d" + title.rpartition(" ")[2]) == "test"


def test_the_same_documents_give_the_same_pairs(tmp_path: Path) -> None:
    documents = [Document(f"d{i}", f"Title number {i}", PROSE) for i in range(50)]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        training_pairs.write(documents, tmp_path / name, 1000)
    for split in training_pairs.SPLITS:
        assert (tmp_path / "a" / f"{split}.jsonl").read_bytes() == (tmp_path / "b" / f"{split}.jsonl").read_bytes()


def test_no_query_of_train_is_one_of_another_split(tmp_path: Path) -> None:
    """Three documents say the same each: what they are judged by is left out of train, but for case."""
    texts = [PROSE.replace(".", f" {i // 3}.").replace("!", f" {i // 3}!") for i in range(180)]
    documents = [Document(f"d{i}", "Wings", text.upper() if i % 2 else text) for i, text in enumerate(texts)]
    training_pairs.write(documents, tmp_path, 1000)
    queries = {}
    for split in training_pairs.SPLITS:
        rows = map(json.loads, (tmp_path / f"{split}.jsonl").read_text().splitlines())
        queries[split] = {normalized(row["query"]) for row in rows}
    judged = queries["valid"] | queries["test"]
    trained = [normalized(text) for i, text in enumerate(texts) if split_of(f"d{i}") == "train"]
    assert sum(any(query in text for text in trained) for query in judged) > 5  # so some would have been in both
    assert len(queries["train"]) > 100 and not queries["train"] & judged
