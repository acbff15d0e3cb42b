"""The recurrent cells: Duplet's, which kernels run, and those that installed packages bring (entry points
`duplet.cells`), which run step by step. A formula is written once, as a head's is; see `pipeline.config.head`."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pipeline.config.head import Maths
from pipeline.config.plugins import INTERFACE, Table


class Cell:
    """A cell. An entry point of `duplet.cells` names an instance.

    A layer has, for each direction, W (gates * H, C), R (gates * H, H) and two biases (gates * H,). At each step the
    cell is given W x + b and R h + b, gate by gate.

    Attributes:
        name: in `model.cell`.
        summary: a sentence for the list of settings, without its point.
        gates: how many parts of width H both products have.
        states: how many (N, H) arrays go from step to step; the first is h, what the layer gives.
        kernel: whether MXNet's kernels and our own have it.
        interface: what it was written for.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1
    kernel: ClassVar[bool] = False
    interface: ClassVar[int] = INTERFACE

    def step(self, m: Maths, read: Sequence[Any], carried: Sequence[Any], states: Sequence[Any]) -> Sequence[Any]:
        """The states after a step, (N, H) each.

        Args:
            read: of each gate W x + b; carried: of each gate R h + b, both (N, H).
            states: before the step, zeros at first.
        """
        raise NotImplementedError


class Lstm(Cell):
    """Input, forget, cell and output gate: Hochreiter and Schmidhuber 1997, with Gers' forget gate."""

    name = "lstm"
    summary = "input, forget and output gate"
    gates, states, kernel = 4, 2, True

    def step(self, m: Maths, read: Sequence[Any], carried: Sequence[Any], states: Sequence[Any]) -> Sequence[Any]:
        i, f, g, o = (x + y for x, y in zip(read, carried))
        c = m.sigmoid(f) * states[1] + m.sigmoid(i) * m.tanh(g)
        return m.sigmoid(o) * m.tanh(c), c


class Gru(Cell):
    """Reset, update and new: Cho et al. 2014, in cuDNN's form."""

    name = "gru"
    summary = "reset and update gate"
    gates, kernel = 3, True

    def step(self, m: Maths, read: Sequence[Any], carried: Sequence[Any], states: Sequence[Any]) -> Sequence[Any]:
        update = m.sigmoid(read[1] + carried[1])
        new = m.tanh(read[2] + m.sigmoid(read[0] + carried[0]) * carried[2])
        return ((1 - update) * new + update * states[0],)


class Tanh(Cell):
    """tanh(W x + R h + b): Elman 1990."""

    name = "rnn_tanh"
    summary = "no gates, tanh"
    kernel = True

    def step(self, m: Maths, read: Sequence[Any], carried: Sequence[Any], states: Sequence[Any]) -> Sequence[Any]:
        return (m.tanh(read[0] + carried[0]),)


class Relu(Cell):
    """max(0, W x + R h + b)."""

    name = "rnn_relu"
    summary = "no gates, relu"
    kernel = True

    def step(self, m: Maths, read: Sequence[Any], carried: Sequence[Any], states: Sequence[Any]) -> Sequence[Any]:
        return (m.relu(read[0] + carried[0]),)


OWN = (Lstm(), Gru(), Tanh(), Relu())


def _problem(cell: Cell) -> str | None:
    """What is wrong with a cell that a package brings."""
    if not getattr(cell, "summary", ""):
        return "has no summary"
    if cell.kernel:
        return "sets kernel, but only Duplet's own cells have kernels"
    if min(cell.gates, cell.states) < 1:
        return "has no gate or no state: it needs at least one of each (h is the first state)"
    return "has no formula" if type(cell).step is Cell.step else None


CELLS: Table[Cell] = Table("cell", Cell, {cell.name: cell for cell in OWN}, _problem)
