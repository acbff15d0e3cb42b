"""Which examples meet in which update, and which worker gets which of them: pure functions of lengths, seed and epoch.

An epoch is a random permutation of the examples, cut into pools. Each pool is divided into batches of like lengths by
halving it again and again along the side (query or document) where that saves most padding, and the batches are
shuffled. The global batch never depends on the number of workers; a worker gets a contiguous share of it, of about
equal cost.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.core.errors import InputError

# Updates per pool: the more, the less padding; the fewer, the sooner a position in ten million examples is found.
POOL_UPDATES = 128
# Up to so many pools an epoch's updates are counted exactly; beyond, a sample of some pools' size is.
COUNTED_POOLS, SAMPLED_POOLS = 16, 4
DRAWN = 1 << 24  # up to so many examples an epoch's order is drawn and held; beyond, it is computed where it is needed
ROUNDS = 8


class Position(NamedTuple):
    """A place in the order of examples: the next update to run."""

    epoch: int = 0
    pool: int = 0
    batch: int = 0  # within its pool


@dataclass(frozen=True)
class Plan:
    lengths: np.ndarray  # (N, S) whole numbers, tokens of each side of each example
    max_pairs: int  # per update, over all workers
    max_tokens: int  # per update, padded, over all sides and workers
    seed: int

    @property
    def pools(self) -> int:
        return -(-len(self.lengths) // (self.max_pairs * POOL_UPDATES))

    def batches(self, epoch: int, pool: int) -> list[np.ndarray]:
        """The batches of one pool in order, each an array of example numbers sorted by length, last side first."""
        size = len(self.lengths)
        rows = ordered(range(size * pool // self.pools, size * (pool + 1) // self.pools), size, self.seed, epoch)
        parts = self._divide(rows, -(-len(rows) // self.max_pairs))
        shuffled = np.random.default_rng([self.seed, epoch, pool]).permutation(len(parts))
        return [parts[i] for i in shuffled]

    def updates_per_epoch(self) -> int:
        """Exact for small data, else extrapolated from a sample; only the schedule's length rests on it."""
        if self.pools <= COUNTED_POOLS:
            return max(1, sum(len(self.batches(0, pool)) for pool in range(self.pools)))
        # not from an epoch's own order: drawing one of ten million is most of what finding a place takes
        size = self.max_pairs * POOL_UPDATES
        sample = np.random.default_rng(self.seed).integers(len(self.lengths), size=(SAMPLED_POOLS, size))
        batches = sum(len(self._divide(rows, POOL_UPDATES)) for rows in sample)
        return round(batches * len(self.lengths) / sample.size)

    def _divide(self, rows: np.ndarray, parts: int) -> list[np.ndarray]:
        lengths = self.lengths[rows].astype(np.int32)
        if parts <= 1:
            if len(rows) == 1 or _padded(lengths) <= self.max_tokens:
                return [rows[np.lexsort(lengths.T)]]
            parts = 2
        left = parts // 2
        cut = round(len(rows) * left / parts)
        best = None
        for side in range(lengths.shape[1]):
            order = np.argsort(lengths[:, side], kind="stable")
            cost = _padded(lengths[order[:cut]]) + _padded(lengths[order[cut:]])
            # the other sides' spread is dealt with further down: compare what is left over after this cut alone
            waste = sum(
                _spread(lengths[order[part], s])
                for part in (slice(0, cut), slice(cut, None))
                for s in range(lengths.shape[1])
            )
            if best is None or (waste, cost) < best[0]:
                best = ((waste, cost), order)
        assert best is not None
        order = best[1]
        return self._divide(rows[order[:cut]], left) + self._divide(rows[order[cut:]], parts - left)


