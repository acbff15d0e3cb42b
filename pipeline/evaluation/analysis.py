"""Words as BM25 counts them: in lower case, without the stop words of their language, and stemmed."""

from collections.abc import Iterable, Mapping

import Stemmer
from bm25s import stopwords

NONE = "none"
# By the stemmer's name (Snowball's). English: NLTK's list, on three sets of five better than Lucene's 33 words.
STOP_WORDS: dict[str, frozenset[str]] = {
    "danish": frozenset(stopwords.STOPWORDS_DANISH),
    "dutch": frozenset(stopwords.STOPWORDS_DUTCH),
    "english": frozenset(stopwords.STOPWORDS_EN_PLUS),
    "french": frozenset(stopwords.STOPWORDS_FRENCH),
    "german": frozenset(stopwords.STOPWORDS_GERMAN),
    "italian": frozenset(stopwords.STOPWORDS_ITALIAN),
    "norwegian": frozenset(stopwords.STOPWORDS_NORWEGIAN),
    "portuguese": frozenset(stopwords.STOPWORDS_PORTUGUESE),
    "russian": frozenset(stopwords.STOPWORDS_RUSSIAN),
    "spanish": frozenset(stopwords.STOPWORDS_SPANISH),
    "swedish": frozenset(stopwords.STOPWORDS_SWEDISH),
    "turkish": frozenset(stopwords.STOPWORDS_TURKISH),
}
# Of all words of a text in its own language, a fifth to a half are stop words; in another language up to a tenth.
LEAST_SHARE = 0.15
ASCII_SHARE = 0.98  # of words that are nearly all in plain letters: English, its stop words taken out, names or code
WORD_KINDS = ("word", "whitespace", "jieba")  # of tokenize.kind: those whose tokens are words


def words_of(tokens: Iterable[str]) -> list[str]:
    """The tokens that are counted, in lower case: those with a letter or a digit. Punctuation only blurs BM25."""
    return [token.lower() for token in tokens if any(c.isalnum() for c in token)]


def language_of(counts: Mapping[str, int]) -> str:
    """The stemmer for a collection: of the language whose stop words are most frequent in it.

    Where none are frequent, "english" for words in plain letters (old collections come without their stop words), else
    "none".

    Args:
        counts: word, in lower case -> how often it stands in the collection.

    >>> language_of({"the": 3, "wing": 5}), language_of({"und": 3, "flügel": 5}), language_of({"wing": 2, "flow": 1})
    ('english', 'german', 'english')
    >>> language_of({"机": 4, "翼": 3}), language_of({})
    ('none', 'none')
    """
    total = sum(counts.values())
    shares = {name: sum(counts.get(word, 0) for word in words) for name, words in STOP_WORDS.items()}
    best = max(shares, key=lambda name: shares[name])  # of equals the first by name
    if shares[best] and shares[best] >= LEAST_SHARE * total:
        return best
    plain = sum(times for word, times in counts.items() if word.isascii())
    return "english" if plain and plain >= ASCII_SHARE * total else NONE


def stemmer_for(wanted: str, kind: str, counts: Mapping[str, int]) -> str:
    """The stemmer that evaluate.stemmer means for a collection.

    Args:
        wanted: "auto", "none" or a language; kind: tokenize.kind, of which only words are stemmed.
        counts: as `language_of` has them.
    """
    if wanted != "auto":
        return wanted
    return language_of(counts) if kind in WORD_KINDS else NONE


class Analyzer:
    """Words to terms. Raises KeyError for a stemmer that is none of STOP_WORDS or "none".

    >>> Analyzer("english").terms(["the", "sorted", "lists", "of", "2"])
    ['sort', 'list', '2']
    """

    def __init__(self, stemmer: str) -> None:
        self.stemmer = stemmer
        self._stop = frozenset() if stemmer == NONE else STOP_WORDS[stemmer]
        self._stem = (lambda word: word) if stemmer == NONE else Stemmer.Stemmer(stemmer).stemWord

    def term(self, word: str) -> str | None:
        """What a word, in lower case, counts as; None: a stop word, which does not count."""
        return None if word in self._stop else str(self._stem(word))

    def terms(self, words: Iterable[str]) -> list[str]:
        """The terms of some words, in their order."""
        return [term for word in words if (term := self.term(word)) is not None]
