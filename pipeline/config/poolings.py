"""The poolings: how the states of all tokens become one vector of a text. Duplet's, and those that installed packages
bring (entry points `duplet.poolings`). A formula is written once, as those of heads are; see `pipeline.config.head`."""

from typing import Any, ClassVar, Protocol

from pipeline.config.head import FAR_BELOW, Dense, Learned, Maths
from pipeline.config.plugins import INTERFACE, Table


class StepMaths(Maths, Protocol):
    """Arithmetic over states, time first: (T, N, W), whose padding means nothing."""

    @property
    def lengths(self) -> Any:
        """(N, 1) tokens of each text, at least 1."""

    def filled(self, x: Any, value: float) -> Any:
        """With a value in place of what stands on padding."""

    def top(self, x: Any) -> Any:
        """The maximum over the steps, (N, W)."""

    def shares(self, x: Any) -> Any:
        """The softmax over the steps."""

    def at_end(self, x: Any) -> Any:
        """(N, W) at each text's last token."""

    def at_start(self, x: Any) -> Any:
        """(N, W) at the first token."""

    def until(self, x: Any, end: int) -> Any:
        """The first entries of the last axis."""


class Pooling:
    """A pooling. An entry point of `duplet.poolings` names an instance.

    Attributes:
        name: in `model.pooling`.
        times: how many times the states' width a vector has.
        interface: what it was written for.
    """

    name: ClassVar[str]
    times: ClassVar[int] = 1
    interface: ClassVar[int] = INTERFACE

    def parts(self, width: int) -> Learned:
        """What it learns, by name; `width`: W, of the states."""
        return {}

    def pooled(self, m: StepMaths, states: Any, hidden: int) -> Any:
        """(T, N, W) states to (N, times * W); hidden: of one direction, whose forward states come first."""
        raise NotImplementedError

    def weights(self, m: StepMaths, states: Any) -> Any:
        """(T, N, 1) what a vector takes from each token, for the report; None: nothing that is learned."""
        return None


class Last(Pooling):
    """The last state forwards with the first backwards, each the end of its direction's reading."""

    name = "last"

    def pooled(self, m: StepMaths, states: Any, hidden: int) -> Any:
        end = m.at_end(m.until(states, hidden))
        return end if m.width(states) == hidden else m.concat(end, m.since(m.at_start(states), hidden))


class Max(Pooling):
    """The maximum over time."""

    name = "max"

    def pooled(self, m: StepMaths, states: Any, hidden: int) -> Any:
        return m.top(m.filled(states, FAR_BELOW))


class Mean(Pooling):
    """The mean over time."""

    name = "mean"

    def pooled(self, m: StepMaths, states: Any, hidden: int) -> Any:
        return m.sum(m.filled(states, 0.0), 0) / m.lengths


class MaxMean(Pooling):
    """Both, side by side."""

    name = "max_mean"
    times = 2

    def pooled(self, m: StepMaths, states: Any, hidden: int) -> Any:
        return m.concat(Max().pooled(m, states, hidden), Mean().pooled(m, states, hidden))


class Attention(Pooling):
    """Weights softmax(v . tanh(A h)) over time (Yang et al. 2016, eq. 5-7)."""

    name = "attention"

    def parts(self, width: int) -> Learned:
        return {"project": Dense(width, width), "query": Dense(1, width, bias=False)}

    def pooled(self, m: StepMaths, states: Any, hidden: int) -> Any:
        return m.sum(states * self.weights(m, states), 0)

    def weights(self, m: StepMaths, states: Any) -> Any:
        scores = m.dense(m.tanh(m.dense(states, "project")), "query")
        return m.shares(m.filled(scores, FAR_BELOW))


OWN = (Last(), Max(), Mean(), MaxMean(), Attention())


def _problem(pooling: Pooling) -> str | None:
    """What is wrong with a pooling that a package brings."""
    return "has no formula" if type(pooling).pooled is Pooling.pooled or pooling.times < 1 else None


POOLINGS: Table[Pooling] = Table("pooling", Pooling, {pooling.name: pooling for pooling in OWN}, _problem)
