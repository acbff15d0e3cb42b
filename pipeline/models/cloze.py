"""Words filled in from both sides, and beside it from the left alone."""

from typing import Any

import numpy as np
from mxnet import gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.models.dropout import Dropout
from pipeline.models.encoder import Encoder, embedding_of, padding_of, rows_of
from pipeline.models.sampled import Candidates, sampled_losses

# of each reader the (B, E) words that it expects, its (U, E) part of the table and its (V,) biases
Expected = dict[str, tuple[nd.NDArray, nd.NDArray, nd.NDArray]]


class Reader(gluon.Block):
    """Tells what word is to be expected at places of a text by what stands before each and, from both sides, after it.

    Each direction is a deep network of its own and gives the state next to a place, so that no state has seen the word
    that it is to say. Therefore every word of a text can be learned from, and not those alone that were taken out
    (Melamud et al., "context2vec", 2016).

    Args:
        vocabulary: V, what can stand in a blank; each word has a bias here, and its weights are its embedding.
        directions: 2 reads from both sides, 1 from the left alone, with states of the same width.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, directions: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = config.hidden * config.directions
        encoder_config = config.model_copy(update={"directions": 1, "hidden": width // directions})
        with self.name_scope():
            self.forwards = Encoder(encoder_config)
            self.backwards = Encoder(encoder_config) if directions == 2 else None
            self.dropout = Dropout(config.dropout)
            self.project = gluon.nn.Dense(config.embedding, in_units=width, weight_initializer=init.Xavier())
            self.bias = self.params.get("bias", shape=(vocabulary,), init=init.Zero())

    def forward(self, embedded: nd.NDArray, lengths: nd.NDArray, places: nd.NDArray) -> nd.NDArray:
        """(T, N, E) words, (N,) int32 lengths and (B,) int32 places, step * N + text, to (B, E) expected words."""
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
        return self.dropout(self.project(self.dropout(chosen)))


class Cloze(gluon.Block):
    """One reader or two, each with its own embedding: a row of the table holds both readers' halves.

    The last row, number V, is the blank's.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, compare_left: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = config.embedding
        with self.name_scope():
            self.embedding = embedding_of(self, vocabulary + 1, config.embedding * (1 + compare_left))
            self.both = Reader(config, vocabulary, config.directions)
            self.left = Reader(config, vocabulary, 1) if compare_left else None

    def readers(self) -> dict[str, Reader]:
        """By name: both, and left if it is compared."""
        return {"both": self.both} | ({"left": self.left} if self.left is not None else {})

    def forward(self, table: nd.NDArray, ids: nd.NDArray, lengths: nd.NDArray, places: nd.NDArray) -> Expected:
        """What each reader expects. `ids` (T, N) int32 index `table` (U, E or 2 E); for the rest see Reader.forward."""
        embedded, expected = rows_of(table, ids), {}
        for number, (name, reader) in enumerate(self.readers().items()):
            part = {"axis": -1, "begin": number * self.width, "end": (number + 1) * self.width}
            words = reader(nd.slice_axis(embedded, **part), lengths, places)
            expected[name] = (words, nd.slice_axis(table, **part), reader.bias.data(table.context))
        return expected

    def scores(self, expected: Expected) -> dict[str, nd.NDArray]:
        """Each reader's (B, V) scores of all words, where the table was the whole one."""
        scores = {}
        for name, (words, table, bias) in expected.items():
            weights = nd.slice_axis(table, axis=0, begin=0, end=len(bias))
            scores[name] = nd.FullyConnected(words, weights, bias, num_hidden=len(bias))
        return scores

    def losses(self, expected: Expected, targets: np.ndarray) -> dict[str, nd.NDArray]:
        """Each reader's (B,) cross entropies of (B,) targets in nats, where the table was the whole one."""
        return {
            name: -nd.pick(nd.log_softmax(scores), nd.array(targets, scores.context))
            for name, scores in self.scores(expected).items()
        }

    def sampled_losses(
        self, expected: Expected, targets: np.ndarray, candidates: Candidates, tokens: np.ndarray
    ) -> dict[str, nd.NDArray]:
        """Each reader's (B,) sampled cross entropies of (B,) targets, where the table was the rows `tokens` alone."""
        losses = {}
        context = expected["both"][0].context
        own, others = nd.array(targets, context, "int32"), nd.array(candidates.ids, context, "int32")
        own_rows, other_rows = (
            nd.array(np.searchsorted(tokens, ids), context, "int32") for ids in (targets, candidates.ids)
        )
        for name, (words, table, bias) in expected.items():
            logits = (words * rows_of(table, own_rows)).sum(axis=1) + nd.take(bias, own)
            against = nd.FullyConnected(
                words, rows_of(table, other_rows), nd.take(bias, others), num_hidden=len(candidates.ids)
            )
            losses[name] = sampled_losses(logits, against, own, candidates)
        return losses
