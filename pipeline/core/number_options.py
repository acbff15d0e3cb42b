"""Numbers of a command line: the types of options, each with its bounds, so that a wrong one is told at once."""

import argparse
import math
from collections.abc import Callable


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes a whole number within these bounds, both included.

    >>> whole(0, 9)("7")
    7
    >>> whole(0, 9)("10")
    Traceback (most recent call last):
    ...
    argparse.ArgumentTypeError: must be a whole number from 0 to 9, not '10'
    """
    bounds = f"of at least {least:,}" if most is None else f"from {least:,} to {most:,}"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"must be a whole number {bounds}, not {text!r}")
        return value

    return read


count = whole(1)
seed = whole(0, 2**31 - 1)  # as the configuration's; NumPy and MXNet take no more
port = whole(0, 2**16 - 1)


def positive(text: str) -> float:
    """A number above 0. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value
