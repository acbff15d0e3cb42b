"""The matching network: two towers and a head that scores pairs of their representations."""

from typing import Any, NamedTuple

from mxnet import Context, gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.models.encoder import FAR_BELOW, Encoder, Pooling, padding_of

SIDES = ("query", "document")


class Representation(NamedTuple):
    """What a tower makes of N texts: one vector each, or (late interaction) one per token."""

    vectors: nd.NDArray  # (N, P), or (N, T, P)
    weights: nd.NDArray  # (N, T) late interaction: a token's importance, 0 on padding; else (N, 1) of ones


class Matcher(gluon.Block):
    """Scores queries against documents.

    `represent` encodes one side, `score_all` compares every query with every document, `score_pairs` the i-th with the
    i-th, and `pair_outputs` gives a graded loss its inputs. A matcher that attends across the pair would override
    these.

    Args:
        vocabulary: V, the rows of the embedding table.
        outputs: logits per pair, for a graded loss; 0 without one.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, outputs: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.late = config.head == "late_interaction"
        pooled = config.hidden * config.directions * (2 if config.pooling == "max_mean" else 1)
        width = 2 * config.embedding if self.late else pooled
        with self.name_scope():
            # Rows are updated by themselves (training.optimizer), so no gradient of the whole table is ever made.
            self.embedding = self.params.get(
                "embedding", shape=(vocabulary, config.embedding), init=init.Uniform(0.1), grad_req="null"
            )
            self.towers = SIDES if config.towers == "separate" else SIDES[:1]
            for side in self.towers:
                setattr(self, f"{side}_tower", Tower(config))
            if config.towers == "shared":
                self.document_tower = self.query_tower
            self.head = Head(config.head, width, graded=outputs > 0)
            outputs = outputs or int(config.head == "mlp")
            if outputs:
                self.output = gluon.nn.Dense(
                    outputs, in_units=self.head.features, weight_initializer=init.Xavier(), prefix="output_"
                )

    def packed(self, side: str, context: Context) -> list[nd.NDArray]:
        """The recurrent parameters of one side's tower, for `represent`; shared towers need it once."""
        return (self.query_tower if side == "query" else self.document_tower).encoder.packed(context)

    def represent(
        self,
        side: str,
        table: nd.NDArray,
        ids: nd.NDArray,
        lengths: nd.NDArray,
        packed: list[nd.NDArray] | None = None,
    ) -> Representation:
        """Encodes one side of the pairs.

        Args:
            side: "query" or "document".
            table: (U, E) embedding rows that `ids` index; the whole table, or the rows that an update needs.
            ids: (T, N) int32, time first.
            lengths: (N,) int32, at least 1.
            packed: what `packed` gave, to make it once for several calls.
        """
        tower = self.query_tower if side == "query" else self.document_tower
        return tower(nd.Embedding(ids, table, input_dim=table.shape[0], output_dim=table.shape[1]), lengths, packed)

    def score_all(self, query: Representation, document: Representation) -> nd.NDArray:
        """(Nq, Nd) scores; larger is a better match. Cosine and late interaction lie in [-1, 1]."""
        return self.head.all(query, document, getattr(self, "output", None))

    def score_pairs(self, query: Representation, document: Representation) -> nd.NDArray:
        """(N,) scores of query i with document i, equal to the diagonal of `score_all`."""
        return self.head.pairs(query, document, getattr(self, "output", None))

    @property
    def scoring_parameters(self) -> list[gluon.Parameter]:
        """The parameters that `score_all` uses."""
        output = self.output.collect_params().values() if self.head.kind == "mlp" else ()
        return [*self.head.collect_params().values(), *output]

    def numbers_per_score(self, query: nd.NDArray, document: nd.NDArray) -> int:
        """How many numbers `score_all` holds for one score, given both sides' vectors."""
        if self.late:
            return int(query.shape[1] * document.shape[1])
        return 8 * self.head.width if self.head.kind == "mlp" else 1

    def pair_outputs(self, query: Representation, document: Representation) -> nd.NDArray:
        """(N, outputs): a learned linear map of what the head knows of pair i; logits for a graded loss."""
        return self.output(self.head.pair_features(query, document))


