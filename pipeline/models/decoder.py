"""The decoder: recurrent layers that write a text token by token, with attention to a memory or without."""

from typing import Any

from mxnet import Context, gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.models.attention import ATTENTIONS, Memory
from pipeline.models.dropout import Dropout
from pipeline.models.recurrent import RecurrentLayer, read_on


class Decoder(gluon.Block):
    """Layers of one direction over what was written so far, and for each step the features of the next token.

    luong: the recurrent layers run over all steps in one kernel call each, then every step attends with its new state:
    tanh(W [s_t; c_t]) (Luong et al. 2015, eq. 5, without input feeding). scaled: the same, with divided scores.
    bahdanau: every step first attends with the state before it and reads the context beside the token:
    tanh(W [s_t; c_t; y_t-1]) (Bahdanau et al. 2015), which takes a kernel call per step. None:
    tanh(W s_t).

    A state is a list of (N, hidden) arrays: for each layer h, and for LSTM c.

    Args:
        inputs: width of what a step reads.
        summary: width of what the first state is made from (see `start`); None: it is zero.
        memory: width of the memory's values.
        outputs: width of the features.
    """

    def __init__(
        self, config: ModelConfig, inputs: int, outputs: int, attention: str | None = None, memory: int = 0,
        summary: int | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.cell, self.hidden, self.kind = config.cell, config.hidden, attention
        self.parts = config.steps_by.states  # arrays of a layer's state
        with self.name_scope():
            self.dropout = Dropout(config.dropout)
            self.layers = gluon.nn.Sequential()
            width = inputs + (memory if attention == "bahdanau" else 0)
            features = config.hidden + memory + (inputs if attention == "bahdanau" else 0)
            for _ in range(config.layers):
                self.layers.add(RecurrentLayer(config.cell, width, config.hidden, 1))
                width = config.hidden
            if attention:
                self.attention = ATTENTIONS[attention](config.hidden, memory)
            self.features = gluon.nn.Dense(
                outputs, activation="tanh", flatten=False,
                in_units=features if attention else config.hidden, weight_initializer=init.Xavier(),
            )  # fmt: skip
            self.bridge = None
            if summary is not None:
                self.bridge = gluon.nn.Dense(
                    self.parts * config.layers * config.hidden, activation="tanh", in_units=summary,
                    weight_initializer=init.Xavier(),
                )  # fmt: skip

    def packed(self, context: Context) -> list[nd.NDArray]:
        """Each layer's parameters as its kernel takes them, for several calls of `forward`."""
        return [layer.packed(context) for layer in self.layers]

    def start(self, summary: nd.NDArray) -> list[nd.NDArray]:
        """The first state of N texts: tanh(W summary + b) of (N, summary), or zero without a bridge."""
        count = self.parts * len(self.layers)
        if self.bridge is None:
            return [nd.zeros((summary.shape[0], self.hidden), ctx=summary.context) for _ in range(count)]
        return list(nd.split(self.bridge(summary), count, axis=1, squeeze_axis=False)) if count > 1 else [
            self.bridge(summary)
        ]  # fmt: skip

    def remember(self, values: nd.NDArray, padding: nd.NDArray) -> Memory:
        """(N, L, memory) values and their (N, L) padding as a memory."""
        return Memory(values, self.attention.keys(values), padding)

    def forward(
        self, inputs: nd.NDArray, state: list[nd.NDArray], memory: Memory | None, packed: list[nd.NDArray] | None = None
    ) -> tuple[nd.NDArray, list[nd.NDArray], nd.NDArray | None]:
        """Runs T steps.

        Args:
            inputs: (T, N, inputs).

        Returns:
            (T, N, outputs) features, the state after the last step, and the attention's weights (N, T, L), if any.
        """
        packed = packed or self.packed(inputs.context)
        inputs = self.dropout(inputs)
        if self.kind == "bahdanau":
            assert memory is not None
            return self._step_by_step(inputs, state, memory, packed)
        states, state = self._layers(inputs, state, packed)
        weights = None
        if memory is not None and self.kind:
            context, weights = self.attention(states.swapaxes(0, 1), memory)
            states = nd.concat(states, context.swapaxes(0, 1), dim=2)
        return self.features(self.dropout(states)), state, weights

    def _step_by_step(
        self, inputs: nd.NDArray, state: list[nd.NDArray], memory: Memory, packed: list[nd.NDArray]
    ) -> tuple[nd.NDArray, list[nd.NDArray], nd.NDArray]:
        states, weights = [], []
        for step in range(inputs.shape[0]):
            top = state[-self.parts]
            context, weight = self.attention(top.expand_dims(1), memory)
            read = nd.concat(inputs[step : step + 1], context.swapaxes(0, 1), dim=2)
            written, state = self._layers(read, state, packed)
            states.append(nd.concat(written, read, dim=2))
            weights.append(weight)
        return self.features(self.dropout(nd.concat(*states, dim=0))), state, nd.concat(*weights, dim=1)

    def _layers(
        self, x: nd.NDArray, state: list[nd.NDArray], packed: list[nd.NDArray]
    ) -> tuple[nd.NDArray, list[nd.NDArray]]:
        """(T, N, width) through all recurrent layers: the top one's (T, N, hidden) states, and the state after them."""
        after: list[nd.NDArray] = []
        for i, weights in enumerate(packed):
            before = [array.expand_dims(0) for array in state[i * self.parts : (i + 1) * self.parts]]
            x, ends = read_on(self.cell, self.hidden, x if i == 0 else self.dropout(x), before, weights)
            after += [end[0] for end in ends]
        return x, after
