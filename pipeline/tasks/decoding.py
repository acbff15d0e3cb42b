"""What a task reads and what its numbers say, in numpy alone: shared by the tasks and by what serves without MXNet."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.core.errors import InputError
from pipeline.evaluation.confidence import Confidence
from pipeline.ingest.rows import shorten
from pipeline.tokenization.encoder import PADDING_ID, UNKNOWN_ID, Encoder, load_vocabulary

if TYPE_CHECKING:
    from pipeline.tokenization.shards import Split

SPECIAL = 2  # <pad> and <unk> of a vocabulary are no classes and no tags, and fill no blank
UNSEEN_TAG = "I-<unknown>"  # read as a span's beginning or middle
BLANK = "___"
BEST = 5  # words said for each blank
# Tokens read before each part of a judged text, and not judged, so that no token is judged without what comes before.
READ_IN = 100


def tokens_by_id(folder: Path) -> list[str]:
    """(V,) a folder's vocabulary. Raises InputError."""
    ids = load_vocabulary(folder)
    return sorted(ids, key=lambda token: ids[token])


# --- classification ---------------------------------------------------------------------------------------------------
def label_of(
    names: list[str], probabilities: np.ndarray, field: str = "label", confidence: Confidence | None = None
) -> dict[str, Any]:
    """The likeliest of (C,) classes, as `field`, all their probabilities, and whether it is sure, if that was asked.

    Args:
        probabilities: as the model gives them, or as `confidence`, if there is one, has calibrated them.

    >>> label_of(["bad", "good"], np.array([0.25, 0.75]))
    {'label': 'good', 'probabilities': {'bad': 0.25, 'good': 0.75}}
    """
    chances = {name: round(float(p), 6) for name, p in zip(names, probabilities)}
    sure = {} if confidence is None else {"sure": bool(confidence.sure(probabilities))}
    return {field: names[int(np.argmax(probabilities))], **sure, "probabilities": chances}


def labels_of(
    names: list[str], probabilities: np.ndarray, field: str, confidence: Confidence | None
) -> list[dict[str, Any]]:
    """`label_of` of each of (N, C) probabilities as the model gives them, calibrated where `confidence` says how."""
    if confidence is not None:
        probabilities = confidence.calibrated(probabilities)
    return [label_of(names, row, field, confidence) for row in probabilities]


def classes_given(split: "Split", classes: int, name: str = "label") -> np.ndarray:
    """(N,) int64 places of a split's labels (its field `name`) among the C `classes`; labels that the training split
    does not have are C, C + 1, …: each is a class that no text can be given."""
    field = split.fields[name]
    places = np.array([field.ids(row)[0] for row in range(len(field))], np.int64) - SPECIAL
    unseen = np.flatnonzero(places < 0)
    places[unseen] = classes + np.arange(len(unseen))
    return places[split.rows[name]]


# --- tagging ----------------------------------------------------------------------------------------------------------
class Spelling(NamedTuple):
    """The W distinct words of some texts by their letters."""

    letters: np.ndarray  # (L, W) int32, time first
    lengths: np.ndarray  # (W,) int32
    places: list[np.ndarray]  # for each chunk (T, c) int32: 1 + the word, 0 on padding


def spelled(sentences: list[np.ndarray], chunks: list[tuple[int, np.ndarray]], space: int) -> Spelling:
    """The words of sentences that are given as letters.

    Args:
        sentences: int32 each, in the order of the chunks.
        chunks: of each the padded steps T and the (c,) words of its sentences.
        space: the letter between two words; -1: there is none.

    >>> spelled([np.array([5, 6, 2, 7, 2, 5, 6])], [(4, np.array([3]))], 2).places[0].ravel().tolist()
    [1, 2, 1, 0]
    """
    known: dict[bytes, int] = {}
    words: list[np.ndarray] = []
    places, row = [], 0
    for steps, counts in chunks:
        place = np.zeros((steps, len(counts)), np.int32)
        for column, count in enumerate(counts.tolist()):
            ids = sentences[row]
            parts = np.split(ids, np.flatnonzero(ids == space)) if space >= 0 else [ids]
            for step, part in enumerate(parts[:count]):
                word = part[1:] if step else part
                if not len(word):
                    continue
                key = word.tobytes()
                if key not in known:
                    known[key] = len(words) + 1
                    words.append(word)
                place[step, column] = known[key]
            row += 1
        places.append(place)
    lengths = np.array([len(word) for word in words], np.int32)
    letters = np.zeros((int(lengths.max(initial=1)), len(words)), np.int32)
    for column, word in enumerate(words):
        letters[: len(word), column] = word
    return Spelling(letters, lengths, places)


def space_of(folder: Path) -> int:
    """The id of the blank between words among the letters, -1 where no training sentence has two words."""
    return load_vocabulary(folder / "letters").get(" ", -1)


def viterbi(scores: np.ndarray, transitions: np.ndarray) -> np.ndarray:
    """(T,) the best tags of one sentence from scores (T, G) and transitions (G + 1, G + 1), as the tagger has them.

    >>> viterbi(np.array([[1.0, 0.0], [0.0, 0.5]]), np.array([[0.0, -2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    array([0, 0])
    """
    count = scores.shape[1]
    best = scores[0] + transitions[count, :count]
    back = []
    for row in scores[1:]:
        paths = best[:, None] + transitions[:count, :count]
        back.append(paths.argmax(axis=0))
        best = paths.max(axis=0) + row
    tags = [int((best + transitions[:count, count]).argmax())]
    for pointers in reversed(back):
        tags.append(int(pointers[tags[-1]]))
    return np.array(tags[::-1])


