"""The stage over records: vocabulary, ids, counts, shards, and the same bytes whatever the workers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Config
from pipeline.core.errors import InputError
from pipeline.core.record_schema import schema
from pipeline.ingest.output import TableWriter
from pipeline.tokenization import shards, stage
from pipeline.tokenization.encoder import Encoder
from pipeline.tokenization.tokenizers import CharacterTokenizer, WordTokenizer

Ingested = Callable[..., Path]
Tokenized = Callable[..., tuple[Path, dict[str, Any]]]
KINDS = ("word", "character", "sentencepiece", "jieba")

TRAIN = [
    ("q1", "sort a list", "d1", "sorted list of numbers", 1.0),
    ("q1", "sort a list", "d2", "parse a header", 0.0),
    ("q2", "read a file", "d3", "file open and read a list", 2.0),
    ("q2", "read a file", "d1", "sorted list of numbers", 0.0),
]
TEST = [("q9", "sort zebra", "d9", "zebra list", 1.0), ("q8", "  ", "d9", "zebra list", 0.0)]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def words(folder: Path, split: str, field: str) -> dict[str, list[str]]:
    """Key -> the tokens that its ids stand for."""
    tokens = json.loads((folder / "vocabulary.json").read_text())["idx_to_token"]
    texts = shards.open_split(folder, split).fields[field]
    return {key: [tokens[i] for i in texts.ids(row)] for row, key in enumerate(texts.keys)}


def test_each_distinct_text_once_and_the_examples_over_them(ingested: Ingested, tokenized: Tokenized) -> None:
    folder, counts = tokenized(ingested(train=TRAIN, test=TEST), min_count=1)
    split = shards.open_split(folder, "train")
    assert list(split.fields["query"].keys) == ["q1", "q2"]
    assert list(split.fields["document"].keys) == ["d1", "d2", "d3"]
    assert list(split.ids) == ["train0", "train1", "train2", "train3"]
    assert split.rows["query"].tolist() == [0, 0, 1, 1]
    assert split.rows["document"].tolist() == [0, 1, 2, 0]
    assert split.relevance.tolist() == [1, 0, 2, 0]
    assert {array.dtype for array in split.rows.values()} == {np.dtype(np.int32)}
    assert split.relevance.dtype == np.float32
    assert words(folder, "train", "document")["d2"] == ["parse", "a", "header"]
    assert counts["train"] == {
        "examples": 4,
        "query": {"texts": 2, "tokens": 6, "cut": 0, "unknown_tokens": 0, "empty": 0},
        "document": {"texts": 3, "tokens": 13, "cut": 0, "unknown_tokens": 0, "empty": 0},
    }


def test_the_vocabulary_counts_distinct_training_texts_and_breaks_ties_alphabetically(
    ingested: Ingested, tokenized: Tokenized
) -> None:
    source = ingested(train=TRAIN, test=TEST)
    folder, counts = tokenized(source, min_count=2)
    # a: q1 q2 d2 d3; list: q1 d1 d3; read, file: q2 d3. Not sorted or numbers: d1 is in two records, but one text
    expected = ["<pad>", "<unk>", "a", "list", "file", "read"]
    assert json.loads((folder / "vocabulary.json").read_text())["idx_to_token"] == expected
    assert counts["vocabulary"] == shards.vocabulary_size(folder) == 6
    folder, _ = tokenized(source, min_count=2, vocabulary_size=5)
    assert json.loads((folder / "vocabulary.json").read_text())["idx_to_token"] == expected[:5]


def test_a_word_only_in_test_is_unknown(ingested: Ingested, tokenized: Tokenized) -> None:
    folder, counts = tokenized(ingested(train=TRAIN, test=TEST), min_count=1)
    assert words(folder, "test", "document") == {"d9": ["<unk>", "list"]}
    assert words(folder, "test", "query") == {"q9": ["sort", "<unk>"], "q8": ["<unk>"]}
    assert counts["test"]["query"] == {"texts": 2, "tokens": 3, "cut": 0, "unknown_tokens": 1, "empty": 1}
    assert counts["test"]["document"]["unknown_tokens"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_gluonnlp_reads_the_vocabulary_back(ingested: Ingested, tokenized: Tokenized, kind: str) -> None:
    from gluonnlp import Vocab

    folder, counts = tokenized(ingested(train=TRAIN), kind=kind, min_count=1, vocabulary_size=60)
    vocabulary = Vocab.from_json((folder / "vocabulary.json").read_text())
    assert len(vocabulary) == counts["vocabulary"]
    assert (vocabulary["<pad>"], vocabulary["<unk>"], vocabulary["never seen"]) == (0, 1, 1)
    encoder = shards.load_tokenizer(folder)
    assert vocabulary[encoder.tokens("sort a list")] == encoder.encode("sort a list", "query").tolist()
    assert 1 not in encoder.encode("sort a list", "query")


def test_texts_over_the_limit_are_cut_and_what_is_cut_is_not_counted(ingested: Ingested, tokenized: Tokenized) -> None:
    train = [("q1", "a b c c c", "d1", "x y z z z", 1.0)]
    folder, counts = tokenized(ingested(train=train), min_count=1, max_tokens={"query": 2, "document": 3})
    assert words(folder, "train", "query") == {"q1": ["a", "b"]}
    assert words(folder, "train", "document") == {"d1": ["x", "y", "z"]}
    assert counts["vocabulary"] == 2 + 5
    assert counts["train"]["query"] == {"texts": 1, "tokens": 2, "cut": 1, "unknown_tokens": 0, "empty": 0}
    assert len(shards.load_tokenizer(folder).encode("a b c", "query")) == 2


def test_the_collection_comes_first_in_valid_and_test_only(ingested: Ingested, tokenized: Tokenized) -> None:
    collection = [("d9", "zebra list"), ("d5", "alone"), ("d1", "sorted list of numbers")]
    beyond = [*TEST, ("q7", "list", "d7", "not collected", 1.0)]
    folder, counts = tokenized(
        ingested(collection, train=TRAIN, valid=TEST, test=beyond), min_count=1, rows_per_shard=2
    )
    splits = {name: shards.open_split(folder, name) for name in ("train", "valid", "test")}
    assert list(splits["train"].fields["document"].keys) == ["d1", "d2", "d3"]
    assert list(splits["valid"].fields["document"].keys) == ["d9", "d5", "d1"]
    assert list(splits["test"].fields["document"].keys) == ["d9", "d5", "d1", "d7"]
    assert splits["test"].rows["document"].tolist() == [0, 0, 3]
    assert words(folder, "valid", "document")["d5"] == ["<unk>"]
    assert counts["test"]["document"]["texts"] == 4 and counts["test"]["examples"] == 3


def test_shards_hold_so_many_rows(ingested: Ingested, tokenized: Tokenized) -> None:
    train = [(f"q{i}", "list", f"d{i}", f"text {'x ' * i}", 1.0) for i in range(7)]
    folder, _ = tokenized(ingested(train=train), min_count=1, rows_per_shard=3)
    assert sorted(path.name for path in (folder / "train").glob("document-*")) == [
        f"document-0000{i}.arrow" for i in range(3)
    ]
    texts = shards.open_split(folder, "train").fields["document"]
    assert texts.lengths.tolist() == [1 + i for i in range(7)]
    assert texts.padded(np.array([6, 0, 3]))[0].shape == (3, 7)
    exact, _ = tokenized(ingested(train=train[:6]), min_count=1, rows_per_shard=3)
    assert len(list((exact / "train").glob("document-*"))) == 2


def test_an_empty_split_opens(ingested: Ingested, tokenized: Tokenized) -> None:
    folder, counts = tokenized(ingested(train=TRAIN), min_count=1)
    split = shards.open_split(folder, "valid")
    assert len(split.ids) == len(split.relevance) == len(split.fields["query"]) == len(split.rows["document"]) == 0
    assert counts["valid"]["examples"] == counts["valid"]["query"]["texts"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_do_not_depend_on_the_workers(
    ingested: Ingested, tokenized: Tokenized, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "PIECE_TEXTS", 7)
    rng = np.random.default_rng(1)
    names = ["list", "北京大学", "parseHTTP", "été", "read", "the", "x1"]
    pairs = [
        (f"q{i // 2}", " ".join(rng.choice(names, 4)), f"d{i}", " ".join(rng.choice(names, 1 + i % 20)), 1.0)
        for i in range(60)
    ]
    source = ingested([("d0", "list"), ("c", "北京")], train=pairs[:40], valid=pairs[40:50], test=pairs[50:])
    settings: dict[str, Any] = {"kind": kind, "rows_per_shard": 16, "vocabulary_size": 40}
    one, two = tokenized(source, workers=1, **settings), tokenized(source, workers=2, **settings)
    assert len(tree(one[0])) > 12
    assert tree(one[0]) == tree(two[0])
    assert one[1] == two[1]


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_sentencepiece_reduces_its_vocabulary_and_says_so(ingested: Ingested, tokenized: Tokenized, model: str) -> None:
    folder, counts = tokenized(ingested(train=TRAIN, test=TEST), kind="sentencepiece", sentencepiece_model=model)
    assert 10 < counts["vocabulary"] == shards.vocabulary_size(folder) < 200
    assert counts["notes"] == [
        f"vocabulary of {counts['vocabulary']} instead of 30000: the training split does not hold more pieces"
    ]
    # z is in the training split only within sized words: not at all
    tokens = json.loads((folder / "vocabulary.json").read_text())["idx_to_token"]
    assert not any("z" in token for token in tokens[2:])
    assert counts["test"]["document"]["unknown_tokens"] > 0


def test_sentencepiece_takes_lines_of_any_length(ingested: Ingested, tokenized: Tokenized) -> None:
    """Its BPE trainer would end the process at a word over 65,535 characters, and leave out lines over its limit."""
    train = [("q1", "ab", "d1", "ba" * 40_000 + " tail" * 1000, 1.0)]
    folder, _ = tokenized(ingested(train=train), kind="sentencepiece", sentencepiece_model="bpe")
    assert 1 not in shards.load_tokenizer(folder).encode("abab tail", "query")


def test_text_that_spells_padding_is_not_padding(ingested: Ingested, tokenized: Tokenized) -> None:
    train = [("q1", "<pad> <unk> a", "d1", "<pad>" * 9, 1.0)]
    for kind in KINDS:
        folder, _ = tokenized(ingested(train=train), kind=kind, min_count=1, vocabulary_size=50)
        for text in ("<pad>", "a<pad>", "<unk>"):
            assert 0 not in shards.load_tokenizer(folder).encode(text, "query")
    whole = Encoder(_Whole(), {"<pad>": 0, "<unk>": 1, "x": 2}, {"query": 5})
    assert whole.encode("<pad> x <unk>", "query").tolist() == [1, 2, 1]


class _Whole:
    def tokens(self, text: str) -> list[str]:
        return text.split()


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5),
    limit=st.integers(1, 6),
    known=st.lists(st.characters(categories=["Ll", "Nd", "Po"])),
)
def test_ids_lie_within_vocabulary_and_limit(texts: list[str], limit: int, known: list[str]) -> None:
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(["<pad>", "<unk>", *known]))}
    for tokenizer in (WordTokenizer(True), CharacterTokenizer(False)):
        encoder = Encoder(tokenizer, vocabulary, {"query": limit})
        encoded = encoder.encode_all(texts, "query")
        assert len(encoded.ids) == encoded.lengths.sum()
        assert all(1 <= length <= limit for length in encoded.lengths)
        assert all(1 <= i < len(vocabulary) for i in encoded.ids)
        parts = [encoder.encode(text, "query").tolist() for text in texts]
        assert [i for part in parts for i in part] == encoded.ids.tolist()
        assert encoded.empty == sum(not tokenizer.tokens(text) for text in texts)
        assert encoded.unknown_tokens == sum(part.count(1) for part in parts) - encoded.empty
        assert encoded.cut == sum(len(tokenizer.tokens(text)) > limit for text in texts)


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_rebuilds_the_tokenizer_from_the_folder(ingested: Ingested, tokenized: Tokenized, kind: str) -> None:
    folder, _ = tokenized(ingested(train=TRAIN), kind=kind, min_count=1, vocabulary_size=60, lowercase=False)
    encoder = shards.load_tokenizer(folder)
    texts = shards.open_split(folder, "train").fields["query"]
    assert encoder.encode("sort a list", "query").tolist() == texts.ids(0).tolist()
    assert encoder.encode("", "document").tolist() == [1]
    assert encoder.encode("x", "query").dtype == np.int32
    with pytest.raises(InputError, match="field 'title' has no token limit"):
        encoder.encode("x", "title")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"kind": "none", "lowercase": true, "max_tokens": {}}'),
        ("vocabulary.json", "{}"),
        ("vocabulary.json", '{"token_to_idx": {"<pad>": 0, "<unk>": 1, "a": 7}}'),
        ("vocabulary.json", '{"token_to_idx": {"<pad>": 1, "<unk>": 0}}'),
        ("vocabulary.json", None),
    ],
)
def test_a_damaged_tokenizer_is_named(ingested: Ingested, tokenized: Tokenized, name: str, content: str | None) -> None:
    folder, _ = tokenized(ingested(train=TRAIN), min_count=1)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=name):
        shards.load_tokenizer(folder)


def test_bad_input_gets_a_sentence(ingested: Ingested, tokenized: Tokenized) -> None:
    empty = ingested(test=TEST)
    with pytest.raises(InputError, match=r"records-train.parquet has no record to learn from"):
        tokenized(empty)
    source = ingested(train=TRAIN)
    with pytest.raises(InputError, match="vocabulary_size=2 leaves no room"):
        tokenized(source, vocabulary_size=2)
    with pytest.raises(InputError, match=r"max_tokens names 'documnt', which is not a field of matching"):
        tokenized(source, max_tokens={"query": 5, "documnt": 5})
    with pytest.raises(InputError, match=r"SentencePiece cannot make a vocabulary of tokenize.vocabulary_size=5"):
        tokenized(source, kind="sentencepiece", vocabulary_size=5)
    blank = ingested(train=[("q", " ", "d", "\n", 1.0)])
    with pytest.raises(InputError, match="SentencePiece cannot make a vocabulary"):
        tokenized(blank, kind="sentencepiece")
    path = source / "records-valid.parquet"
    for content, message in ((b"PAR1", "cannot be read"), (None, "cannot be read")):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=f"{path} {message}.*duplet ingest"):
            tokenized(source)


@pytest.mark.parametrize("kind", ["word", "sentencepiece"])
def test_a_damaged_page_of_the_records_is_named(ingested: Ingested, tokenized: Tokenized, kind: str) -> None:
    source = ingested(train=TRAIN)
    path = source / "records-train.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)  # behind the magic number, before the footer
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path} is damaged"):
        tokenized(source, kind=kind)


def test_the_key_follows_the_settings_and_the_ingest(configuration: Callable[..., Config]) -> None:
    key = stage.parts(configuration(), "a").key
    assert key == stage.parts(configuration(), "a").key
    others = [
        stage.parts(configuration(), "b"),
        stage.parts(configuration(lowercase=False), "a"),
        stage.parts(configuration(kind="jieba"), "a"),
    ]
    assert len({key, *(other.key for other in others)}) == 4
    assert "jieba" in others[2].libraries and "jieba" not in others[0].libraries


def test_reading_records_holds_few_of_them(tmp_path: Path) -> None:
    """A file of many row groups goes through a buffer: pyarrow's own default keeps all that was read until the end."""
    letters = np.random.default_rng(1).integers(97, 123, (20_000, 1000), np.uint8)
    writer = TableWriter(tmp_path / "records-train.parquet", schema(("query", "document")))
    for number, row in enumerate(letters):
        writer.add((str(number), f"q{number}", "q", f"d{number}", row.tobytes().decode(), 1.0, ""))
    writer.close()
    path = tmp_path / "records-train.parquet"
    source = stage._Source(path, stage._parquet(path, schema(("query", "document"))), "document_id", "document")
    assert source.file.num_row_groups == 20
    before, most = pa.total_allocated_bytes(), 0
    for _ in stage._read(source, ["document_id", "document"]):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 8_000_000, most  # of 20,000,000


def test_ids_of_more_bytes_than_32_bits_count(
    ingested: Ingested, tokenized: Tokenized, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the bound the places of the ids have 64 bits; below it files are what they always were."""
    source = ingested(train=TRAIN)
    small, _ = tokenized(source)
    monkeypatch.setattr(stage, "MOST_ID_BYTES", 5)
    large, _ = tokenized(source)
    splits = [shards.open_split(folder, "train") for folder in (small, large)]
    assert [pa.types.is_large_string(split.file.table.schema.field("id").type) for split in splits] == [False, True]
    assert list(splits[0].ids) == list(splits[1].ids)
    assert splits[0].ids[1:3] == splits[1].ids[1:3]
    assert splits[0].rows["document"].tolist() == splits[1].rows["document"].tolist()
