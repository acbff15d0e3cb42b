"""Logits of a graded loss as probabilities of the grades, and these as one grade."""

import numpy as np


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def grade_probabilities(logits: np.ndarray, link: str) -> np.ndarray:
    """(N, outputs) logits to (N, G) probabilities of the grades, for the softmax or the ordinal link."""
    logits = logits.astype(np.float64)
    if link == "softmax":
        return softmax(logits)
    above = 1 / (1 + np.exp(-logits))
    above = np.minimum.accumulate(above, axis=1)  # "above 1" can't be likelier than "above 0"
    edges = np.concatenate([np.ones((len(above), 1)), above, np.zeros((len(above), 1))], axis=1)
    return edges[:, :-1] - edges[:, 1:]


def expected_grade(probabilities: np.ndarray) -> np.ndarray:
    """(..., G) probabilities of the grades 0 … G - 1 to the grade expected, (...)."""
    return np.asarray(probabilities @ np.arange(probabilities.shape[-1]))
