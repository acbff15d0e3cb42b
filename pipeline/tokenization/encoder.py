"""Text to ids, from a tokenized folder alone: what the stage's workers, evaluation and prediction share."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.config import Config
from pipeline.core.errors import InputError
from pipeline.core.record_schema import RESERVED
from pipeline.tokenization.tokenizers import Tokenizer, tokenizer_of

PADDING, UNKNOWN = RESERVED
PADDING_ID, UNKNOWN_ID = 0, 1
SETTINGS_NAME, VOCABULARY_NAME = "tokenizer.json", "vocabulary.json"
LABELS = 100_000  # at most
REMAKE = "delete its folder and run `duplet tokenize`"


class Encoded(NamedTuple):
    """N texts as ids, one after the other, and what was seen on the way."""

    ids: np.ndarray  # (sum of lengths,) int32
    lengths: np.ndarray  # (N,) int32, at least 1
    cut: int  # texts longer than the limit
    unknown_tokens: int  # of those kept
    empty: int  # texts without a token, which stand as a single <unk>


class Counted(NamedTuple):
    """N texts as places among their own distinct tokens: what there is before there is a vocabulary."""

    tokens: list[str]
    counts: list[int]  # of each in the texts
    places: Encoded  # ids: of a token among `tokens`


class Form(NamedTuple):
    """How the fields that share a vocabulary become tokens."""

    kind: str
    lowercase: bool
    max_tokens: dict[str, int | None]  # by field; None: no text is cut
    vocabulary_size: int
    min_count: int
    sentencepiece_model: str = "unigram"
    split_digits: bool = False
    more_words: str | None = None  # a file


def forms(config: Config) -> dict[str, Form]:
    """By vocabulary, how its fields are tokenized; "" is the main one, whose files lie in the tokenized folder itself.

    Labels and tags are kept as they are and each known, however rare.
    """
    settings, by_vocabulary = config.tokenize, {}
    for name in dict.fromkeys(form.vocabulary for form in config.spec.fields.values()):
        fields = {field: form for field, form in config.spec.fields.items() if form.vocabulary == name}
        limits = {field: config.tokenize.max_tokens[field] for field in fields}
        [kind] = {form.tokens for form in fields.values()}
        if kind == "text":
            by_vocabulary[name] = Form(
                settings.kind, settings.lowercase, limits, settings.vocabulary_size, settings.min_count,
                settings.sentencepiece_model, settings.split_digits, settings.more_words,
            )  # fmt: skip
        elif name == "":
            by_vocabulary[name] = Form(
                kind, settings.lowercase, limits, settings.vocabulary_size, settings.min_count,
                more_words=settings.more_words,
            )  # fmt: skip
        else:
            by_vocabulary[name] = Form(kind, False, limits, LABELS, 1)
    return by_vocabulary


class Encoder:
    """A tokenizer, its vocabulary and the limits per field."""

    def __init__(self, tokenizer: Tokenizer, token_to_id: dict[str, int], max_tokens: dict[str, int | None]) -> None:
        self._tokenizer = tokenizer
        # text that spells <pad> must not become padding
        self._ids = {token: i for token, i in token_to_id.items() if i not in (PADDING_ID, UNKNOWN_ID)}
        self.max_tokens = max_tokens

    def tokens(self, text: str) -> list[str]:
        """All tokens of a text, uncut."""
        return self._tokenizer.tokens(text)

    def encode(self, text: str, field: str) -> np.ndarray:
        """(T,) int32 ids, 1 <= T <= the field's limit; a text without tokens gives a single <unk>.

        Raises:
            InputError: no such field.
        """
        return self.encode_all([text], field).ids

    def encode_all(self, texts: list[str], field: str) -> Encoded:
        """As `encode`, for many texts at once."""
        if field not in self.max_tokens:
            raise InputError(
                f"field {field!r} has no token limit: tokenize.max_tokens names {', '.join(self.max_tokens)}"
            )
        tokens, read = read_texts(self._tokenizer, texts, self.max_tokens[field])
        return self._of(self._known(tokens), read)

    def encode_counted(self, counted: Counted) -> Encoded:
        """As `encode_all`, of texts that were read when their tokens were counted."""
        return self._of(self._known(counted.tokens)[counted.places.ids], counted.places)

    def _known(self, tokens: list[str]) -> np.ndarray:
        find = self._ids.get
        return np.array([find(token, UNKNOWN_ID) for token in tokens], np.int32)

    def _of(self, ids: np.ndarray, read: Encoded) -> Encoded:
        return read._replace(ids=ids, unknown_tokens=int(np.count_nonzero(ids == UNKNOWN_ID)) - read.empty)


def read_texts(tokenizer: Tokenizer, texts: list[str], limit: int | None) -> tuple[list[str], Encoded]:
    """The tokens of N texts, each cut to the limit, one after the other, and all but their ids.

    A text without a token has a single <unk>, which no vocabulary counts.
    """
    together: list[str] = []
    lengths = np.empty(len(texts), np.int32)
    cut = empty = 0
    for row, text in enumerate(texts):
        tokens = tokenizer.tokens(text)
        kept = tokens[:limit]
        cut += len(tokens) > len(kept)
        empty += not tokens
        lengths[row] = len(kept) or 1
        together += kept or (UNKNOWN,)
    return together, Encoded(np.zeros(0, np.int32), lengths, cut, 0, empty)


def count_tokens(tokenizer: Tokenizer, texts: list[str], limit: int | None) -> Counted:
    """Reads texts and counts their tokens within the limit: what lies behind it is never seen in training."""
    tokens, read = read_texts(tokenizer, texts, limit)
    counts = Counter(tokens)
    places = {token: place for place, token in enumerate(counts)}
    ids = np.fromiter(map(places.__getitem__, tokens), np.int32, len(tokens))
    return Counted(list(counts), list(counts.values()), read._replace(ids=ids))


def write_settings(form: Form, folder: Path) -> None:
    """Writes what rebuilds the tokenizer, beside the vocabulary."""
    settings = {"kind": form.kind, "lowercase": form.lowercase, "max_tokens": form.max_tokens}
    (folder / SETTINGS_NAME).write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")


def load_bare_tokenizer(folder: Path) -> tuple[Tokenizer, dict[str, int | None]]:
    """The tokenizer without its vocabulary, and the limits per field. Raises InputError."""
    path = folder / SETTINGS_NAME
    settings = _json(path)
    try:
        kind, lowercase, limits = settings["kind"], settings["lowercase"], dict(settings["max_tokens"])
        if not all(limit is None or (type(limit) is int and limit > 0) for limit in limits.values()):
            raise ValueError("a limit of tokens is missing")
        return tokenizer_of(kind, lowercase, folder), limits
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not describe a tokenizer ({error!r}): {REMAKE}") from None


def load_vocabulary(folder: Path) -> dict[str, int]:
    """Token -> id, from the JSON that gluonnlp.Vocab writes. Raises InputError."""
    path = folder / VOCABULARY_NAME
    try:
        tokens = {str(token): int(i) for token, i in _json(path)["token_to_idx"].items()}
        if (
            tokens[PADDING] != PADDING_ID
            or tokens[UNKNOWN] != UNKNOWN_ID
            or set(tokens.values()) != set(range(len(tokens)))
        ):
            raise ValueError("its ids are not 0 … n - 1 with padding and unknown first")
        return tokens
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} holds no vocabulary ({error}): {REMAKE}") from None


def load_tokenizer(folder: Path) -> Encoder:
    """The whole encoder of a tokenized folder. Raises InputError naming the file that is missing or damaged."""
    tokenizer, limits = load_bare_tokenizer(folder)
    return Encoder(tokenizer, load_vocabulary(folder), limits)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): {REMAKE}") from None
