"""Words filled in from both sides, and beside it from the left alone."""

from typing import Any

from mxnet import gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.models.encoder import Encoder, padding_of


class Reader(gluon.Block):
    """Scores the vocabulary for places of a text by what stands before each and, from both sides, by what follows it.

    Each direction is a deep network of its own and gives the state next to a place, so that no state has seen the word
    that it is to say. Therefore every word of a text can be learned from, and not those alone that were taken out
    (Melamud et al., "context2vec", 2016).

    Args:
        vocabulary: V, what can stand in a blank.
        directions: 2 reads from both sides, 1 from the left alone, with states of the same width.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, directions: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = config.hidden * config.directions
        one = config.model_copy(update={"directions": 1, "hidden": width // directions})
        with self.name_scope():
            self.forwards = Encoder(one)
            self.backwards = Encoder(one) if directions == 2 else None
            self.dropout = gluon.nn.Dropout(config.dropout)
            self.project = gluon.nn.Dense(
                config.embedding, activation="tanh", in_units=width, weight_initializer=init.Xavier()
            )
            self.output = gluon.nn.Dense(vocabulary, in_units=config.embedding, weight_initializer=init.Xavier())

    def forward(self, embedded: nd.NDArray, lengths: nd.NDArray, places: nd.NDArray) -> nd.NDArray:
        """(T, N, E) words, (N,) int32 lengths and (B,) int32 places, step * N + text, to (B, V) scores."""
        steps, padding = embedded.shape[0], padding_of(lengths, embedded.shape[0])
        states = self.forwards(embedded, padding)
        nothing = nd.zeros((1, *states.shape[1:]), ctx=states.context)
        around = nd.slice_axis(nd.concat(nothing, states, dim=0), axis=0, begin=0, end=steps)
        if self.backwards is not None:
            sizes = lengths.astype("float32")
            turned = nd.SequenceReverse(embedded, sizes, use_sequence_length=True)
            states = nd.SequenceReverse(self.backwards(turned, padding), sizes, use_sequence_length=True)
            states = nd.broadcast_mul(states, 1 - padding)  # after a text's last word there is nothing
            after = nd.slice_axis(nd.concat(states, nothing, dim=0), axis=0, begin=1, end=steps + 1)
            around = nd.concat(around, after, dim=2)
        chosen = nd.take(around.reshape((-1, around.shape[2])), places)
        return self.output(self.project(self.dropout(chosen)))


class Cloze(gluon.Block):
    """One reader or two, each with its own embedding: a row of the table holds both readers' halves.

    The last row, number V, is the blank's.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, compare_left: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = config.embedding
        with self.name_scope():
            # Rows are updated by themselves (training.optimizer), so no gradient of the whole table is ever made.
            self.embedding = self.params.get(
                "embedding",
                shape=(vocabulary + 1, config.embedding * (1 + compare_left)),
                init=init.Uniform(0.1),
                grad_req="null",
            )
            self.both = Reader(config, vocabulary, config.directions)
            self.left = Reader(config, vocabulary, 1) if compare_left else None

    def readers(self) -> dict[str, Reader]:
        """By name: both, and left if it is compared."""
        return {"both": self.both} | ({"left": self.left} if self.left is not None else {})

    def forward(
        self, table: nd.NDArray, ids: nd.NDArray, lengths: nd.NDArray, places: nd.NDArray
    ) -> dict[str, nd.NDArray]:
        """Each reader's (B, V) scores. `ids` (T, N) int32 index `table`; see Reader.forward."""
        embedded = nd.Embedding(ids, table, input_dim=table.shape[0], output_dim=table.shape[1])
        scores = {}
        for number, (name, reader) in enumerate(self.readers().items()):
            part = nd.slice_axis(embedded, axis=2, begin=number * self.width, end=(number + 1) * self.width)
            scores[name] = reader(part, lengths, places)
        return scores
