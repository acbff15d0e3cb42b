"""Names for places that hold the things of many roots and people: a crontab, a namespace, a folder, a queue.

A name has a readable part in plain ASCII, and a short hash of all that makes the thing what it is. So it fits wherever
letters, digits and hyphens do, and two things share a name only if they are the same.
"""

import argparse
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core import atomic_files

HASH = 8  # hex digits: among 1,000 things of one readable part, two alike by a chance of 1 in 9,000


def dotted(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What nested objects hold, by dotted path; an empty object is a value too.

    >>> list(dotted({"model": {"cell": "lstm", "layers": 2}}))
    [('model.cell', 'lstm'), ('model.layers', 2)]
    """
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from dotted(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def slug(text: str, most: int = 40, empty: str = "unnamed") -> str:
    """The readable part: at most `most` lower-case letters, digits and single hyphens; `empty` where nothing is left.

    It is lossy: use `unique` for anything that must stay apart from others.

    >>> slug("Kundendienst für 2026"), slug("问答")
    ('kundendienst-fur-2026', 'unnamed')
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:most].strip("-") or empty[:most]


def unique(text: str, *identity: str, most: int = 63, empty: str = "unnamed") -> str:
    """A readable name of at most `most` characters that differs wherever `text` or a part of `identity` does.

    Args:
        text: what people call it; identity: what else tells it from others, such as its root and configuration.

    >>> unique("问答", "/runs") != unique("搜索", "/runs") != unique("搜索", "/other")
    True
    >>> unique("Customer support", "/runs", most=20)
    'customer-su-019f8364'
    """
    return f"{slug(text, most - HASH - 1, empty)}-{atomic_files.digest([text, *identity])[:HASH]}"


def copy_of(address: str) -> Path:
    """The folder on this machine that is the copy of a root at an address."""
    above = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = Path(os.environ.get("DUPLET_CACHE") or f"{above}/duplet").expanduser()
    return cache / "roots" / unique(address.rstrip("/"))


def root_here(text: str) -> Path:
    """As `path_here`, for a root of a command line; the sentence says where the copy of one at an address is."""
    try:
        return atomic_files.path_here(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; the copy of that root is {copy_of(text)}") from None


def within(name: str, most: int) -> str:
    """A name that is made of letters, digits and hyphens, as it is where it fits; else cut, with a hash of the whole.

    >>> within("faq-20261124", 20), len(within("a" * 60, 52))
    ('faq-20261124', 52)
    """
    return name if len(name) <= most else f"{name[: most - HASH - 1].rstrip('-')}-{atomic_files.digest(name)[:HASH]}"
