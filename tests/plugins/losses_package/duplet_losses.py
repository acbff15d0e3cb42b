"""Losses of another package, a class each: one over all documents, one over drawn negatives, one of grades.

A formula is written over `nd`, which is `mxnet.nd`. Nothing heavy is imported here.
"""

from typing import Any

from pydantic import Field

from pipeline.config import Settings
from pipeline.config.losses import GradedLoss, RankingLoss


class CircleOptions(Settings):
    """Where the circle lies, and how sharp it is."""

    margin: float = Field(default=0.25, gt=0, lt=1, description="How far scores may stay from 1 and from 0.")
    scale: float = Field(default=8.0, gt=0, description="Multiplies what is left to learn.")


class Circle(RankingLoss):
    """log(1 + sum exp(scale (n + m)(n - m)) exp(-scale (1 + m - p)(p - 1 + m))) of a query's score p with its own
    document and n with the others: Sun et al., "Circle loss", CVPR 2020, its weights taking part in the gradient."""

    name = "circle"
    summary = "a query's document against all documents of the update, each as far as it has to go"
    options = CircleOptions

    def value(self, nd: Any, scores: Any, own: Any, excluded: Any, negatives: Any, options: Any) -> Any:
        positive = nd.pick(scores, own, axis=1)
        barred = nd.one_hot(own, scores.shape[1])
        if excluded is not None:
            barred = barred + excluded
        pulled = options.scale * (1 + options.margin - positive) * (positive - 1 + options.margin)
        pushed = nd.exp(options.scale * (scores + options.margin) * (scores - options.margin)) * (barred == 0)
        return nd.log1p(pushed.sum(axis=1) * nd.exp(-pulled)).mean().reshape(1)


class Logistic(RankingLoss):
    """log(1 + exp(n - p)) over drawn negatives: Burges et al., "Learning to rank using gradient descent", 2005."""

    name = "logistic"
    summary = "against two of them, by the odds that the own one is the better"

    def drawn(self, options: Any) -> int:
        return 2

    def value(self, nd: Any, scores: Any, own: Any, excluded: Any, negatives: Any, options: Any) -> Any:
        total, count = nd.zeros(1, ctx=scores.context), nd.maximum((negatives >= 0).sum(), 1)
        positive = nd.pick(scores, own, axis=1)
        for k in range(negatives.shape[1]):
            column = nd.slice_axis(negatives, axis=1, begin=k, end=k + 1).reshape(-1)
            other = nd.pick(scores, nd.maximum(column, 0), axis=1)
            total = total + (nd.Activation(other - positive, act_type="softrelu") * (column >= 0)).sum()
        return total / count


class Expected(GradedLoss):
    """The squared error of the expected grade."""

    name = "expected"
    summary = "the squared error of each pair's expected grade"

    def values(self, nd: Any, logits: Any, grades: Any, options: Any) -> Any:
        each = nd.arange(logits.shape[1], ctx=logits.context).expand_dims(0)
        return (nd.broadcast_mul(nd.softmax(logits, axis=1), each).sum(axis=1) - grades) ** 2


CIRCLE, LOGISTIC, EXPECTED = Circle(), Logistic(), Expected()
