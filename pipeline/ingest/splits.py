"""Which split a group of rows belongs to: a pure function, the same on any machine."""

import hashlib
from collections.abc import Collection

from pipeline.config import SplitShares
from pipeline.config.sources import SplitName


def split_of(group: str, seed: int, shares: SplitShares) -> SplitName:
    """The split of a group by a hash of seed and group: test takes [0, test), valid the next part, train the rest.

    Test comes first so that changing the share of valid leaves the test split as it was.

    >>> [split_of(group, 1, SplitShares(valid=0.25, test=0.25)) for group in ("a", "b", "c", "d", "e")]
    ['test', 'valid', 'valid', 'train', 'test']
    """
    digest = hashlib.sha256(f"{seed}\x00{group}".encode("utf-8", "surrogatepass")).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    if fraction < shares.test:
        return "test"
    return "valid" if fraction < shares.test + shares.valid else "train"


def shares_to_cut(
    file_split: SplitName | None, file_splits: Collection[SplitName | None], shares: SplitShares
) -> SplitShares:
    """What to cut out of one file: from train what no other file gives, from a file of no split both, else nothing."""
    if file_split is None:
        return shares
    if file_split != "train":
        return SplitShares(valid=0, test=0)
    return SplitShares(
        valid=0 if "valid" in file_splits else shares.valid, test=0 if "test" in file_splits else shares.test
    )
