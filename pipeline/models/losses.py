"""The matching losses: plain functions of scores, each a mean over the pairs it is given."""

import numpy as np
from mxnet import nd

from pipeline.models.encoder import FAR_BELOW


def in_batch_softmax(
    scores: nd.NDArray, positives: nd.NDArray, excluded: nd.NDArray | None, temperature: float
) -> nd.NDArray:
    """Mean cross entropy of each query's own document against all documents of the update, (1,).

    Args:
        scores: (N, M) of each query with each document.
        positives: (N,) the column of each query's own document.
        excluded: (N, M) 1 where a document must not count as a negative (it is relevant too, or the same text), else 0;
            None where none is.
        temperature: divides the scores; small ones look at the hardest negatives.

    Henderson et al., "Efficient natural language response suggestion", 2017, eq. 6; temperature as in Wu et al. 2018.
    """
    logits = scores / temperature
    if excluded is not None:
        logits = logits + excluded * FAR_BELOW
    return -nd.pick(nd.log_softmax(logits, axis=1), positives, axis=1).mean().reshape(1)


def hinge(scores: nd.NDArray, positives: nd.NDArray, negatives: nd.NDArray, margin: float) -> nd.NDArray:
    """Mean of max(0, margin - positive + negative) over queries and their sampled negatives, (1,).

    Args:
        scores: (N, M); positives: (N,) columns; negatives: (N, K) columns, -1 where a query has fewer than K.

    Joachims, "Optimizing search engines using clickthrough data", 2002; Hu et al. 2014, eq. 7.
    """
    own = nd.pick(scores, positives, axis=1).expand_dims(1)
    rows = nd.broadcast_like(nd.arange(scores.shape[0], ctx=scores.context).expand_dims(1), negatives)
    mask = negatives >= 0
    other = nd.gather_nd(scores, nd.stack(rows, nd.maximum(negatives, 0), axis=0))
    costs = nd.relu(margin - nd.broadcast_sub(own, other)) * mask
    return (costs.sum() / nd.maximum(mask.sum(), 1)).reshape(1)


def graded_softmax(logits: nd.NDArray, grades: nd.NDArray, weights: nd.NDArray | None = None) -> nd.NDArray:
    """Mean cross entropy of (N, G) logits against (N,) grades 0 … G-1, times (N,) weights if any, (1,)."""
    return _mean(-nd.pick(nd.log_softmax(logits, axis=1), grades, axis=1), weights)


def _mean(losses: nd.NDArray, weights: nd.NDArray | None) -> nd.NDArray:
    return (losses if weights is None else losses * weights).mean().reshape(1)


def taught_losses(logits: nd.NDArray, teacher: nd.NDArray, kind: str, temperature: float) -> nd.NDArray:
    """(N,) how far (N, C) logits are from a teacher's; what is added to a whole row changes nothing.

    logits: the mean squared difference, each row about its mean (Ba and Caruana, "Do deep nets really need to be
    deep?", 2014; Tang et al., "Distilling task-specific knowledge from BERT into simple neural networks", 2019). kl: T²
    times the divergence of both at temperature T (Hinton, Vinyals and Dean, "Distilling the knowledge in a neural
    network", 2015).
    """
    if kind == "logits":
        student, theirs = (nd.broadcast_sub(x, x.mean(axis=1, keepdims=True)) for x in (logits, teacher))
        return ((student - theirs) ** 2).mean(axis=1)
    student, theirs = nd.log_softmax(logits / temperature), nd.log_softmax(teacher / temperature)
    return (nd.exp(theirs) * (theirs - student)).sum(axis=1) * temperature**2


def balanced(classes: np.ndarray, count: int) -> np.ndarray:
    """(count,) float32 weights of classes 0 … count - 1, by which all that occur in (N,) `classes` weigh alike in sum,
    and the mean weight of an example is 1.

    >>> balanced(np.array([0, 0, 0, 1]), 3).astype(float).round(3).tolist()
    [0.667, 2.0, 0.0]
    """
    counts = np.bincount(classes.astype(np.int64), minlength=count).astype(np.float64)
    present = counts > 0
    return np.where(present, len(classes) / (present.sum() * np.maximum(counts, 1)), 0).astype(np.float32)


def ordinal(logits: nd.NDArray, grades: nd.NDArray, weights: nd.NDArray | None = None) -> nd.NDArray:
    """Mean over pairs of the G-1 binary losses "is the grade above g?", (1,).

    Args:
        logits: (N, G-1), log odds of a grade above g = 0 … G-2; grades: (N,).

    Frank and Hall, "A simple approach to ordinal classification", 2001; Niu et al. 2016 for networks.
    """
    above = nd.broadcast_greater(grades.expand_dims(1), nd.arange(logits.shape[1], ctx=logits.context).expand_dims(0))
    losses = nd.relu(logits) - logits * above + nd.log1p(nd.exp(-nd.abs(logits)))
    return _mean(losses.sum(axis=1), weights)
