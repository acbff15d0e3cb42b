"""A value is read as its setting takes it: `2024` is a number of epochs or a column's name, `yes` a flag or a label."""

import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from pipeline.config import safe_yaml
from pipeline.config.base import OrNull
from pipeline.config.safe_yaml import Plain
from pipeline.core.errors import InputError

_POSITION = re.compile(r"-?(0|[1-9][0-9]*)")  # where a text may stand too: 007 is an id, +1 a text
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
Kinds = tuple[Any, ...]
Expand = Callable[[str], str]


class Given(str):
    """A setting's text as the command line has it; whether it is YAML or a text depends on the setting."""


def kinds_of(annotation: Any) -> Kinds:
    """What a setting may be: its annotation without what only checks it, a union as its members."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return kinds_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(kind for member in get_args(annotation) for kind in kinds_of(member))
    return (annotation,)


def below(kinds: Kinds, name: str, section: Any) -> Kinds:
    """What the setting `name` of a section may be; of a source whose format is not told, what it is in any format."""
    setting_kinds: list[Any] = []
    for model in _models(kinds, section):
        if name in model.model_fields:
            field = model.model_fields[name]
            setting_kinds += kinds_of(field.annotation)
            if any(isinstance(mark, OrNull) for mark in field.metadata):
                setting_kinds.append(types.NoneType)
    setting_kinds += [kind for own in kinds if get_origin(own) is dict for kind in kinds_of(get_args(own)[1])]
    return tuple(dict.fromkeys(setting_kinds)) or (Any,)


def holds_free_keys(kinds: Kinds) -> bool:
    """Whether a setting is a mapping from any text to single values, so that a dot in a key divides nothing."""
    mappings = [get_args(kind) for kind in kinds if get_origin(kind) is dict]
    return bool(mappings) and all(get_origin(kind) is not dict for _, item in mappings for kind in kinds_of(item))


def at(key: str, kinds: Kinds) -> Kinds:
    """What the setting of a dotted path may be."""
    names = key.split(".")
    while names:
        name = ".".join(names) if holds_free_keys(kinds) else names[0]
        kinds, names = below(kinds, name, None), names[len(name.split(".")) :]
    return kinds


def put(section: dict[str, Any], override: str, kinds: Kinds, example: str) -> None:
    """Sets what a `key=value` names, by its dotted path, in a section that is not read yet.

    Raises:
        InputError: it has no such form, or leads through a value.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r} is not of the form key=value, such as {example}")
    names = key.split(".")
    while len(names) > 1 and not holds_free_keys(kinds):
        name = names.pop(0)
        kinds = below(kinds, name, section)
        child = section.setdefault(name, {})
        if child is None or (isinstance(child, Plain) and safe_yaml.core(child) is None):
            child = section[name] = {}
        if not isinstance(child, dict):
            raise InputError(f"override {override!r}: {name} is a value, not a section")
        section = child
    section[".".join(names)] = Given(text)


def typed(value: Any, kinds: Kinds, expand: Expand = str) -> Any:
    """A value of YAML or of the command line as a setting of one of these kinds takes it.

    What fits none of them comes back as YAML's core schema has it, for whoever checks it to refuse.

    Args:
        expand: what is done with each text.
    """
    if isinstance(value, Given):
        value = _parsed(value, kinds)
    if isinstance(value, dict):
        return {key: typed(item, below(kinds, key, value), expand) for key, item in value.items()}
    if isinstance(value, list):
        items = [kind for own in kinds if get_origin(own) in (tuple, list) for kind in kinds_of(get_args(own)[0])]
        return [typed(item, tuple(items) or (Any,), expand) for item in value]
    if isinstance(value, Plain):
        return _scalar(Plain(expand(value)), kinds)
    return expand(value) if isinstance(value, str) else value


def _parsed(text: Given, kinds: Kinds) -> Any:
    """The YAML that the text of an override is, or the text itself where the setting takes no such thing."""
    try:
        value = safe_yaml.load(text)
    except ValueError:
        return Plain(text.strip())
    wanted = (dict,) if isinstance(value, dict) else (list, tuple) if isinstance(value, list) else ()
    if value is None or isinstance(value, Plain):
        return Plain(text.strip())  # whole: in `a #b` YAML finds a comment
    if wanted and str in kinds and not any(_holds(kind, wanted) for kind in kinds):
        return Plain(text.strip())
    return value


def _holds(kind: Any, origins: tuple[type, ...]) -> bool:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return dict in origins
    return get_origin(kind) in origins


def _models(kinds: Kinds, section: Any) -> list[type[BaseModel]]:
    """The sections that are among the kinds; of the sources, only the one whose format is told."""
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    told = section.get("format") if isinstance(section, dict) and len(models) > 1 else None
    fitting = [model for model in models if told in get_args(model.model_fields["format"].annotation)] if told else []
    return fitting or models


def _scalar(text: Plain, kinds: Kinds) -> Any:
    """The value of a scalar without quotes: the first of null, choice, flag, number, text that the setting may be."""
    if Any in kinds:
        return safe_yaml.core(text)
    if safe_yaml.NULL.fullmatch(text):
        if types.NoneType in kinds:
            return None
        if any(_holds(kind, (dict,)) for kind in kinds):
            return {}  # a section of which everything is left out
    choices = {str(choice): choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)}
    if text in choices:
        return choices[text]
    if bool in kinds and text.lower() in _FLAGS:
        return _FLAGS[text.lower()]
    number = _number(text, kinds)
    if number is not None:
        return number
    return str(text) if str in kinds else safe_yaml.core(text)


def _number(text: Plain, kinds: Kinds) -> int | float | None:
    if int in kinds and (str not in kinds or _POSITION.fullmatch(text)):
        whole = safe_yaml.as_integer(text)
        if whole is not None:
            return whole
    return safe_yaml.as_float(text) if float in kinds else None