class Tower(gluon.Block):
    """Encoder and pooling; for late interaction, per token, its projected state beside its embedding."""

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.late = config.head == "late_interaction"
        with self.name_scope():
            self.encoder = Encoder(config)
            if self.late:
                dense = {"flatten": False, "in_units": self.encoder.width, "weight_initializer": init.Xavier()}
                self.project = gluon.nn.Dense(config.embedding, **dense)
                self.importance = gluon.nn.Dense(1, activation="sigmoid", **dense)
            else:
                self.pooling = Pooling(config.pooling, config.hidden, config.directions)

    def forward(
        self, embedded: nd.NDArray, lengths: nd.NDArray, packed: list[nd.NDArray] | None = None
    ) -> Representation:
        """(T, N, E) and (N,) to a Representation."""
        padding = padding_of(lengths, embedded.shape[0])
        states = self.encoder(embedded, padding, packed)
        if not self.late:
            ones = nd.ones((lengths.shape[0], 1), ctx=states.context)
            return Representation(self.pooling(states, lengths, padding), ones)
        halves = nd.concat(_unit(self.project(states)), _unit(embedded), dim=2) * 0.5**0.5
        vectors = halves.transpose((1, 0, 2))
        weights = (self.importance(states) * (1 - padding)).transpose((1, 0, 2)).reshape((lengths.shape[0], -1))
        return Representation(vectors, weights)


def _there(output: gluon.Block | None) -> gluon.Block:
    assert output is not None, "an mlp head is always built with an output layer"
    return output


def _unit(vectors: nd.NDArray) -> nd.NDArray:
    """Vectors of length 1 along the last axis."""
    return nd.broadcast_div(vectors, nd.sqrt((vectors * vectors).sum(axis=-1, keepdims=True) + 1e-12))


