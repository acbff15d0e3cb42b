"""What clicks tell of relevance, apart from where a result stood: click models, fitted by EM over a log on disk.

A result that is not clicked may be bad, or it was never looked at. A click model has both as hidden causes. The
position model (Chuklin, Markov and de Rijke, Click Models for Web Search, 2015, section 3.2) has a chance of being
looked at for each place. The cascade model is the dynamic Bayesian network of Chapelle and Zhang, 2009: people look
from the top on, click what attracts, and stop when they are satisfied or give up.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np

MOST_SHOWN = 100  # results of one list
_CHUNK = 1 << 15  # lists of results that are held at once
_SETTLED = 1e-4  # the largest change of a chance, by which the fit ends
_PRIOR_VIEWS = 20  # as if each place had been shown so often more and looked at by 1/place: for logs of a few lists
_NEVER, _ALWAYS = 1e-6, 1 - 1e-6


class Fit(NamedTuple):
    """What a model says of P pairs of a query and a document and of K places."""

    relevance: np.ndarray  # (P,) float64: chance of a click when looked at; cascade: and of being satisfied by it
    views: np.ndarray  # (P,) int64: how often it was shown
    clicks: np.ndarray  # (P,) int64
    examination: np.ndarray  # (K,) float64: chance that a place is looked at
    iterations: int


class Impressions:
    """Lists of results, each with which of its pairs were clicked, in files without a name in a folder."""

    def __init__(self, folder: Path) -> None:
        self._pairs, self._clicks, self._lengths = (TemporaryFile(dir=folder) for _ in range(3))  # noqa: SIM115
        self.count = 0
        self.pairs = 0  # P: one more than the largest

    def add(self, pairs: list[int], clicked: list[bool]) -> None:
        """One list of 1 to MOST_SHOWN results, from the top."""
        self._pairs.write(np.array(pairs, np.int64).tobytes())
        self._clicks.write(np.array(clicked, np.uint8).tobytes())
        self._lengths.write(np.array([len(pairs)], np.uint8).tobytes())
        self.count += 1
        self.pairs = max(self.pairs, max(pairs) + 1)

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Some lists at a time: (n, K) int64 pairs, (n, K) bool clicks and (n, K) bool what is no padding."""
        for file in (self._pairs, self._clicks, self._lengths):
            file.flush()
            file.seek(0)
        while size := np.frombuffer(self._lengths.read(_CHUNK), np.uint8).astype(np.int64).tolist():
            lengths = np.array(size)
            mask = np.arange(lengths.max()) < lengths[:, None]
            pairs, clicks = np.zeros(mask.shape, np.int64), np.zeros(mask.shape, bool)
            pairs[mask] = np.frombuffer(self._pairs.read(8 * int(lengths.sum())), np.int64)
            clicks[mask] = np.frombuffer(self._clicks.read(int(lengths.sum())), np.uint8)
            yield pairs, clicks, mask

    def close(self) -> None:
        for file in (self._pairs, self._clicks, self._lengths):
            file.close()


class _Counts(NamedTuple):
    """What every model begins with."""

    views: np.ndarray  # (P,) int64
    clicks: np.ndarray  # (P,) int64
    place_views: np.ndarray  # (MOST_SHOWN,) int64
    place_clicks: np.ndarray  # (MOST_SHOWN,) int64

    @property
    def rate(self) -> float:
        return float(self.clicks.sum() / max(1, self.views.sum()))


def _count(log: Impressions) -> _Counts:
    counts = _Counts(*(np.zeros(size, np.int64) for size in (log.pairs, log.pairs, MOST_SHOWN, MOST_SHOWN)))
    for pairs, clicks, mask in log.chunks():
        np.add.at(counts.views, pairs[mask], 1)
        np.add.at(counts.clicks, pairs[clicks], 1)
        counts.place_views[: mask.shape[1]] += mask.sum(0)
        counts.place_clicks[: mask.shape[1]] += clicks.sum(0)
    return counts


def _smoothed(counts: np.ndarray, totals: np.ndarray, smoothing: float) -> np.ndarray:
    """Shares, each as if it had been seen `smoothing` times more at the mean of all."""
    mean = counts.sum() / max(totals.sum(), 1e-12)
    return np.clip((counts + smoothing * mean) / np.maximum(totals + smoothing, 1e-12), _NEVER, _ALWAYS)


def click_through_rate(log: Impressions, smoothing: float, iterations: int) -> Fit:
    """The share of its views that a pair was clicked: no model of what is looked at."""
    counts = _count(log)
    places = int(np.count_nonzero(counts.place_views))
    relevance = _smoothed(counts.clicks.astype(float), counts.views.astype(float), smoothing)
    return Fit(relevance, counts.views, counts.clicks, np.ones(places), 0)


