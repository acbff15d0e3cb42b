"""Pairs to train on, made of an index's documents: nobody has to label anything.

A passage gives one query: the title, if it is a document's first; the heading that it begins with; else, and for more,
a sentence of it. The sentence is taken out of the passage in nine cases of ten (inverse cloze), so that a model cannot
learn to match equal words alone. All pairs of a document are in one split, and no query of train is one of another's.

Reference: Lee, Chang and Toutanova, "Latent retrieval for weakly supervised open domain question answering", ACL 2019.
"""

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipeline.ingest.leaks import normalized
from pipeline.tokenization.passages import Tokens, cut, index_text, remembered
from pipeline.tokenization.tokenizers import tokenizer_of

SPLITS = ("train", "valid", "test")
VALID_SHARE = TEST_SHARE = 0.1  # of the documents
PASSAGE_TOKENS, QUERY_TOKENS = 128, 32  # what the model that is trained reads
MIN_WORDS, MAX_WORDS = 4, 30  # of a sentence that becomes a query
MIN_TITLE_WORDS = 2
TAKEN_OUT = 0.9
PER_PASSAGE = 3  # sentences at most, for training
JUDGED = 1_000  # pairs of valid and of test: more tell nothing more and take their time
_HEADING = re.compile(r"(?:#{1,6} (.+)|(\S.*)\n([=~^*#-])\3{2,})\n")
# A sentence ends with a sign and a blank, unless a small letter follows ("e.g. in"); with a Chinese sign; or with a
# blank line.
_SENTENCE = re.compile(
    r"(?:[^.!?。！？\n]|[.!?](?!\s|\Z)|[.!?](?=\s+[a-z])|\n(?!\n))+(?:[.!?]+(?=\s|\Z)|[。！？]+|\n\n|\Z)"
)


class Document(Protocol):
    """What pairs are made of: search.documents.Document, or another one alike."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def known(self) -> Mapping[str, Any]: ...


class Cutting(NamedTuple):
    """How documents are cut into passages: at most so many tokens of a model."""

    limit: int
    tokens: Tokens


class Pair(NamedTuple):
    query: str
    document: str
    source: str  # "title", "heading" or "sentence"


def split_of(name: str, test_share: float = TEST_SHARE) -> str:
    """The split of a document, by its id: the same on any machine."""
    place = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8
    return "valid" if place < VALID_SHARE else "test" if place < VALID_SHARE + test_share else "train"


def sentences(text: str) -> list[str]:
    """The sentences of a text that can be queries: of so many words, and letters for the most part."""
    queries = []
    for match in _SENTENCE.finditer(text):
        sentence = match[0].strip()
        letters = sum(c.isalpha() for c in sentence)
        if 2 * letters >= len(sentence) and MIN_WORDS <= len(_words(sentence)) <= MAX_WORDS:
            queries.append(sentence)
    return queries


def _words(text: str) -> list[str]:
    return [token for token in _tokens(text) if any(c.isalnum() for c in token)]


@cache
def _words_alone() -> Tokens:
    return remembered(tokenizer_of("word", True, Path()).tokens)


def _tokens(text: str) -> list[str]:
    return _words_alone()(text)


USUAL = Cutting(PASSAGE_TOKENS - 16, _tokens)


def pairs_of(document: Document, chance: random.Random, most: int, cutting: Cutting = USUAL) -> Iterator[Pair]:
    """The pairs of a document, of each passage `most` at most: a title or heading before sentences."""
    form = str(document.known.get("format", ""))
    for number, span in enumerate(cut(document.text, *cutting, form)):
        passage = document.text[span.start : span.end]
        pairs: list[Pair] = []
        if number == 0 and len(_words(document.title)) >= MIN_TITLE_WORDS:
            pairs.append(Pair(document.title, passage, "title"))
        elif match := _HEADING.match(passage):
            heading, rest = (match[1] or match[2]).strip(), passage[match.end() :].strip()
            if rest and len(_words(heading)) >= MIN_TITLE_WORDS:
                pairs.append(Pair(heading, index_text(document.title, rest), "heading"))
        for sentence in chance.sample(asked := sentences(passage), min(len(asked), max(0, most - len(pairs)))):
            rest = passage
            if chance.random() < TAKEN_OUT:
                rest = " ".join(part for part in passage.partition(sentence)[::2]).strip()
            if len(_words(rest)) >= MIN_WORDS:
                pairs.append(Pair(sentence, index_text(document.title, rest), "sentence"))
        yield from pairs[:most]


def write(
    documents: Iterable[Document], folder: Path, wanted: int, seed: int = 1,
    cutting: Cutting = USUAL, held_out: Set[str] = frozenset(),
    test_share: float = TEST_SHARE,
) -> Counter[str]:  # fmt: skip
    """Writes train.jsonl, valid.jsonl and test.jsonl; returns how many pairs there are of each split and kind.

    Args:
        wanted: pairs to train on, at most; of more documents than give so many, all passages have the same chance.
        held_out: normalized queries that must not be learnt.
        test_share: of the documents.
    """
    chance, counts = random.Random(seed), Counter[str]()
    pairs_by_split: dict[str, list[tuple[float, Pair]]] = {split: [] for split in SPLITS}
    for document in documents:
        split = split_of(document.id, test_share)
        most = PER_PASSAGE if split == "train" else 1  # two of a passage: one holds the other's sentence
        limit = wanted if split == "train" else JUDGED
        for pair in pairs_of(document, chance, most, cutting):
            pairs_by_split[split].append((chance.random(), pair))
        if len(pairs_by_split[split]) > 2 * limit:
            pairs_by_split[split] = sorted(pairs_by_split[split])[:limit]
    kept = {split: [pair for _, pair in sorted(pairs)] for split, pairs in pairs_by_split.items()}
    kept |= {split: kept[split][:JUDGED] for split in SPLITS[1:]}
    # documents share headings and sentences; what a model is judged by it must not have learnt
    judged = {normalized(pair.query) for split in SPLITS[1:] for pair in kept[split]} | held_out
    kept["train"] = [pair for pair in kept["train"] if normalized(pair.query) not in judged][:wanted]
    for split, pairs in kept.items():
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for pair in pairs:
                file.write(json.dumps(pair._asdict(), ensure_ascii=False) + "\n")
                counts[split] += 1
                counts[pair.source] += 1
    return counts
