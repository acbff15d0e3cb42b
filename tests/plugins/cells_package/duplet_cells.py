"""Cells of another package, a class each: one gate, and an LSTM whose input and forget gate are one.

A formula is written once, over `m`: MXNet's arithmetic in training, ONNX's in an exported graph.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.config.cells import Cell
from pipeline.config.head import Maths


class Minimal(Cell):
    """f = sigmoid(W_f x + R_f h), h + f (tanh(W x + f R h) - h): Zhou et al., "Minimal gated unit for recurrent neural
    networks", 2016, with the gate behind the product as in cuDNN's GRU."""

    name = "minimal"
    summary = "one gate"
    gates = 2

    def step(self, m: Maths, read: Sequence[Any], carried: Sequence[Any], states: Sequence[Any]) -> Sequence[Any]:
        gate = m.sigmoid(read[0] + carried[0])
        return (states[0] + gate * (m.tanh(read[1] + gate * carried[1]) - states[0]),)


class Coupled(Cell):
    """An LSTM that lets in what it forgets: Greff et al., "LSTM: a search space odyssey", 2017 (CIFG)."""

    name = "coupled"
    summary = "an LSTM whose input gate is what its forget gate leaves"
    gates, states = 3, 2

    def step(self, m: Maths, read: Sequence[Any], carried: Sequence[Any], states: Sequence[Any]) -> Sequence[Any]:
        f, g, o = (x + y for x, y in zip(read, carried))
        forget = m.sigmoid(f)
        c = forget * states[1] + (1 - forget) * m.tanh(g)
        return m.sigmoid(o) * m.tanh(c), c


MINIMAL, COUPLED = Minimal(), Coupled()
