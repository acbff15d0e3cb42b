"""Cross attention: each token beside what the other text says at it."""

from typing import Any

from pipeline.config.head import FAR_BELOW, Dense, Head, Learned, Maths, Matrix, Texts

# Words that are alike and others are far apart before training: e^8 of weight for a word itself.
SHARPNESS = 16.0


class CrossAttention(Head):
    """Each token is aligned with a mean of the other text's tokens, the more alike the more. Token and mean are
    compared, comparisons are read with their neighbours, and both texts' maxima and means go through a hidden layer.

    Aligned and compared as in Parikh et al., "A decomposable attention model for natural language inference", 2016, and
    Chen et al., "Enhanced LSTM for natural language inference", 2017, eq. 11-15; read on by a convolution and joined as
    in Yang et al., "Simple and effective text matching with richer alignment features", 2019 (RE2), with one block.
    """

    name = "cross_attention"
    summary = "each token compared with what the other text says at it"
    by_token = True
    most_pairs = 64

    def parts(self, width: int, graded: bool, options: Any) -> Learned:
        own = self.size(width, options)
        return {
            "sharpness": Matrix((1, 1), "ones"),
            "compare": Dense(own, 4 * width),
            "read": Dense(own, 3 * own),
            "hidden": Dense(own, 8 * own),
        }

    def size(self, width: int, options: Any) -> int:
        return width // 2

    def features(self, m: Maths, query: Texts, document: Texts) -> Any:
        similar = m.products(query.vectors, document.vectors) * (m.array("sharpness") * SHARPNESS)
        left = self._read(m, query, document, similar)
        right = self._read(m, document, query, m.turned(similar))
        joined = m.concat(left, right, m.absolute(left - right), left * right)
        return m.dropped(m.relu(m.dense(m.dropped(joined), "hidden")))

    def _read(self, m: Maths, texts: Texts, others: Texts, similar: Any) -> Any:
        """(N, T, S) similarities to (N, 2 * size): the maximum, and the mean by importance, over a text's tokens."""
        alike = m.softmax(similar + m.expanded(m.zero(others.weights) * FAR_BELOW, 1))
        scale = m.width(texts.vectors) ** 0.5  # numbers of about 1, and not a vector of length 1
        own, aligned = texts.vectors * scale, m.products(alike, m.turned(others.vectors)) * scale
        compared = m.relu(m.dense(m.dropped(m.concat(own, aligned, own - aligned, own * aligned)), "compare"))
        over = m.expanded(m.zero(texts.weights), 2)  # 1 on padding
        states = m.relu(m.dense(m.dropped(m.neighbours(compared * (1 - over))), "read"))
        top = m.largest(m.turned(states + over * FAR_BELOW))
        weights = m.expanded(texts.weights, 2)
        return m.concat(top, m.sum(states * weights, 1) / m.sum(weights, 1))
