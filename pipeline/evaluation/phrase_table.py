"""Statistical translation, what neural translation replaced: a table of phrases, counts of trigrams, and a beam.

Koehn, Och and Marcu, "Statistical phrase-based translation", 2003; the decoder's stacks and future costs as in Koehn,
"Pharaoh: a beam search decoder for phrase-based statistical machine translation models", 2004.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.evaluation import word_alignment
from pipeline.evaluation.word_alignment import Lexicon

LONGEST = 5  # words of a phrase
KEPT = 8  # translations of a phrase that the decoder looks at
STACK = 20  # partial translations kept per number of translated words
JUMP = 5  # words that a phrase may lie away from the end of the one before
BORDER = -1  # before and behind a sentence

Phrase = tuple[int, ...]
Ids = Sequence[int] | np.ndarray


class Weights(NamedTuple):
    """Of the scores' sum. The defaults are those that phrase-based systems commonly start from."""

    phrase: float = 0.2  # of each of the four scores of a phrase pair
    language: float = 0.5
    jump: float = 0.3  # per word jumped over
    word: float = -1.0  # per word not written: below 0 short translations lose


TRIED = [Weights(word=word, jump=jump) for word in (-1.0, -0.5) for jump in (0.3, 1.0)]


class Trigrams:
    """ln p(word | two before), interpolated Kneser-Ney with one discount.

    Chen and Goodman, "An empirical study of smoothing techniques for language modeling", 1998, section 2.7.
    """

    DISCOUNT = 0.75

    def __init__(self, texts: Iterable[Ids], vocabulary: int) -> None:
        """`texts` are ids; an unknown word has what is left of the unigrams, shared by `vocabulary` words."""
        three: Counter[Phrase] = Counter()
        for text in texts:
            padded = (BORDER, BORDER, *(int(word) for word in text), BORDER)
            three.update(zip(padded, padded[1:], padded[2:]))
        # The lower orders count in how many contexts a word stands, not how often.
        two: Counter[Phrase] = Counter(gram[1:] for gram in three)
        self._orders: list[tuple[dict[Phrase, float], dict[Phrase, float], dict[Phrase, int]]] = []
        for counts in (Counter(gram[1:] for gram in two), two, three):
            totals: Counter[Phrase] = Counter()
            followers: Counter[Phrase] = Counter()
            for gram, count in counts.items():
                totals[gram[:-1]] += count
                followers[gram[:-1]] += 1
            self._orders.append((dict(counts), dict(totals), dict(followers)))
        self._vocabulary = vocabulary
        self._known: dict[Phrase, float] = {}

    def log_chance(self, context: Phrase, word: int) -> float:
        """ln p(word | context), context of two words."""
        key = (*context, word)
        if key not in self._known:
            self._known[key] = math.log(self._chance(context, word, 2))
        return self._known[key]

    def _chance(self, context: Phrase, word: int, order: int) -> float:
        if order < 0:
            return 1.0 / self._vocabulary
        counts, totals, followers = self._orders[order]
        used = context[len(context) - order :]
        below = self._chance(context, word, order - 1)
        if not (total := totals.get(used)):
            return below
        discounted = max(0.0, counts.get((*used, word), 0) - self.DISCOUNT)
        return (discounted + self.DISCOUNT * followers[used] * below) / total

    def __len__(self) -> int:
        return sum(len(counts) for counts, _, _ in self._orders)


class PhraseTable(NamedTuple):
    """Source phrase -> its translations with their score, the sum of four log probabilities, best first."""

    translations: dict[Phrase, list[tuple[Phrase, float]]]
    pairs: int

    def write(self, path: Path) -> int:
        """Writes the table as Parquet; returns its bytes."""
        rows = [(s, t, score) for s, translations in self.translations.items() for t, score in translations]
        columns = {
            "source": pa.array([list(s) for s, _, _ in rows], pa.list_(pa.int32())),
            "target": pa.array([list(t) for _, t, _ in rows], pa.list_(pa.int32())),
            "score": pa.array([score for _, _, score in rows], pa.float32()),
        }
        pq.write_table(pa.table(columns), path, compression="zstd")
        return path.stat().st_size


