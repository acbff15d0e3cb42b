"""YAML that people write: plain values only. No tag builds an object, and no alias unfolds to gigabytes.

What a scalar without quotes stands for is left open here (`Plain`), since it depends on the setting: `2024` is a number
of epochs, and a column's name. `core` gives what YAML 1.2's core schema makes of it: `1e-3` is a number, `yes`, `2:8`
and `2024-01-01` are texts, and `010` is ten.
"""

import re
from typing import Any

import yaml

from pipeline.core.errors import one_line

MAX_CHARACTERS = 1 << 16  # some twenty times the longest configuration
MAX_VALUES = 100_000  # with every alias written out
NULL = re.compile(r"null|Null|NULL|~|")
TRUE, FALSE = re.compile(r"true|True|TRUE"), re.compile(r"false|False|FALSE")
INTEGER = re.compile(r"[-+]?[0-9]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_YAML = "tag:yaml.org,2002:"
_PLAIN = "tag:duplet,2026:plain"


class Plain(str):
    """A scalar as it was written, without quotes and without a tag."""


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with keys as written, each once, and scalars without quotes as `Plain`."""

    yaml_implicit_resolvers = {
        "<": [(f"{_YAML}merge", re.compile(r"<<$"))],
        None: [(_PLAIN, re.compile(r""))],
    }

    def get_single_node(self) -> Any:
        node: Any = super().get_single_node()
        if node is not None and _values(node, {}) > MAX_VALUES:
            raise ValueError(f"its aliases unfold to more than {MAX_VALUES:,} values")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a text", key.start_mark)
            if key.value in names and key.tag != f"{_YAML}merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice in one section", key.start_mark
                )
            names.add(key.value)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(item, deep=deep) for key, item in node.value}

    def tagged(self, node: Any) -> Any:
        """The value of a scalar with one of the core schema's tags. Raises ValueError where it does not fit."""
        value, tag = core(Plain(self.construct_scalar(node))), node.tag.removeprefix(_YAML)
        if isinstance(value, int) and not isinstance(value, bool) and tag == "float":
            return float(value)
        if {bool: "bool", int: "int", float: "float", type(None): "null"}.get(type(value)) != tag:
            raise ValueError(f"{node.value!r} is a value that its tag !!{tag} does not fit")
        return value


PlainLoader.yaml_constructors = {
    _PLAIN: lambda loader, node: Plain(node.value),
    f"{_YAML}str": PlainLoader.construct_yaml_str,
    f"{_YAML}seq": PlainLoader.construct_yaml_seq,
    f"{_YAML}map": PlainLoader.construct_yaml_map,
    None: PlainLoader.construct_undefined,
    **{_YAML + tag: PlainLoader.tagged for tag in ("null", "bool", "int", "float")},
}


def load(text: str) -> Any:
    """The value of a document: dict with texts as keys, list, str, or `Plain`; None where there is nothing.

    Raises:
        ValueError: it is not valid YAML, has a tag, or is too large or too deep; one line.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{len(text):,} characters are more than {MAX_CHARACTERS:,}")
    try:
        return yaml.load(text, PlainLoader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        raise ValueError(_sentence(error)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(one_line(error)) from None


def core(value: Any) -> Any:
    """The value with each `Plain` in it as the core schema of YAML 1.2 takes it.

    >>> [core(Plain(text)) for text in ("1e-3", "010", "yes", "true", "~", "2:8", "0x1F", "1_000")]
    [0.001, 10, 'yes', True, None, '2:8', 31, '1_000']
    """
    if isinstance(value, dict):
        return {key: core(item) for key, item in value.items()}
    if isinstance(value, list):
        return [core(item) for item in value]
    if not isinstance(value, Plain):
        return value
    if NULL.fullmatch(value):
        return None
    if TRUE.fullmatch(value) or FALSE.fullmatch(value):
        return bool(TRUE.fullmatch(value))
    for read in (as_integer, as_float):
        number = read(value)
        if number is not None:
            return number
    return str(value)


def as_integer(text: str) -> int | None:
    """The whole number that a text writes out (decimal, 0o octal, 0x hexadecimal); None: it writes out none."""
    try:
        if INTEGER.fullmatch(text):
            return int(text)
        return int(text, 0) if re.fullmatch(r"0o[0-7]+|0x[0-9a-fA-F]+", text) else None
    except ValueError:  # of more digits than Python reads
        return None


def as_float(text: str) -> float | None:
    """The number that a text writes out, with a point or not; None: it writes out none."""
    if not FLOAT.fullmatch(text):
        return None
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _sentence(error: yaml.MarkedYAMLError) -> str:
    """What the parser found, with its line and column."""
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    context = f" ({error.context})" if error.context else ""
    return one_line(f"{where}{error.problem or 'not understood'}{context}")


def _values(node: Any, known: dict[int, int]) -> int:
    """How many values a node has when every alias is written out, each node being looked at once.

    Raises:
        ValueError: an alias stands within what it stands for.
    """
    if known.get(id(node)) == 0:
        raise ValueError("an alias holds itself")
    if id(node) not in known:
        known[id(node)] = 0
        children = node.value if isinstance(node.value, list) else []
        parts = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]
