"""The deep bidirectional encoder: token ids to a state per token, and a state per token to one vector per text."""

from typing import Any

from mxnet import Context, gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.config.poolings import POOLINGS
from pipeline.models.devices import positions
from pipeline.models.dropout import Dropout
from pipeline.models.maths import Learning, MxnetSteps
from pipeline.models.recurrent import RecurrentLayer


def padding_of(lengths: nd.NDArray, steps: int) -> nd.NDArray:
    """(N,) int32 lengths to (steps, N, 1) float32: 1 where a text has ended."""
    position = positions(steps, lengths.context).reshape((-1, 1))
    return nd.broadcast_greater_equal(position, lengths.astype("float32").reshape((1, -1))).expand_dims(2)


def embedding_of(block: gluon.Block, vocabulary: int, width: int) -> gluon.Parameter:
    """The table of a network's tokens, (vocabulary, width).

    Rows are updated by themselves (training.optimizer), so no gradient of the whole table is ever made.
    """
    return block.params.get("embedding", shape=(vocabulary, width), init=init.Uniform(0.1), grad_req="null")


def rows_of(table: nd.NDArray, ids: nd.NDArray) -> nd.NDArray:
    """The rows of a (U, E) table that ids of any shape name."""
    return nd.Embedding(ids, table, input_dim=table.shape[0], output_dim=table.shape[1])


class Encoder(gluon.Block):
    """Embedding rows, dropout, then layers of recurrent cells, each fed by both directions of the one below.

    Graves et al., "Speech recognition with deep recurrent neural networks", 2013 (deep bidirectional RNN).
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = config.hidden * config.directions
        self.residual = config.residual
        with self.name_scope():
            self.dropout = Dropout(config.dropout)
            self.words = Dropout(config.word_dropout, axes=(2,))  # a whole vector or none of it
            self.layers = gluon.nn.Sequential()
            self.norms = gluon.nn.Sequential()
            inputs = config.embedding
            for _ in range(config.layers):
                self.layers.add(RecurrentLayer(config.cell, inputs, config.hidden, config.directions))
                if config.layer_norm:
                    self.norms.add(gluon.nn.LayerNorm(in_channels=self.width))
                inputs = self.width

    def packed(self, context: Context) -> list[nd.NDArray]:
        """Each layer's parameters as its kernel takes them; worth making once where several batches follow."""
        return [layer.packed(context) for layer in self.layers]

    def forward(self, embedded: nd.NDArray, padding: nd.NDArray, packed: list[nd.NDArray] | None = None) -> nd.NDArray:
        """(T, N, E) embedded tokens and (T, N, 1) padding to (T, N, width) states, not masked."""
        x = self.words(embedded)
        for i, (layer, weights) in enumerate(zip(self.layers, packed or self.packed(embedded.context))):
            x = self.dropout(x)
            y = layer(x, padding, weights)
            if len(self.norms):
                y = self.norms[i](y)
            x = y + x if self.residual and y.shape == x.shape else y
        return x


class Pooling(Learning):
    """States (T, N, W) to one vector per text (N, W), or wider, from the valid steps alone: see config.poolings."""

    def __init__(self, kind: str, hidden: int, directions: int, **kwargs: Any) -> None:
        pooling, width = POOLINGS.named(kind), hidden * directions
        super().__init__(pooling.parts(width), **kwargs)
        self.kind, self.hidden, self.width, self._pooling = kind, hidden, width * pooling.times, pooling

    def forward(self, states: nd.NDArray, lengths: nd.NDArray, padding: nd.NDArray) -> nd.NDArray:
        """(T, N, W), (N,) and (T, N, 1) to (N, width)."""
        pooled: nd.NDArray = self._pooling.pooled(MxnetSteps(self, lengths), states, self.hidden)
        return pooled

    def weights(self, states: nd.NDArray, lengths: nd.NDArray) -> nd.NDArray | None:
        """(T, N, W) and (N,) to what a vector takes from each token, (T, N, 1); None: nothing that is learned."""
        weights: nd.NDArray | None = self._pooling.weights(MxnetSteps(self, lengths), states)
        return weights


class TextReader(gluon.Block):
    """A network that reads a text as one vector: embedding, encoder and pooling, and dropout for what stands above.

    Args:
        vocabulary: V, the rows of the embedding table.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.embedding = embedding_of(self, vocabulary, config.embedding)
            self.encoder = Encoder(config)
            self.pooling = Pooling(config.pooling, config.hidden, config.directions)
            self.dropout = Dropout(config.dropout)

    def packed(self, context: Context) -> list[nd.NDArray]:
        """The recurrent parameters, for several calls of `forward`."""
        return self.encoder.packed(context)

    def read(
        self, table: nd.NDArray, ids: nd.NDArray, lengths: nd.NDArray, packed: list[nd.NDArray] | None
    ) -> nd.NDArray:
        """(N, pooling.width) vectors of texts.

        Args:
            table: (U, E) embedding rows that `ids` index; the whole table, or the rows that an update needs.
            ids: (T, N) int32, time first.
            lengths: (N,) int32, at least 1.
        """
        padding = padding_of(lengths, ids.shape[0])
        return self.pooling(self.encoder(rows_of(table, ids), padding, packed), lengths, padding)