def phrase_table(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], vocabulary: int) -> PhraseTable:
    """The phrase pairs of N aligned sentence pairs of ids from 1 on (see word_alignment.align)."""
    forward, to_source = word_alignment.align(sources, targets, vocabulary)
    backward, to_target = word_alignment.align(targets, sources, vocabulary)
    counts: dict[Phrase, Counter[Phrase]] = defaultdict(Counter)
    backward_counts: Counter[Phrase] = Counter()
    for source, target, source_places, target_places in zip(sources, targets, to_source, to_target):
        words, target_words = source.tolist(), target.tolist()
        links = word_alignment.joined(source_places, target_places)
        for i1, i2, j1, j2 in word_alignment.phrases(len(words), len(target_words), links, LONGEST):
            pair = tuple(words[i1:i2]), tuple(target_words[j1:j2])
            counts[pair[0]][pair[1]] += 1
            backward_counts[pair[1]] += 1
    table: dict[Phrase, list[tuple[Phrase, float]]] = {}
    for source_phrase, target_counts in counts.items():
        total = sum(target_counts.values())
        likely = target_counts.most_common(4 * KEPT)
        scored = [
            (
                phrase,
                math.log(count / total) + math.log(count / backward_counts[phrase])
                + _lexical(forward, source_phrase, phrase) + _lexical(backward, phrase, source_phrase),
            )
            for phrase, count in likely
        ]  # fmt: skip
        table[source_phrase] = sorted(scored, key=lambda candidate: -candidate[1])[:KEPT]
    return PhraseTable(table, sum(len(translations) for translations in table.values()))


def _lexical(lexicon: Lexicon, source: Phrase, target: Phrase) -> float:
    """ln of the product over target words of the mean of t(word | source word), the empty word among them."""
    rows, columns = np.array([0, *source]), np.array(target)
    chances = lexicon.chance(np.repeat(rows, len(columns)), np.tile(columns, len(rows))).reshape(len(rows), -1)
    return float(np.log(np.maximum(chances.mean(axis=0), 1e-9)).sum())


class _Partial(NamedTuple):
    """A translation of some of a sentence's words."""

    score: float  # of what is written
    covered: int  # bits of the source words
    end: int  # behind the last phrase's source words
    context: Phrase  # the last two words written
    before: "_Partial | None"
    written: Phrase  # by the last phrase


