"""YAML that people write: plain values only. No tag builds an object, and no alias unfolds to gigabytes."""

from typing import Any

import yaml

from pipeline.errors import one_line

MAX_CHARACTERS = 1 << 16  # some twenty times the longest configuration
MAX_VALUES = 100_000  # with every alias written out


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a document that is small only because its aliases repeat."""

    def get_single_node(self) -> Any:
        node: Any = super().get_single_node()
        if node is not None and _values(node, {}) > MAX_VALUES:
            raise ValueError(f"its aliases unfold to more than {MAX_VALUES:,} values")
        return node


def load(text: str, loader: type[PlainLoader] = PlainLoader) -> Any:
    """The value of a document.

    Raises:
        ValueError: it is no YAML, has a tag, or is too large or too deep; one line.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{len(text):,} characters are more than {MAX_CHARACTERS:,}")
    try:
        return yaml.load(text, loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        raise ValueError(_sentence(error)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(one_line(error)) from None
    except (
        LookupError,
        AttributeError,
        TypeError,
    ) as error:  # of values that are not what their own tag says: !!int ''
        raise ValueError(f"a value that its tag does not fit ({type(error).__name__})") from None


def _sentence(error: yaml.MarkedYAMLError) -> str:
    """What the parser found, with its line and column."""
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    context = f" ({error.context})" if error.context else ""
    return one_line(f"{where}{error.problem or 'not understood'}{context}")


def value(text: str, loader: type[PlainLoader] = PlainLoader) -> Any:
    """What a setting's text on the command line stands for: its YAML value, or the text itself where it is none."""
    try:
        return load(text, loader)
    except ValueError:
        return text


def _values(node: Any, known: dict[int, int]) -> int:
    """How many values a node has when every alias is written out, each node being looked at once.

    A node that holds itself counts once here; whoever walks over its value has to notice.
    """
    if id(node) not in known:
        known[id(node)] = 1
        children = node.value if isinstance(node.value, list) else []
        parts = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]
