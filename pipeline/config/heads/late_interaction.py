"""Late interaction: every token of the query with its best token of the document."""

from typing import Any

from pipeline.config.head import FAR_BELOW, Dense, EveryMaths, Head, Learned, Maths, Texts


class LateInteraction(Head):
    """Each query token's best document token, summed by learned importance (Khattab and Zaharia 2020, with ColBERT's
    equal weights replaced by learned ones)."""

    name = "late_interaction"
    summary = "the vectors of all tokens, each of the query's with its best one of the document's"
    by_token = True
    index = "tokens"
    learned = False

    def parts(self, width: int, graded: bool, options: Any) -> Learned:
        return {"hidden": Dense(width // 4, 4 + 2 * width)} if graded else {}

    def size(self, width: int, options: Any) -> int:
        return 4 + width // 4

    def features(self, m: Maths, query: Texts, document: Texts) -> Any:
        """(N, 4 + hidden): both directions' scores, of tokens and of words alone, and a hidden layer over them.

        That layer also sees how the two texts' mean tokens differ and agree.
        """
        scores, half = [], m.width(query.vectors) // 2
        for begin in (0, half):  # the second half of a token's vector is its word's embedding
            similar = m.products(*(m.since(side.vectors, begin) for side in (query, document)))
            scores += [_best(m, similar, query, document), _best(m, m.turned(similar), document, query)]
        together, left, right = m.stack(*scores), _mean(m, query), _mean(m, document)
        wide = m.concat(together, m.absolute(left - right), left * right)
        return m.concat(together, m.tanh(m.dense(wide, "hidden")))

    def pairs(self, m: Maths, query: Texts, document: Texts) -> Any:
        return _best(m, m.products(query.vectors, document.vectors), query, document)

    def all(self, m: EveryMaths, query: Any, document: Any) -> Any:
        return m.every_best(query, document)

    def numbers(self, query: tuple[int, ...], document: tuple[int, ...]) -> int:
        return query[1] * document[1]


def _best(m: Maths, similar: Any, texts: Texts, others: Texts) -> Any:
    """(N, T, S) similarities to (N,): the mean over T, by importance, of the maximum over the other texts' tokens."""
    best = m.largest(similar + m.expanded(m.zero(others.weights) * FAR_BELOW, 1))
    return m.sum(best * texts.weights, 1) / m.sum(texts.weights, 1)


def _mean(m: Maths, texts: Texts) -> Any:
    """(N, P) the mean of each text's token vectors by importance."""
    return m.sum(texts.vectors * m.expanded(texts.weights, 2), 1) / m.sum(texts.weights, 1, keep=True)