class PhraseTranslator:
    """Translates ids by a phrase table and trigrams."""

    def __init__(self, table: PhraseTable, language: Trigrams, weights: Weights | None = None) -> None:
        self.table, self.language, self.weights = table, language, weights or Weights()

    def translate(self, source: Ids) -> list[int]:
        """The best translation found; a word that no phrase has is copied."""
        words = tuple(int(word) for word in source)
        options = self._options(words)
        rest = self._future(len(words), options)
        stacks: list[dict[tuple[int, int, Phrase], _Partial]] = [{} for _ in range(len(words) + 1)]
        stacks[0][0, 0, (BORDER, BORDER)] = _Partial(0.0, 0, 0, (BORDER, BORDER), None, ())
        left: dict[int, float] = {}
        outlook = lambda hypothesis: hypothesis.score + self._left(hypothesis.covered, len(words), rest, left)
        for number in range(len(words)):
            for partial in sorted(stacks[number].values(), key=outlook, reverse=True)[:STACK]:
                for (begin, end), translations in options.items():
                    bits = ((1 << (end - begin)) - 1) << begin
                    if partial.covered & bits or abs(begin - partial.end) > JUMP:
                        continue
                    self._extend(partial, begin, end, bits, translations, stacks[number + end - begin])
        finished = stacks[len(words)].values() or [max((p for s in stacks for p in s.values()), key=_words_done)]
        ending = lambda hypothesis: self.weights.language * self.language.log_chance(hypothesis.context, BORDER)
        best: _Partial | None = max(finished, key=lambda hypothesis: hypothesis.score + ending(hypothesis))
        parts: list[Phrase] = []
        while best is not None:
            parts.append(best.written)
            best = best.before
        return [word for part in reversed(parts) for word in part]

    def _extend(
        self, partial: _Partial, begin: int, end: int, bits: int, translations: list[tuple[Phrase, float]],
        stack: dict[tuple[int, int, Phrase], _Partial],
    ) -> None:  # fmt: skip
        """Puts the partial translation with each translation of a phrase behind it on a stack."""
        base = partial.score - self.weights.jump * abs(begin - partial.end)
        for written, score in translations:
            context, total = partial.context, base + score
            for word in written:
                total += self.weights.language * self.language.log_chance(context, word)
                context = (context[1], word)
            key = (partial.covered | bits, end, context)
            if key not in stack or stack[key].score < total:
                stack[key] = _Partial(total, partial.covered | bits, end, context, partial, written)

    def _options(self, words: Phrase) -> dict[tuple[int, int], list[tuple[Phrase, float]]]:
        """(begin, end) of source words -> translations with their weighted score, all but the language model's."""
        options: dict[tuple[int, int], list[tuple[Phrase, float]]] = {}
        weights = self.weights
        for begin in range(len(words)):
            for end in range(begin + 1, min(begin + LONGEST, len(words)) + 1):
                known = self.table.translations.get(words[begin:end])
                if known is None and end == begin + 1:
                    known = [((words[begin],), -10.0)]
                if known:
                    options[begin, end] = [(w, weights.phrase * s - weights.word * len(w)) for w, s in known]
        return options

    def _future(
        self, length: int, options: dict[tuple[int, int], list[tuple[Phrase, float]]]
    ) -> dict[tuple[int, int], float]:
        """(begin, end) -> the best score that these words can have, contexts and jumps apart."""
        rest = {}
        for (begin, end), translations in options.items():
            rest[begin, end] = max(
                score + self.weights.language * self._alone(written) for written, score in translations
            )
        for width in range(2, length + 1):
            for begin in range(length - width + 1):
                end = begin + width
                split = max(rest[begin, middle] + rest[middle, end] for middle in range(begin + 1, end))
                rest[begin, end] = max(rest.get((begin, end), -math.inf), split)
        return rest

    def _alone(self, written: Phrase) -> float:
        """ln of a phrase by the language model, the first word's contexts taken from the phrase alone."""
        total, context = 0.0, (-2, -2)  # a context that is nowhere: the unigrams
        for word in written:
            total += self.language.log_chance(context, word)
            context = (context[1], word)
        return total

    @staticmethod
    def _left(covered: int, length: int, rest: dict[tuple[int, int], float], known: dict[int, float]) -> float:
        """The future score of what is not covered yet."""
        if covered not in known:
            total, begin = 0.0, None
            for place in range(length + 1):
                free = place < length and not covered >> place & 1
                if free and begin is None:
                    begin = place
                elif not free and begin is not None:
                    total += rest[begin, place]
                    begin = None
            known[covered] = total
        return known[covered]


def fitted(
    sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], vocabulary: int, tried: Sequence[np.ndarray],
    score: Callable[[list[list[int]]], float],
) -> PhraseTranslator:  # fmt: skip
    """A translator learnt from N sentence pairs, its weights of words and of jumps chosen by others.

    Args:
        sources, targets: ids from 1 on; vocabulary: above the largest.
        tried: sources of other pairs; score: how good their translations are, more is better.
    """
    table = phrase_table(sources, targets, vocabulary)
    language = Trigrams(targets, vocabulary)
    able = [PhraseTranslator(table, language, weights) for weights in TRIED]
    return max(able, key=lambda translator: score([translator.translate(source) for source in tried]))


def _words_done(partial: _Partial) -> int:
    return partial.covered.bit_count()