def named(names: list[str], tags: np.ndarray) -> list[str]:
    """(T,) places among the tags as their names; below 0: a tag that the training split does not have.

    Such a tag marks a span, where tags mark spans: one that is given and cannot be found.
    """
    return [names[tag] if tag >= 0 else UNSEEN_TAG for tag in tags.tolist()]


def tags_given(split: "Split") -> list[np.ndarray]:
    """The places of each record's tags, -1 for a tag that the training split does not have."""
    field = split.fields["tags"]
    return [np.maximum(field.ids(row) - SPECIAL, -1) for row in split.rows["tags"].tolist()]


# --- cloze ------------------------------------------------------------------------------------------------------------
def read_blanks(text: str, tokenizer: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """(T,) int32 ids of a text with `___` in it, unknown words for them, and (T,) bool: where they are.

    Raises:
        InputError: it has none.
    """
    parts = text.split(BLANK)
    if len(parts) < 2:
        raise InputError(f"text {shorten(text)[:60]!r} has no blank: write {BLANK} where a word is out")
    ids: list[int] = []
    blanks: list[int] = []
    for number, part in enumerate(parts):
        if number:
            blanks.append(len(ids))
            ids.append(UNKNOWN_ID)
        if part.strip():
            ids += tokenizer.encode(part, "text").tolist()
    mask = np.zeros(len(ids), bool)
    mask[blanks] = True
    return np.array(ids, np.int32), mask


def drawn_blanks(ids: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """(T,) bool: what is taken out of (T,) ids, at least one known word where there is one."""
    known = np.flatnonzero(ids != UNKNOWN_ID)
    chosen = np.zeros(len(ids), bool)
    wanted = max(1, round(share * len(ids)))
    chosen[rng.permutation(known)[:wanted]] = True
    return chosen


def fillings(names: list[str], values: np.ndarray) -> list[list[dict[str, Any]]]:
    """For each of B blanks the likeliest words with their probabilities, from (B, V) log probabilities."""
    orders = np.argsort(-values, axis=1, kind="stable")[:, :BEST]
    return [
        [{"word": names[i], "probability": round(float(np.exp(row[i])), 6)} for i in order]
        for row, order in zip(values, orders.tolist())
    ]


def too_many_sampled(section: str, sampled: int, vocabulary: int) -> InputError:
    """A sampled softmax that would draw more than there is."""
    return InputError(
        f"{section}.sampled={sampled} must be below the vocabulary's {vocabulary} tokens; 0 takes the whole softmax"
    )


def captions_given(split: "Split", names: list[str]) -> list[list[list[str]]]:
    """The tokens of all captions of each distinct image of a split."""
    captions: list[list[list[str]]] = [[] for _ in range(len(split.fields["image"]))]
    for image, caption in zip(split.rows["image"].tolist(), split.rows["caption"].tolist()):
        captions[image].append([names[i] for i in split.fields["caption"].ids(caption)])
    return captions


# --- texts that are written -------------------------------------------------------------------------------------------
def never_written(copied: bool) -> tuple[int, ...]:
    """Tokens that no search may write; `copied`: an unknown word may, since the source's stands in its place."""
    return (PADDING_ID,) if copied else (PADDING_ID, UNKNOWN_ID)


def target_limits(lengths: np.ndarray, share: float) -> np.ndarray:
    """(N,) most tokens of a translation, of (N,) tokens of its source."""
    return np.ceil(lengths * share).astype(int) + 10


def with_copies(ids: list[int], tokens: list[str], words: list[str], weights: np.ndarray) -> list[str]:
    """Tokens with each unknown one replaced by the source's word that it looked at most.

    Args:
        words: of the source.
        weights: (T + 1, L) attention while writing.

    >>> with_copies([5, UNKNOWN_ID], ["the", "<unk>"], ["der", "Zugspitze"], np.array([[1, 0], [0.2, 0.8], [1, 0]]))
    ['the', 'Zugspitze']
    """
    looked_at = weights.argmax(axis=1)
    return [words[at] if i == UNKNOWN_ID else token for i, token, at in zip(ids, tokens, looked_at)]


# --- language models --------------------------------------------------------------------------------------------------
def running_text(split: "Split") -> np.ndarray:
    """(L,) int32: the texts of a split's records, one after the other."""
    field = split.fields["text"]
    ids = [field.ids(row) for row in split.rows["text"].tolist()]
    return np.concatenate([np.zeros(0, np.int32), *ids])


def side_by_side(
    predicted: int, streams: int, read_in: int, rank: int = 0, size: int = 1
) -> tuple[np.ndarray, list[slice]]:
    """How a text of `predicted` + 1 tokens is read in parts side by side, each after `read_in` tokens before it.

    Returns:
        (T, n) places of the tokens that this worker reads, and of each of its n parts which steps are judged.

    >>> places, judged = side_by_side(5, 2, 1)
    >>> places.T.tolist(), judged
    ([[0, 1, 2, 3], [2, 3, 4, 4]], [slice(0, 3, None), slice(1, 3, None)])
    """
    longest = -(-predicted // min(streams, predicted))
    begins = np.array_split(np.arange(0, predicted, longest), size)[rank]
    before = np.minimum(read_in, begins)
    steps = read_in + longest if before.any() else longest
    places = np.minimum((begins - before)[None] + np.arange(steps)[:, None], predicted - 1)
    ends = np.minimum(longest, predicted - begins)
    return places, [slice(skip, skip + length) for skip, length in zip(before.tolist(), ends.tolist())]