class Head(gluon.Block):
    """How two representations are compared.

    cosine, dot; bilinear: q' A d with A starting at the identity; mlp: a hidden layer over [q, d, |q - d|, q * d];
    late_interaction: each query token's best document token, summed by learned importance (Khattab and Zaharia 2020,
    with ColBERT's equal weights replaced by learned ones).
    """

    def __init__(self, kind: str, width: int, graded: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind, self.width = kind, width
        self.features = {"mlp": width, "late_interaction": 4 + width // 4}.get(kind, 1)
        with self.name_scope():
            if kind == "bilinear":
                self.form = self.params.get("form", shape=(width, width), init=Identity())
            if kind == "late_interaction" and graded:
                self.hidden = gluon.nn.Dense(
                    width // 4, activation="tanh", in_units=4 + 2 * width, weight_initializer=init.Xavier()
                )
            if kind == "mlp":
                self.hidden = gluon.nn.Dense(
                    width, activation="relu", in_units=4 * width, weight_initializer=init.Xavier()
                )

    def all(self, query: Representation, document: Representation, output: gluon.Block | None) -> nd.NDArray:
        """(Nq, Nd)."""
        q, d = query.vectors, document.vectors
        if self.kind == "late_interaction":
            return _late_all(query, document)
        if self.kind == "mlp":
            left = nd.repeat(q, d.shape[0], axis=0)
            right = nd.tile(d, (q.shape[0], 1))
            scores = _there(output)(self.pair_features(Representation(left, None), Representation(right, None)))
            return nd.slice_axis(scores, axis=1, begin=0, end=1).reshape((q.shape[0], d.shape[0]))
        if self.kind == "cosine":
            q, d = _unit(q), _unit(d)
        if self.kind == "bilinear":
            q = nd.dot(q, self.form.data(q.context))
        return nd.dot(q, d, transpose_b=True)

    def pairs(self, query: Representation, document: Representation, output: gluon.Block | None) -> nd.NDArray:
        """(N,)."""
        if self.kind == "late_interaction":
            similar = nd.batch_dot(query.vectors, document.vectors, transpose_b=True)
            return _best(similar, query.weights, document.weights)
        features = self.pair_features(query, document)
        return nd.slice_axis(
            _there(output)(features) if self.kind == "mlp" else features, axis=1, begin=0, end=1
        ).reshape(-1)

    def pair_features(self, query: Representation, document: Representation) -> nd.NDArray:
        """(N, features) for a graded loss: the pair's score; mlp, late_interaction: more, as they know more of it."""
        q, d = query.vectors, document.vectors
        if self.kind == "late_interaction":
            return self._late_features(query, document)
        if self.kind == "mlp":
            return self.hidden(nd.concat(q, d, nd.abs(q - d), q * d, dim=1))
        if self.kind == "cosine":
            q, d = _unit(q), _unit(d)
        if self.kind == "bilinear":
            q = nd.dot(q, self.form.data(q.context))
        return (q * d).sum(axis=1, keepdims=True)

    def _late_features(self, query: Representation, document: Representation) -> nd.NDArray:
        """(N, 4 + hidden): both directions' scores, of tokens and of words alone, and a hidden layer over them.

        That layer also sees how the two texts' mean tokens differ and agree.
        """
        scores = []
        for begin in (0, self.width // 2):  # the second half of a token's vector is its word's embedding
            q, d = (nd.slice_axis(side.vectors, axis=2, begin=begin, end=None) for side in (query, document))
            similar = nd.batch_dot(q, d, transpose_b=True)  # (N, Tq, Td)
            scores.append(_best(similar, query.weights, document.weights))
            scores.append(_best(similar.transpose((0, 2, 1)), document.weights, query.weights))
        together = nd.stack(*scores, axis=1)
        left, right = _mean(query), _mean(document)
        return nd.concat(together, self.hidden(nd.concat(together, nd.abs(left - right), left * right, dim=1)), dim=1)


class Identity(init.Initializer):
    """Starts a square matrix at the identity, so that a bilinear head starts as a dot product."""

    def _init_weight(self, _: Any, array: nd.NDArray) -> None:
        array[:] = nd.eye(array.shape[0])


def _absent(weights: nd.NDArray) -> nd.NDArray:
    """0 where a token is, far below where there is only padding."""
    return (weights == 0) * FAR_BELOW


def _mean(texts: Representation) -> nd.NDArray:
    """(N, P) the weighted mean of each text's token vectors."""
    total = nd.broadcast_mul(texts.vectors, texts.weights.expand_dims(2)).sum(axis=1)
    return nd.broadcast_div(total, texts.weights.sum(axis=1, keepdims=True))


def _best(similar: nd.NDArray, weights: nd.NDArray, others: nd.NDArray) -> nd.NDArray:
    """(N, T, S) similarities, (N, T) and (N, S) weights: the weighted mean over T of the maximum over S, (N,)."""
    masked = nd.broadcast_add(similar, _absent(others).expand_dims(1))
    # not max: MXNet gives each of several equal maxima the whole gradient, and a word that stands twice is equal to
    # itself but for rounding, so that the gradient would depend on the batch's shape
    best = nd.pick(masked, masked.detach().argmax(axis=2), axis=2)
    return (best * weights).sum(axis=1) / weights.sum(axis=1)


def _late_all(query: Representation, document: Representation) -> nd.NDArray:
    (nq, tq, width), (nd_, td, _) = query.vectors.shape, document.vectors.shape
    similar = nd.dot(query.vectors.reshape((-1, width)), document.vectors.reshape((-1, width)), transpose_b=True)
    similar = nd.broadcast_add(similar.reshape((nq * tq, nd_, td)), _absent(document.weights).expand_dims(0))
    best = similar.max(axis=2).reshape((nq, tq, nd_))
    weights = nd.broadcast_div(query.weights, query.weights.sum(axis=1, keepdims=True))
    return nd.broadcast_mul(best, weights.expand_dims(2)).sum(axis=1)