@dataclass(frozen=True)
class StreamPlan:
    """The order of a task that reads on: at each update the next segment of all streams, from their beginning on."""

    lengths: np.ndarray  # (segments * streams, S)
    streams: int
    seed: int

    @property
    def pools(self) -> int:
        return -(-self.updates_per_epoch() // POOL_UPDATES)

    def batches(self, epoch: int, pool: int) -> list[np.ndarray]:
        """The segments of one pool in order, each of them all streams' examples in the streams' order."""
        last = min((pool + 1) * POOL_UPDATES, self.updates_per_epoch())
        return [np.arange(s * self.streams, (s + 1) * self.streams) for s in range(pool * POOL_UPDATES, last)]

    def updates_per_epoch(self) -> int:
        return len(self.lengths) // self.streams


def ordered(places: range, examples: int, seed: int, epoch: int) -> np.ndarray:
    """(n,) int32: the example numbers that stand at some places of an epoch's order, a permutation of all of them."""
    if examples <= DRAWN:
        return _drawn(examples, seed, epoch)[places.start : places.stop]
    return computed(np.arange(places.start, places.stop), examples, np.random.default_rng([seed, epoch]))


@functools.lru_cache(maxsize=1)  # one epoch's: drawing it for each pool would take a third of a second of ten million
def _drawn(examples: int, seed: int, epoch: int) -> np.ndarray:
    """(N,) int32: the whole order, shuffled."""
    order = np.arange(examples, dtype=np.int32)
    np.random.default_rng([seed, epoch]).shuffle(order)
    return order


def computed(places: np.ndarray, examples: int, rng: np.random.Generator) -> np.ndarray:
    """As `ordered`, without the memory and the time that an order of all takes.

    A generalised Feistel cipher (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): a place is two
    digits of base `side`; each round adds to one of them what is mixed of the other, so that it can be undone. What
    comes out beyond the last example is put in again until it is an example.
    """
    side = np.uint64(math.isqrt(examples - 1) + 1)
    keys = rng.integers(2**64, size=ROUNDS, dtype=np.uint64)
    found, left = places.astype(np.uint64), np.arange(len(places))
    while len(left):
        high, low = np.divmod(found[left], side)
        for key in keys:
            high, low = low, (high + _mixed(low ^ key) % side) % side
        found[left] = high * side + low
        left = left[found[left] >= examples]
    return found.astype(np.int32)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """The finisher of SplitMix64 (Steele et al. 2014): each bit of a uint64 depends on all."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)


def _padded(lengths: np.ndarray) -> int:
    """Cells of the padded arrays: for each side, rows times the longest."""
    return int(len(lengths) * lengths.max(axis=0).sum())


def _spread(lengths: np.ndarray) -> float:
    """Tokens by which lengths differ from their middle one: small when little padding remains after further cuts."""
    return float(np.abs(lengths - np.median(lengths)).sum())


def shares(batch: np.ndarray, lengths: np.ndarray, workers: int, parts: int = 1) -> list[np.ndarray]:
    """Cuts a global batch into one contiguous share per worker, or several `parts` for each, of about equal cost.

    Args:
        batch: example numbers in the plan's order.
        lengths: (N, S) of all examples.

    Returns:
        workers * parts arrays, worker by worker, none of them empty, that concatenate to `batch`.

    Raises:
        InputError: fewer examples than shares.
    """
    size = workers * parts
    if len(batch) < workers:
        raise InputError(
            f"an update of {len(batch)} examples cannot be shared by {workers} workers: lower train.workers"
        )
    if len(batch) < size:
        raise InputError(
            f"an update of {len(batch)} examples cannot be divided into {parts} parts for each of {workers} workers: "
            "lower train.accumulate"
        )
    cost = np.cumsum(lengths[batch].sum(axis=1, dtype=np.int64))
    cuts = np.searchsorted(cost, cost[-1] * np.arange(1, size) / size) + 1
    first, last = np.arange(1, size), len(batch) - np.arange(size - 1, 0, -1)  # leave each worker an example
    cuts = np.maximum.accumulate(np.clip(cuts, first, last) - first) + first
    return np.split(batch, cuts)
