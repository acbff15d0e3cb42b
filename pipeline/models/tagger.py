"""A tag for each word: the encoder, maybe letters beside words, and maybe a conditional random field over the tags."""

from typing import Any

from mxnet import Context, gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.models.dropout import Dropout
from pipeline.models.encoder import Encoder, Pooling, embedding_of, padding_of, rows_of

LETTER_WIDTH, LETTER_HIDDEN = 24, 24


class Letters(gluon.Block):
    """Words to vectors by their letters: a bidirectional LSTM's last states (Lample et al. 2016, section 4.1)."""

    def __init__(self, vocabulary: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        config = ModelConfig(embedding=LETTER_WIDTH, hidden=LETTER_HIDDEN, dropout=0.0, pooling="last")
        with self.name_scope():
            self.letters = gluon.nn.Embedding(vocabulary, LETTER_WIDTH)
            self.encoder = Encoder(config)
            self.pooling = Pooling("last", LETTER_HIDDEN, 2)

    def forward(self, ids: nd.NDArray, lengths: nd.NDArray) -> nd.NDArray:
        """(L, W) letters of W words, time first, and (W,) lengths to (W + 1, 2 * LETTER_HIDDEN); row 0 is zeros."""
        padding = padding_of(lengths, ids.shape[0])
        vectors = self.pooling(self.encoder(self.letters(ids), padding), lengths, padding)
        return nd.concat(nd.zeros((1, vectors.shape[1]), ctx=vectors.context), vectors, dim=0)


class Tagger(gluon.Block):
    """Scores of each word's tags.

    Args:
        vocabulary: V, the rows of the embedding table.
        tags: G.
        letters: the letters' vocabulary; 0: words are known by themselves alone.
        crf: with transitions between neighbouring tags.
    """

    def __init__(
        self, config: ModelConfig, vocabulary: int, tags: int, letters: int = 0, crf: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.words = config.embedding
        extra = 2 * LETTER_HIDDEN if letters else 0
        with self.name_scope():
            self.embedding = embedding_of(self, vocabulary, config.embedding)
            self.letters = Letters(letters) if letters else None
            self.encoder = Encoder(config.model_copy(update={"embedding": config.embedding + extra}))
            self.dropout = Dropout(config.dropout)
            self.output = gluon.nn.Dense(
                tags, flatten=False, in_units=self.encoder.width, weight_initializer=init.Xavier()
            )
            if crf:
                # row from, column to; the last row starts a sentence, the last column ends it
                self.transitions = self.params.get("transitions", shape=(tags + 1, tags + 1), init=init.Zero())

    def packed(self, context: Context) -> list[nd.NDArray]:
        """The recurrent parameters, for several calls of `forward`."""
        return self.encoder.packed(context)

    def forward(
        self,
        table: nd.NDArray,
        ids: nd.NDArray,
        lengths: nd.NDArray,
        spelled: nd.NDArray | None = None,
        places: nd.NDArray | None = None,
        packed: list[nd.NDArray] | None = None,
    ) -> nd.NDArray:
        """(T, N, G) scores; what stands on padding means nothing.

        Args:
            table: (U, E) embedding rows that `ids` (T, N) int32 index.
            lengths: (N,) int32.
            spelled: (W + 1, 2 * LETTER_HIDDEN), what `letters` made; `places`: (T, N) int32 rows of it.
        """
        embedded = rows_of(table, ids)
        if spelled is not None:
            embedded = nd.concat(embedded, nd.take(spelled, places), dim=2)
        states = self.encoder(embedded, padding_of(lengths, ids.shape[0]), packed)
        return self.output(self.dropout(states))


def crf_loss(scores: nd.NDArray, tags: nd.NDArray, lengths: nd.NDArray, transitions: nd.NDArray) -> nd.NDArray:
    """(N,) negative log probability of each sentence's tags under a linear chain (Lafferty et al. 2001).

    Args:
        scores: (T, N, G); tags: (T, N) int32; lengths: (N,) int32; transitions: (G + 1, G + 1), see Tagger.
    """
    steps, _, count = scores.shape
    inside = nd.slice(transitions, (0, 0), (count, count))  # (G, G)
    start = nd.slice(transitions, (count, 0), (count + 1, count))  # (1, G)
    end = nd.slice(transitions, (0, count), (count, count + 1)).reshape((1, -1))
    mask = 1 - padding_of(lengths, steps)  # (T, N, 1)
    alpha = nd.broadcast_add(scores[0], start)  # (N, G)
    for t in range(1, steps):
        paths = nd.broadcast_add(alpha.expand_dims(2), inside.expand_dims(0))  # (N, G, G)
        following = log_sum_exp(paths, axis=1) + scores[t]
        alpha = nd.where(nd.broadcast_like(mask[t], alpha), following, alpha)
    total = log_sum_exp(nd.broadcast_add(alpha, end), axis=1)
    return total - path_score(scores, tags, lengths, transitions)


def path_score(scores: nd.NDArray, tags: nd.NDArray, lengths: nd.NDArray, transitions: nd.NDArray) -> nd.NDArray:
    """(N,) unnormalised log score of the given tags; arguments as crf_loss."""
    steps, batch, count = scores.shape
    mask = 1 - padding_of(lengths, steps).reshape((steps, batch))
    emissions = (nd.pick(scores, tags, axis=2) * mask).sum(axis=0)
    flat = transitions.reshape(-1)
    tags = tags.astype("float32")
    # the last tag goes after it is joined: of a sentence of one word nothing would be left, which MXNet cannot hold
    before = nd.concat(nd.full((1, batch), count, ctx=scores.context), tags, dim=0)[:-1]
    moves = (nd.take(flat, before * (count + 1) + tags) * mask).sum(axis=0)
    last = nd.pick(tags, lengths.astype("float32") - 1, axis=0)
    return emissions + moves + nd.take(flat, last * (count + 1) + count)


def log_sum_exp(values: nd.NDArray, axis: int) -> nd.NDArray:
    """log Σ exp along an axis, without overflow."""
    largest = values.detach().max(axis=axis, keepdims=True)
    return (nd.broadcast_sub(values, largest).exp().sum(axis=axis)).log() + largest.squeeze(axis=axis)
