"""A running mean of the parameters: validation judges it and a training keeps it; updates go on from the last ones.

Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the weights are those of an
exponential mean whose decay rises with the updates, so that the random start does not linger: after update i the mean
is d_i * mean + (1 - d_i) * parameters with d_i = min(decay, (1 + i) / (10 + i)).

An embedding row that no update touches stays what it is, and its mean moves towards it. That is done when it is needed:
for each row the update is noted up to which its mean is right, and the decays since are made up for at once.
"""

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
from mxnet import nd

from pipeline.models.devices import put

EMBEDDING = "embedding"  # the table that is updated row by row
MEAN, SEEN = "mean:", "mean's updates"  # names in a checkpoint


class Decays:
    """What is left of a mean's old value after some updates."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        rising = np.arange(max(0, int(np.ceil((10 * decay - 1) / (1 - decay)))), dtype=np.float64)
        self._logs = np.concatenate([[0.0], np.cumsum(np.log((1 + rising) / (10 + rising)))])

    def of(self, update: int) -> float:
        """d of update 0, 1, …

        >>> [round(Decays(0.5).of(update), 3) for update in (0, 1, 7, 8, 9)]
        [0.1, 0.182, 0.471, 0.5, 0.5]
        """
        return min(self.decay, (1 + update) / (10 + update))

    def between(self, since: np.ndarray, update: int) -> np.ndarray:
        """Of means that were right after `since` updates: the product of the decays up to `update`, (N,) float64."""
        return np.asarray(np.exp(self._log(np.asarray(update)) - self._log(since)))

    def _log(self, updates: np.ndarray) -> np.ndarray:
        risen = len(self._logs) - 1
        constant = np.maximum(updates - risen, 0) * np.log(self.decay)
        return np.asarray(self._logs[np.minimum(updates, risen)] + constant)


class Averages:
    """The means of an optimizer's arrays.

    Args:
        arrays: what is trained, by name, on one device; `embedding` is updated row by row, the others whole.
        decay: between 0 and 1.
    """

    def __init__(self, arrays: Mapping[str, nd.NDArray], decay: float) -> None:
        self.arrays = dict(arrays)
        self.decays = Decays(decay)
        self.means = {name: array.copy() for name, array in arrays.items()}
        rows = len(arrays[EMBEDDING]) if EMBEDDING in arrays else 0
        self.seen = np.zeros(rows, np.int32)  # the updates up to which each row's mean is right

    def before(self, tokens: np.ndarray, index: nd.NDArray, rows: nd.NDArray, update: int) -> nd.NDArray:
        """The means of the rows that an update is about to change, right up to it.

        Args:
            tokens, index: (U,) the rows' numbers, on the host and on the device.
            rows: (U, E) the rows as they are.
            update: 0, 1, …
        """
        return _made_up(nd.take(self.means[EMBEDDING], index), rows, self.decays.between(self.seen[tokens], update))

    def after(self, tokens: np.ndarray | None, index: nd.NDArray | None, old: nd.NDArray | None, update: int) -> None:
        """Takes in what an update made; `old` is what `before` gave."""
        left = self.decays.of(update)
        for name, array in self.arrays.items():
            if name != EMBEDDING:
                _move(self.means[name], array, left)
        if old is not None:
            _move(old, nd.take(self.arrays[EMBEDDING], index), left)
            put(self.means[EMBEDDING], index, old)
            self.seen[tokens] = update + 1

    def now(self, updates: int) -> dict[str, nd.NDArray]:
        """The means after so many updates. It changes nothing, so that it may be asked for at any time."""
        means = dict(self.means)
        if EMBEDDING in means:
            left = self.decays.between(self.seen, updates)
            means[EMBEDDING] = _made_up(means[EMBEDDING].copy(), self.arrays[EMBEDDING], left)
        return means

    @contextlib.contextmanager
    def in_place(self, updates: int) -> Iterator[None]:
        """While entered, the network's parameters are the means; afterwards they are, bit for bit, what they were."""
        originals = {name: array.copy() for name, array in self.arrays.items()}
        try:
            for name, mean in self.now(updates).items():
                self.arrays[name][:] = mean
            yield
        finally:
            for name, array in originals.items():
                self.arrays[name][:] = array

    def state(self) -> dict[str, np.ndarray]:
        """All that going on needs, as named arrays."""
        return {f"{MEAN}{name}": mean.asnumpy() for name, mean in self.means.items()} | {SEEN: self.seen.copy()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes what `state` gave."""
        for name, mean in self.means.items():
            mean[:] = state[f"{MEAN}{name}"]
        self.seen[:] = state[SEEN]


def judged(
    parameters: dict[str, np.ndarray], state: Mapping[str, np.ndarray], decay: float, updates: int
) -> dict[str, np.ndarray]:
    """What validation judged: a checkpoint's parameters, or their means where it keeps them."""
    arrays = dict(parameters)
    for name in parameters:
        if f"{MEAN}{name}" in state:
            arrays[name] = state[f"{MEAN}{name}"]
    if decay and EMBEDDING in parameters and len(state[SEEN]):
        left = Decays(decay).between(state[SEEN], updates)
        arrays[EMBEDDING] = _made_up(nd.array(arrays[EMBEDDING]), nd.array(parameters[EMBEDDING]), left).asnumpy()
    return arrays


def _move(mean: nd.NDArray, value: nd.NDArray, left: float) -> None:
    """mean = left * mean + (1 - left) * value, in place; where both are equal nothing changes."""
    nd.sgd_update(mean, mean - value, lr=1 - left, wd=0.0, out=mean)


def _made_up(means: nd.NDArray, rows: nd.NDArray, left: np.ndarray) -> nd.NDArray:
    """(U, E) means of rows that did not change while (U,) shares of the old means were left."""
    return rows + nd.broadcast_mul(means - rows, nd.array(left, means.context).expand_dims(1))
