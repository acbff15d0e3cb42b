"""The deep bidirectional encoder: token ids to a state per token, and a state per token to one vector per text."""

from typing import Any

from mxnet import Context, gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.models.dropout import Dropout
from pipeline.models.recurrent import RecurrentLayer

# Added to what must lose against any real value in a maximum or a softmax.
FAR_BELOW = -1e30


def padding_of(lengths: nd.NDArray, steps: int) -> nd.NDArray:
    """(N,) int32 lengths to (steps, N, 1) float32: 1 where a text has ended."""
    position = nd.arange(steps, ctx=lengths.context).reshape((-1, 1))
    return nd.broadcast_greater_equal(position, lengths.astype("float32").reshape((1, -1))).expand_dims(2)


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


class Pooling(gluon.Block):
    """States (T, N, W) to one vector per text (N, W), from the valid steps alone.

    last: the last valid state forwards with the first backwards, each the end of its direction's reading; max and mean:
    over time; max_mean: both; attention: weights softmax(v . tanh(A h)) over time (Yang et al. 2016, eq. 5-7).
    """

    def __init__(self, kind: str, hidden: int, directions: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind, self.hidden = kind, hidden
        width = hidden * directions
        self.width = width * 2 if kind == "max_mean" else width
        if kind == "attention":
            with self.name_scope():
                self.project = gluon.nn.Dense(
                    width, activation="tanh", flatten=False, in_units=width, weight_initializer=init.Xavier()
                )
                self.query = gluon.nn.Dense(
                    1, use_bias=False, flatten=False, in_units=width, weight_initializer=init.Xavier()
                )

    def forward(self, states: nd.NDArray, lengths: nd.NDArray, padding: nd.NDArray) -> nd.NDArray:
        """(T, N, W), (N,) and (T, N, 1) to (N, W), of max_mean (N, 2 W)."""
        if self.kind == "max_mean":
            return nd.concat(self._max(states, lengths), self._mean(states, lengths, padding), dim=1)
        if self.kind == "max":
            return self._max(states, lengths)
        if self.kind == "mean":
            return self._mean(states, lengths, padding)
        if self.kind == "attention":
            weights = nd.softmax(self.query(self.project(states)) + padding * FAR_BELOW, axis=0)  # (T, N, 1)
            return nd.broadcast_mul(states, weights).sum(axis=0)
        forwards = nd.slice_axis(states, axis=2, begin=0, end=self.hidden)
        last = nd.SequenceLast(forwards, lengths.astype("float32"), use_sequence_length=True)
        if states.shape[2] == self.hidden:
            return last
        first = nd.slice_axis(states[0], axis=1, begin=self.hidden, end=None)
        return nd.concat(last, first, dim=1)

    @staticmethod
    def _max(states: nd.NDArray, lengths: nd.NDArray) -> nd.NDArray:
        masked = nd.SequenceMask(states, lengths.astype("float32"), use_sequence_length=True, value=FAR_BELOW)
        return masked.max(axis=0)

    @staticmethod
    def _mean(states: nd.NDArray, lengths: nd.NDArray, padding: nd.NDArray) -> nd.NDArray:
        total = nd.broadcast_mul(states, 1 - padding).sum(axis=0)
        return nd.broadcast_div(total, lengths.astype("float32").reshape((-1, 1)))
