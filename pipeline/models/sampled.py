"""A softmax over a few drawn tokens instead of the whole vocabulary, in training alone (Jean et al. 2015)."""

from typing import NamedTuple

import numpy as np
from mxnet import nd


class Candidates(NamedTuple):
    """What a sampled softmax is taken over beside each target (Jean et al. 2015; Jozefowicz et al. 2016)."""

    ids: np.ndarray  # (S,) int32, distinct
    expected: np.ndarray  # (S,) float32: how often each was to be expected among them
    expected_targets: np.ndarray  # (T * N,) float32: the same of the targets


def chances_of(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """(V,) how often each token is drawn: as in a text of these ids, none of them never."""
    counts = np.bincount(ids, minlength=vocabulary) + 1.0
    return counts / counts.sum()


class Sampler:
    """Draws tokens by `chances` (V,), which sum to 1, until `count` distinct ones are together.

    A token of chance p is then expected 1 - (1 - p) ** draws times among them: `expected`, (V,) float32.
    """

    def __init__(self, chances: np.ndarray, count: int) -> None:
        self.chances, self.count = chances, count
        # choosing without replacement one by one is drawing with replacement and leaving out repeats; how many draws
        # that takes is estimated by the number at which so many distinct ones are expected
        log_never = np.log1p(-np.minimum(chances, 1 - 1e-12))
        low, high = float(count), 1e12
        for _ in range(60):
            middle = np.sqrt(low * high)
            if -np.expm1(middle * log_never).sum() < count:
                low = middle
            else:
                high = middle
        self.expected = np.maximum(-np.expm1(high * log_never), 1e-30).astype(np.float32)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """(S,) int32 distinct tokens."""
        drawn = rng.choice(len(self.chances), size=self.count, replace=False, p=self.chances)
        return drawn.astype(np.int32)

    def candidates(self, ids: np.ndarray, targets: np.ndarray) -> Candidates:
        """(S,) drawn tokens beside targets of any shape."""
        return Candidates(ids, self.expected[ids], self.expected[targets.reshape(-1)])


def sampled_losses(logits: nd.NDArray, others: nd.NDArray, targets: nd.NDArray, candidates: Candidates) -> nd.NDArray:
    """(B,) cross entropies in nats over each target and the candidates, corrected by -log(expected).

    A candidate that is the target itself does not count. A biased estimate of the whole cross entropy that gets better
    with the number of candidates.

    Args:
        logits: (B,) of the targets.
        others: (B, S) of the candidates.
        targets: (B,) ids.
    """
    context = logits.context
    ids = nd.array(candidates.ids, context).reshape((1, -1))
    own = logits - nd.array(np.log(candidates.expected_targets), context)
    others = nd.broadcast_sub(others, nd.array(np.log(candidates.expected), context).reshape((1, -1)))
    others = others - 1e30 * nd.broadcast_equal(targets.astype("float32").reshape((-1, 1)), ids)
    everything = nd.concat(own.reshape((-1, 1)), others, dim=1)
    return -nd.slice_axis(nd.log_softmax(everything), axis=1, begin=0, end=1).reshape(-1)
