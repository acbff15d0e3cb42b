"""Judging texts against reference texts: sacreBLEU and chrF with their signatures, exact matches, a memory to beat."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import _bootstrap_resample
from scipy import sparse

from pipeline.evaluation import bootstrap
from pipeline.evaluation.judged import MODEL

LIKE = 0.5  # a cosine: a training source as near as this is one that a memory answers with
FEWEST = 20  # sentences of a table of their own


class Judges(NamedTuple):
    """sacreBLEU and chrF as set up for a language."""

    bleu: BLEU
    chrf: CHRF

    def scores(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """Corpus BLEU and chrF, each 0 to 100, of N texts against one or more references each."""
        columns = _columns(references)
        return {
            "bleu": float(self.bleu.corpus_score(texts, columns).score),
            "chrf": float(self.chrf.corpus_score(texts, columns).score),
        }


def judges(lowercase: bool, tokenizer: str) -> Judges:
    """Post, "A call for clarity in reporting BLEU scores", 2018; Popovic, "chrF", 2015.

    Args:
        tokenizer: sacreBLEU's name of it: 13a, zh, …
    """
    return Judges(BLEU(lowercase=lowercase, tokenize=tokenizer, effective_order=False), CHRF(lowercase=lowercase))


def exact(texts: Sequence[str], references: Sequence[Sequence[str]], lowercase: bool) -> np.ndarray:
    """(N,) 1 where a text equals one of its references, blanks and (if asked for) case apart.

    >>> exact(["two  men", "a"], [["Two men"], ["b", "c"]], lowercase=True)
    array([1., 0.])
    """
    plain = lambda text: " ".join((text.lower() if lowercase else text).split())
    return np.array([float(plain(t) in map(plain, known)) for t, known in zip(texts, references)])


def sentence_chrf(judge: Judges, texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) chrF of each text by itself, 0 to 100."""
    return np.array([judge.chrf.sentence_score(t, list(known)).score for t, known in zip(texts, references)])


def comparison(
    systems: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]], judge: Judges, samples: int
) -> tuple[dict[str, Any], list[str]]:
    """All systems' corpus scores with the 95 % percentiles of sacreBLEU's own resamples (Koehn 2004), as
    report.comparison, without differences; and the signatures."""
    columns = _columns(references)
    results: dict[str, Any] = {}
    signatures: list[str] = []
    for system, texts in systems.items():
        results[system] = {"metrics": {}, "difference": {}}
        for name, metric in zip(Judges._fields, judge):
            # sacreBLEU's interval is the mean and a half width, which may lie beyond 100
            counts = metric._extract_corpus_statistics(texts, columns)
            score = metric._aggregate_and_compute(counts)
            metric.n_bootstrap = samples
            metric.seed, drawn = _bootstrap_resample(counts, metric, samples)
            low, high = bootstrap.percentiles(np.array([float(resample.score) for resample in drawn]))
            results[system]["metrics"][name] = {"mean": float(score.score), "low": low, "high": high}
            if system == MODEL:
                signatures.append(f"{score.name}|{metric.get_signature()}")
    compared = {
        "unit": "sentences",
        "counted": len(references),
        "samples": samples,
        "reference": "memory",
        "signatures": signatures,
        "systems": results,
    }
    return compared, signatures


def scored(
    texts: list[str], references: list[list[str]], nats: float, lowercase: bool, tokenizer: str
) -> dict[str, float]:
    """What validation measures of texts that were written greedily; `nats` of the references is given."""
    values = {**judges(lowercase, tokenizer).scores(texts, references), "nats": nats}
    return values | {"exact": float(exact(texts, references, lowercase).mean())}


class Nearest(NamedTuple):
    """Of Q asked texts the nearest known ones."""

    places: np.ndarray  # (Q,) among the known
    likeness: np.ndarray  # (Q,) tf-idf cosines, 1 where they have the same tokens as often


def nearest(known: Sequence[np.ndarray], asked: Sequence[np.ndarray], vocabulary: int) -> Nearest:
    """For each asked text the known one of the largest tf-idf cosine; the first among equals.

    What a translation memory without any model would answer with.

    >>> answers = nearest([np.array([2, 3]), np.array([3, 4])], [np.array([4, 4, 5]), np.array([3, 2])], 6)
    >>> answers.places.tolist(), answers.likeness.round(2).tolist()
    ([1, 0], [0.65, 1.0])
    """
    known_counts = _counts(known, vocabulary)
    frequency = np.asarray((known_counts > 0).sum(axis=0)).ravel()
    idf = sparse.diags(np.log((1 + len(known)) / (1 + frequency)) + 1)
    unit = lambda rows: sparse.diags(1 / np.maximum(np.sqrt(rows.multiply(rows).sum(axis=1).A1), 1e-12)) @ rows
    documents, queries = unit((known_counts @ idf).tocsr()).T.tocsc(), unit((_counts(asked, vocabulary) @ idf).tocsr())
    step = max(1, 20_000_000 // max(1, len(known)))
    places, likeness = [np.zeros(0, int)], [np.zeros(0)]
    for i in range(0, len(asked), step):
        cosines = (queries[i : i + step] @ documents).toarray()
        places.append(cosines.argmax(axis=1))
        likeness.append(cosines.max(axis=1))
    return Nearest(np.concatenate(places), np.concatenate(likeness))


def unlike(likeness: np.ndarray) -> np.ndarray | None:
    """The places of those of N sentences that nothing in training is as like as LIKE, for a table of their own; None
    where that would be all of them, or too few.

    >>> unlike(np.array([1.0, 0.2, *[0.1] * 20])).tolist() == list(range(1, 22))
    True
    >>> unlike(np.array([0.2] * 30)), unlike(np.array([1.0, 0.2]))
    (None, None)
    """
    places = np.flatnonzero(likeness < LIKE)
    return places if FEWEST <= len(places) < len(likeness) else None


def _counts(texts: Sequence[np.ndarray], vocabulary: int) -> sparse.csr_matrix:
    """(N, V) how often each id stands in each text."""
    starts = np.cumsum([0, *(len(ids) for ids in texts)])
    ids = np.concatenate([np.zeros(0, np.int32), *texts])
    return sparse.csr_matrix((np.ones(len(ids)), ids, starts), shape=(len(texts), vocabulary))


def _columns(references: Sequence[Sequence[str]]) -> Any:
    """As sacreBLEU takes them: for each i the i-th reference of every text, None where it has fewer."""
    most = max(len(known) for known in references)
    return [[known[i] if i < len(known) else None for known in references] for i in range(most)]
