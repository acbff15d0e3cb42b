"""One recurrent layer, in one direction or both, whose valid outputs do not depend on the batch's padding.

On the CPU our own operator runs it (`pipeline.models.kernel`), which reads no padding at all. What follows is for where
it cannot be used.

MXNet's CPU kernels ignore `use_sequence_length`: run backwards over a padded batch, they meet the padding first and
carry its state into the text. Reversing each text by its own length cures that at the price of two slower kernel
calls. Here the padding itself is made harmless, so that the fused bidirectional kernel can be used: every step has
one more input, 1 on padding and 0 on text, whose fixed weights hold the state at its initial zero while the kernel
walks over padding.

A cell of another package has no kernel: its formula runs step by step, and padding keeps the state as it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mxnet import Context, gluon, init, nd

from pipeline.config.cells import CELLS
from pipeline.models.devices import zeros
from pipeline.models.kernel import operator
from pipeline.models.maths import MxnetMaths

# Saturates a float32 sigmoid completely, and is far from overflow when added to any sane activation.
CLOSED = 1e4


class RecurrentLayer(gluon.Block):
    """One layer of Elman (tanh or relu), GRU or LSTM cells over (T, N, C), giving (T, N, directions * hidden).

    Gate order is MXNet's: input, forget, cell, output for LSTM (Hochreiter and Schmidhuber 1997, with Gers' forget
    gate, whose bias starts at 1); reset, update, new for GRU (Cho et al. 2014, in cuDNN's form). Parameters per
    direction: i2h_weight (gates * hidden, C), h2h_weight (gates * hidden, hidden), i2h_bias and h2h_bias (gates *
    hidden,).
    """

    def __init__(self, cell: str, inputs: int, hidden: int, directions: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cell, self.inputs, self.hidden, self.directions = cell, inputs, hidden, directions
        self.kernel, rows = CELLS.named(cell).kernel, CELLS.named(cell).gates * hidden
        forget = init.LSTMBias(forget_bias=1.0) if cell == "lstm" else init.Zero()
        self._closed: dict[Context, nd.NDArray] = {}
        with self.name_scope():
            for d in "fb"[:directions]:
                for name, shape, start in (
                    ("i2h_weight", (rows, inputs), init.Xavier()),
                    ("h2h_weight", (rows, hidden), init.Orthogonal(1.0)),
                    ("i2h_bias", (rows,), forget),
                    ("h2h_bias", (rows,), init.Zero()),
                ):
                    setattr(self, f"{d}_{name}", self.params.get(f"{d}_{name}", shape=shape, init=start))

    def packed(self, context: Context) -> nd.NDArray:
        """All parameters in one vector as the kernel takes them; made once for all calls of an update."""
        weights, biases = [], []
        for d in "fb"[: self.directions]:
            i2h, h2h, i2h_bias, h2h_bias = (
                getattr(self, f"{d}_{name}").data(context)
                for name in ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")
            )
            if self.directions == 2 and self.kernel and not operator.ready(context):
                i2h = nd.concat(i2h, self._padding_weights(i2h_bias, h2h_bias), dim=1)
            weights += [i2h.reshape(-1), h2h.reshape(-1)]
            biases += [i2h_bias, h2h_bias]
        return nd.concat(*weights, *biases, dim=0)

    def forward(self, x: nd.NDArray, padding: nd.NDArray, packed: nd.NDArray) -> nd.NDArray:
        """Runs the layer.

        Args:
            x: (T, N, inputs).
            padding: (T, N, 1), 1 after the end of a text and 0 before.
            packed: what `packed` gave.

        Returns:
            (T, N, directions * hidden), forward states first; what stands on padding means nothing and must be masked.
        """
        if not self.kernel:
            return _by_formula(self.cell, self.hidden, self.directions, x, packed, padding)[0]
        if operator.ready(x.context):
            return operator.recurrent(self.cell, self.hidden, self.directions, x, packed, padding)[0]
        if self.directions == 2:
            if self.cell == "rnn_tanh":
                # tanh has no gate to close: its input on padding must be exactly minus the bias
                x = nd.broadcast_mul(x, 1 - padding)
            x = nd.concat(x, padding, dim=2)
        start = zeros((self.directions, x.shape[1], self.hidden), x.context)
        return nd.RNN(
            data=x,
            parameters=packed,
            state=start,
            **({"state_cell": start} if self.cell == "lstm" else {}),
            mode=self.cell,
            state_size=self.hidden,
            num_layers=1,
            bidirectional=self.directions == 2,
            state_outputs=False,
        )

    def _padding_weights(self, i2h_bias: nd.NDArray, h2h_bias: nd.NDArray) -> nd.NDArray:
        """The padding input's weights, (gates * hidden, 1), that keep a zero state at zero.

        LSTM: the input gate closed, so c = f * 0 + 0 and h = o * tanh(0) = 0. GRU: the update gate at 1, so h = h.
        relu: the activation far below 0. tanh: minus the bias, so that h = tanh(0 + R * 0) = 0.
        """
        if self.cell == "rnn_tanh":
            return -(i2h_bias + h2h_bias).reshape((-1, 1))
        context = i2h_bias.context
        if context not in self._closed:  # they never change
            closed = {"lstm": (-1, 0, 0, 0), "gru": (0, 1, 0), "rnn_relu": (-1,)}[self.cell]
            column = np.repeat(np.array(closed, np.float32), self.hidden) * CLOSED
            self._closed[context] = nd.array(column.reshape(-1, 1), context)
        return self._closed[context]


def read_on(
    cell: str, hidden: int, x: nd.NDArray, states: list[nd.NDArray], packed: nd.NDArray
) -> tuple[nd.NDArray, list[nd.NDArray]]:
    """One layer forwards over texts of equal length, from given states.

    Args:
        x: (T, N, inputs).
        states: h and, for LSTM, c, each (1, N, hidden).
        packed: the layer's parameters in one vector, as MXNet's kernels take them.

    Returns:
        (T, N, hidden), and the states after the last step.
    """
    if not CELLS.named(cell).kernel:
        y, *after = _by_formula(cell, hidden, 1, x, packed, states=states)
    elif operator.ready(x.context):
        y, *after = operator.recurrent(cell, hidden, 1, x, packed, states=states)
    else:
        y, *after = nd.RNN(x, packed, *states, mode=cell, state_size=hidden, num_layers=1, state_outputs=True)
    return y, after


def _by_formula(
    cell: str, hidden: int, directions: int, x: nd.NDArray, packed: nd.NDArray, padding: nd.NDArray | None = None,
    states: Sequence[nd.NDArray] | None = None,
) -> list[nd.NDArray]:  # fmt: skip
    """As `operator.recurrent`, by the cell's formula; the states after the last step in any case."""
    kind = CELLS.named(cell)
    steps, count, inputs = x.shape
    rows = kind.gates * hidden
    sizes = [(rows, inputs), (rows, hidden)] * directions + [(rows,)] * (2 * directions)
    arrays, begin = [], 0
    for shape in sizes:
        end = begin + (shape[0] * shape[1] if len(shape) == 2 else shape[0])
        arrays.append(nd.slice_axis(packed, axis=0, begin=begin, end=end).reshape(shape))
        begin = end
    gates = lambda product: nd.split(product, kind.gates, axis=1) if kind.gates > 1 else [product]
    outputs, ends = [], []
    for d in range(directions):
        (i2h, h2h), (i2h_bias, h2h_bias) = arrays[2 * d : 2 * d + 2], arrays[2 * (directions + d) :][:2]
        read = nd.FullyConnected(x, i2h, i2h_bias, num_hidden=rows, flatten=False)
        zeros = nd.zeros((count, hidden), ctx=x.context)
        now = [state[d] for state in states] if states else [zeros] * kind.states
        y = [zeros] * steps
        for step in reversed(range(steps)) if d else range(steps):
            carried = nd.FullyConnected(now[0], h2h, h2h_bias, num_hidden=rows)
            after = kind.step(MxnetMaths, gates(read[step]), gates(carried), now)
            if (shapes := [state.shape for state in after]) != [(count, hidden)] * kind.states:
                raise CELLS.fault(
                    cell, f"gives states of {shapes} at a step: {kind.states} of {(count, hidden)} needed"
                )
            if padding is not None:
                over = nd.broadcast_like(padding[step], zeros)
                after = [nd.where(over, old, new) for old, new in zip(now, after)]
            now, y[step] = list(after), after[0]
        outputs.append(nd.stack(*y, axis=0))
        ends.append(now)
    return [nd.concat(*outputs, dim=2), *(nd.stack(*parts, axis=0) for parts in zip(*ends))]
