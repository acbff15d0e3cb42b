"""A teacher's loss, and the weights of classes; the losses of pairs are in `pipeline.config.losses`."""

import numpy as np
from mxnet import nd


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
