"""The matching network: two towers and a head that scores pairs of their representations."""

from typing import Any

from mxnet import Context, autograd, gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.config.head import Texts
from pipeline.models.dropout import Dropout
from pipeline.models.encoder import Encoder, Pooling, embedding_of, padding_of, rows_of
from pipeline.models.maths import Learning, MxnetMaths, unit
from pipeline.models.parameters import TEACHER_MAP

SIDES = ("query", "document")
# What a tower makes of N texts. For a head that needs no weights they are (N, 1) of ones, and None while training.
Representation = Texts


class Matcher(gluon.Block):
    """Scores queries against documents.

    `represent` encodes one side, `score_all` compares every query with every document, `score_pairs` the i-th with the
    i-th, and `pair_outputs` gives a graded loss its inputs: as `model.head` has it.

    Args:
        vocabulary: V, the rows of the embedding table.
        outputs: logits per pair, for a graded loss; 0 without one.
        taught: numbers of a teacher's vectors, where it is trained with some; else 0.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, outputs: int = 0, taught: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.by_token = config.scored_by.by_token
        with self.name_scope():
            self.embedding = embedding_of(self, vocabulary, config.embedding)
            self.towers = SIDES if config.towers == "separate" else SIDES[:1]
            for side in self.towers:
                setattr(self, f"{side}_tower", Tower(config))
            if config.towers == "shared":
                self.document_tower = self.query_tower
            self.dropout = Dropout(config.dropout)
            head = config.scored_by
            self.head = Learning(head.parts(config.vector_width, outputs > 0, config.head_options))
            outputs = outputs or int(config.scored_by.learned)
            if outputs:
                features = config.scored_by.size(config.vector_width, config.head_options)
                self.output = gluon.nn.Dense(
                    outputs, in_units=features, weight_initializer=init.Xavier(), prefix="output_"
                )
            if taught:
                self.teacher_map = gluon.nn.Dense(
                    taught, in_units=config.vector_width, weight_initializer=init.Xavier(), prefix=f"{TEACHER_MAP}_"
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
        return tower(rows_of(table, ids), lengths, packed)

    def score_all(self, query: Representation, document: Representation) -> nd.NDArray:
        """(Nq, Nd) scores; larger is a better match. Cosine and late interaction lie in [-1, 1]."""
        return self.config.scored_by.all(self._maths(query), query, document)

    def score_pairs(self, query: Representation, document: Representation) -> nd.NDArray:
        """(N,) scores of query i with document i, equal to the diagonal of `score_all`."""
        return self.config.scored_by.pairs(self._maths(query), query, document)

    def pair_outputs(self, query: Representation, document: Representation) -> nd.NDArray:
        """(N, outputs): a learned linear map of what the head knows of pair i; logits for a graded loss."""
        # Of a ranking loss, what is drawn would depend on how many queries are scored at a time: no dropout there.
        maths = self._maths(query, self.dropout)
        return maths.output(self.config.scored_by.features(maths, query, document))

    def as_teacher(self, texts: Representation) -> nd.NDArray:
        """(N, taught): texts' vectors of length 1 by the learned map; of late interaction the tokens' weighted mean."""
        vectors = texts.vectors
        if self.by_token:
            weights = texts.weights.expand_dims(2)
            vectors = nd.broadcast_div(nd.broadcast_mul(vectors, weights).sum(axis=1), weights.sum(axis=1))
        return self.teacher_map(unit(vectors))

    def _maths(self, texts: Representation, dropout: Dropout | None = None) -> MxnetMaths:
        output = getattr(self, "output", None)
        return MxnetMaths(self.head, output, self.config.head_options, texts.vectors.context, dropout)

    @property
    def scoring_parameters(self) -> list[gluon.Parameter]:
        """The parameters that `score_all` uses."""
        output = self.output.collect_params().values() if self.config.scored_by.learned else ()
        return [*self.head.collect_params().values(), *output]

    def numbers_per_score(self, query: nd.NDArray, document: nd.NDArray) -> int:
        """How many numbers `score_all` holds for one score, given both sides' vectors."""
        return self.config.scored_by.numbers(query.shape, document.shape)


class Tower(gluon.Block):
    """Encoder and pooling; for late interaction, per token, its projected state beside its embedding."""

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.by_token = config.scored_by.by_token
        with self.name_scope():
            self.encoder = Encoder(config)
            if self.by_token:
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
        if not self.by_token:
            ones = None if autograd.is_recording() else nd.ones((lengths.shape[0], 1), ctx=states.context)
            return Representation(self.pooling(states, lengths, padding), ones)
        halves = nd.concat(unit(self.project(states)), unit(embedded), dim=2) * 0.5**0.5
        vectors = halves.transpose((1, 0, 2))
        weights = (self.importance(states) * (1 - padding)).transpose((1, 0, 2)).reshape((lengths.shape[0], -1))
        return Representation(vectors, weights)
