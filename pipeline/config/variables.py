"""`${NAME}` in settings: the one way to take a value from the environment. `$NAME` is text, and `$${` writes `${`."""

import os
import re
from collections.abc import Mapping

from pipeline.core.errors import InputError

_FOUND = re.compile(r"(?P<escaped>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|(?P<broken>\$\{)")


def names(text: str) -> list[str]:
    """The variables that a text takes from the environment, in their order.

    >>> names("${A}/$B/$${C}/${D}")
    ['A', 'D']
    """
    return [match["name"] for match in _FOUND.finditer(text) if match["name"]]


def expand(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text with the variables' values; what stands in a value is not looked at again.

    Raises:
        InputError: a variable is not set, or ${ begins none.

    >>> expand("${A}/$B/$${C}", {"A": "${B}", "B": "b"})
    '${B}/$B/${C}'
    """

    def value(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "${"
        name = match["name"]
        if not name:
            raise InputError(f"{text!r}: write ${{NAME}} with a variable's name, or $${{ for the text ${{")
        if name not in environment:
            raise InputError(f"{text!r} needs the environment variable {name}: set it, e.g. export {name}=/path")
        return environment[name]

    return _FOUND.sub(value, text)


def escaped(text: str) -> str:
    """The text, written so that `expand` gives it back.

    >>> expand(escaped("a ${B}"), {})
    'a ${B}'
    """
    return text.replace("${", "$${")