def position(log: Impressions, smoothing: float, iterations: int) -> Fit:
    """The position model: P(click) = P(its place is looked at) · P(it attracts), the best place looked at always."""
    counts = _count(log)
    places = int(np.count_nonzero(counts.place_views))
    shown_at, clicked_at = counts.place_views[:places].astype(float), counts.place_clicks[:places].astype(float)
    prior = _PRIOR_VIEWS / np.arange(1, places + 1)
    looked = _smoothed(clicked_at, shown_at, 1.0)
    looked = np.clip(looked / looked.max(), _NEVER, 1)
    attracts = np.full(log.pairs, min(0.5, max(_NEVER, counts.rate)))
    done = 0
    for done in range(1, iterations + 1):  # noqa: B007
        seen, seen_at = np.zeros(log.pairs), np.zeros(places)
        for pairs, clicks, mask in log.chunks():
            at, a = looked[: mask.shape[1]], attracts[pairs]
            # not clicked: looked at all the same, with a chance of g (1 - a) / (1 - g a)
            chance = np.where(clicks, 1.0, at * (1 - a) / np.maximum(1 - at * a, _NEVER)) * mask
            np.add.at(seen, pairs[mask], chance[mask])
            seen_at[: mask.shape[1]] += chance.sum(0)
        new = (seen_at + prior) / (shown_at + _PRIOR_VIEWS)
        new = np.clip(new / new.max(), _NEVER, 1)
        attracts = _smoothed(counts.clicks.astype(float), seen, smoothing)
        change, looked = np.abs(new - looked).max(), new
        if change < _SETTLED:
            break
    return Fit(attracts, counts.views, counts.clicks, looked, done)


def cascade(log: Impressions, smoothing: float, iterations: int) -> Fit:
    """The dynamic Bayesian network: looked at from the top on, until a clicked result satisfies or one gives up."""
    counts = _count(log)
    places = int(np.count_nonzero(counts.place_views))
    clicked = counts.clicks.astype(float)
    attracts = np.full(log.pairs, min(0.5, max(_NEVER, counts.rate)))
    satisfies, goes_on = np.full(log.pairs, 0.5), 0.9
    examination = np.ones(places)
    done = 0
    for done in range(1, iterations + 1):  # noqa: B007
        seen, satisfied, seen_at = np.zeros(log.pairs), np.zeros(log.pairs), np.zeros(places)
        went_on = could = 0.0
        for pairs, clicks, mask in log.chunks():
            looked, content, steps = _cascade_step(attracts[pairs], satisfies[pairs], goes_on, clicks, mask)
            np.add.at(seen, pairs[mask], looked[mask])
            np.add.at(satisfied, pairs[clicks], content[clicks])
            seen_at[: mask.shape[1]] += looked.sum(0)
            went_on, could = went_on + steps[0], could + steps[1]
        new = float(np.clip(went_on / max(could, 1e-12), _NEVER, _ALWAYS))
        change = abs(new - goes_on)
        goes_on = new
        attracts, before = _smoothed(clicked, seen, smoothing), attracts
        satisfies = _smoothed(satisfied, clicked, smoothing)
        examination = seen_at / counts.place_views[:places]
        if max(change, np.abs(attracts - before).max(initial=0)) < _SETTLED:
            break
    return Fit(attracts * satisfies, counts.views, counts.clicks, examination, done)


def _cascade_step(
    a: np.ndarray, s: np.ndarray, goes_on: float, clicks: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """The expected hidden causes of (n, K) results.

    Returns:
        (n, K) chance that each was looked at; (n, K) that a clicked one satisfied; and how often people went on to the
        next result, and how often they could have.
    """
    n, places = clicks.shape
    number = np.arange(places)
    last = np.where(clicks.any(1), places - 1 - np.argmax(clicks[:, ::-1], 1), -1)[:, None]
    # quiet[:, i]: the chance that nothing is clicked from i on, if i is looked at
    quiet = np.ones((n, places + 1))
    for i in range(places - 1, -1, -1):
        further = (1 - goes_on) + goes_on * quiet[:, i + 1]
        quiet[:, i] = np.where(mask[:, i], (1 - a[:, i]) * further, 1.0)
    looked, content = np.zeros((n, places)), np.zeros((n, places))
    went_on = could = 0.0
    before = np.ones(n)  # that the place is looked at, given all that was and was not clicked
    for i in range(places):
        here = mask[:, i]
        looked[:, i] = before * here
        more = here & (mask[:, i + 1] if i + 1 < places else np.zeros(n, bool))
        further = (1 - goes_on) + goes_on * quiet[:, i + 1]
        at_last = (number[i] == last[:, 0]) & clicks[:, i]
        earlier = number[i] < last[:, 0]
        total = s[:, i] + (1 - s[:, i]) * further
        content[:, i] = np.where(at_last, s[:, i] / total, 0.0)
        able = np.where(earlier, 1.0, np.where(at_last, 1 - content[:, i], before)) * here
        step = np.where(earlier, 1.0, able * goes_on * quiet[:, i + 1] / np.maximum(further, 1e-12))
        went_on += float((step * more).sum())
        could += float((able * more).sum())
        before = step
    return looked, content, (went_on, could)


MODELS: dict[str, Callable[[Impressions, float, int], Fit]] = {
    "position": position,
    "cascade": cascade,
    "clicks": click_through_rate,
}
