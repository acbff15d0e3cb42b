"""Cutting the texts of a batch into chunks of like lengths, so that little of what is computed is padding."""

import numpy as np

# What a chunk costs beside its cells, in rows: the kernels' work per time step that does not depend on the rows.
ROWS_PER_STEP = 4


def chunk_cuts(lengths: np.ndarray) -> np.ndarray:
    """Where to cut (n,) ascending lengths so that the sum over chunks of (rows + ROWS_PER_STEP) * longest is least.

    Exact, by dynamic programming over the n places, O(n^2) numpy operations on at most n values.

    >>> chunk_cuts(np.array([2, 2, 3, 3, 3, 90, 100, 100]))
    array([5])
    """
    n = len(lengths)
    longest = lengths.astype(np.int64)
    best = np.zeros(n + 1, np.int64)  # of the first i texts
    start = np.zeros(n + 1, np.int64)  # of the last chunk of the first i texts
    for end in range(1, n + 1):
        costs = best[:end] + (end - np.arange(end) + ROWS_PER_STEP) * longest[end - 1]
        start[end] = int(costs.argmin())
        best[end] = costs[start[end]]
    cuts, end = [], n
    while end > 0 and start[end] > 0:
        end = int(start[end])
        cuts.append(end)
    return np.array(cuts[::-1], np.int64)


def chunked_cells(lengths: np.ndarray, cuts: np.ndarray) -> int:
    """Cells of the padded chunks of ascending lengths: for each, rows times the longest.

    >>> chunked_cells(np.array([2, 2, 3, 3, 3, 90, 100, 100]), np.array([5]))
    315
    """
    return int(sum(len(part) * part[-1] for part in np.split(lengths, cuts) if len(part)))
