"""What each setting means, as a list for the terminal and as docs/settings.md; both from the models' JSON Schema."""

import difflib
import json
import textwrap
from typing import Any, NamedTuple

from pydantic.json_schema import GenerateJsonSchema

from pipeline.config.base import Settings
from pipeline.core.errors import InputError

Schema = dict[str, Any]
TYPES = {"boolean": "true or false", "integer": "whole number", "number": "number", "string": "text", "null": "null"}
SOURCE = "ingest.source"
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


class AsWritten(GenerateJsonSchema):
    """Keeps the keys of examples in the order in which they are written."""

    def sort(self, value: Any, parent_key: str | None = None) -> Any:
        return value


class Setting(NamedTuple):
    path: str
    values: str  # what it may be
    default: str  # "required" without one
    description: str
    examples: tuple[str, ...]
    keys: bool = False  # a mapping, whose keys are names of the person's own


class Section(NamedTuple):
    path: str  # "" of the whole
    formats: tuple[str, ...]  # of a source: the formats that have these settings; else empty
    description: str
    settings: tuple[Setting, ...]

    @property
    def title(self) -> str:
        """Its path, with the formats of a source."""
        return self.path + (f" ({', '.join(self.formats)})" if self.formats else "")


def sections(model: type[Settings], path: str = "") -> list[Section]:
    """The sections of a model, each with its own settings, in the order in which they are written."""
    whole = model.model_json_schema(schema_generator=AsWritten)
    return list(_sections(whole, whole.get("$defs", {}), path, ()))


def _sections(schema: Schema, models: Schema, path: str, formats: tuple[str, ...]) -> list[Section]:
    own, below = [], []
    for name, field in schema["properties"].items():
        where = f"{path}.{name}" if path else name
        kinds = _formats(field, models)
        if kinds:
            for names, section in kinds:
                below += _sections(section, models, where, names)
        elif "$ref" in field:
            below += _sections(_model(field["$ref"], models), models, where, formats)
        else:
            own.append(_setting(where, field, models, name in schema.get("required", [])))
    return [Section(path, formats, _line(schema.get("description", "")), tuple(own)), *below]


def _model(reference: str, models: Schema) -> Schema:
    model: Schema = models[reference.rpartition("/")[2]]
    return model


def _formats(field: Schema, models: Schema) -> list[tuple[tuple[str, ...], Schema]]:
    """The models of a source with the formats that each is for; none of another setting."""
    source_models = [_model(member["$ref"], models) for member in field.get("oneOf", ())]
    told = [model["properties"]["format"] for model in source_models]
    return [
        (tuple(format_field.get("enum", [format_field.get("const")])), model)
        for format_field, model in zip(told, source_models)
    ]


def _setting(path: str, field: Schema, models: Schema, required: bool) -> Setting:
    description = field.get("description", "")
    default = "required" if required else _shown(field.get("default"))
    if "Default: " in description:  # it rests on other settings
        default = "see text"
    examples = tuple(_shown(example) for example in field.get("examples", ()))
    return Setting(path, _values(field), default, description, examples, "object" in _types(field))


def _types(field: Schema) -> set[str]:
    return {str(member.get("type")) for member in (field, *field.get("anyOf", ()))}


def _values(field: Schema) -> str:
    """What a value may be, in words.

    >>> _values({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]})
    'whole number above 0, or null'
    """
    if not field:
        return "anything"
    if "anyOf" in field:
        return ", or ".join(_values(member) for member in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(str(value) for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of: {_values(field['items'])}"
    if field.get("type") == "object":
        return f"mapping to: {_values(field['additionalProperties'])}"
    bounds = [f"{word} {field[bound]}" for bound, word in BOUNDS.items() if bound in field]
    return " ".join([TYPES[field["type"]], " and ".join(bounds)]).strip()


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value.strip() else json.dumps(value, ensure_ascii=False)


def _line(text: str) -> str:
    return " ".join(text.split())


def chosen(candidates: list[Section], path: str) -> list[Section]:
    """The sections below a path, or those with the setting of that path, with that setting alone.

    A source's format may stand in the path: ingest.source.tsv, ingest.source.tsv.header. So may a key of a mapping.

    Raises:
        InputError: there is none; the sentence names the nearest.
    """
    name, _, rest = path.removeprefix(f"{SOURCE}.").partition(".")
    of_format = [section for section in candidates if path != name and name in section.formats]
    if of_format:
        candidates, path = of_format, f"{SOURCE}.{rest}".rstrip(".")
    below = [section for section in candidates if _within(path, section.path)]
    if below:
        return below
    narrowed = [
        section._replace(
            settings=tuple(setting for setting in section.settings if setting.path == path or _is_key(setting, path))
        )
        for section in candidates
    ]
    settings = [section for section in narrowed if section.settings]
    if not settings:
        raise InputError(f"there is no setting {path}" + _near(candidates, path))
    return settings


def _within(path: str, other: str) -> bool:
    return not path or other == path or other.startswith(f"{path}.")


def _is_key(setting: Setting, path: str) -> bool:
    return setting.keys and path.startswith(f"{setting.path}.")


def _near(candidates: list[Section], path: str) -> str:
    of_sections = [
        name for section in candidates for name in (section.path, *(f"{SOURCE}.{form}" for form in section.formats))
    ]
    paths = list(
        dict.fromkeys(
            [*filter(None, of_sections), *(setting.path for section in candidates for setting in section.settings)]
        )
    )
    last = path.rpartition(".")[2]
    near = [other for other in paths if other.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(path, paths, 1, 0.6)
    if not near:
        by_last = {other.rpartition(".")[2]: other for other in paths}
        near = [by_last[name] for name in difflib.get_close_matches(last, by_last, 1, 0.6)]
    return f", did you mean {' or '.join(near)}?" if near else "; `duplet config explain` lists them all"


def as_text(chosen_sections: list[Section], width: int = 100) -> str:
    """Sections for a terminal: each setting with what it may be, its default, what it means and an example."""
    lines: list[str] = []
    for section in chosen_sections:
        title = f"{section.title}: {section.description}" if section.title else section.description
        lines += [*textwrap.wrap(title, width), ""]
        for setting in section.settings:
            lines.append(setting.path)
            default = setting.default if setting.default == "required" else f"default: {setting.default}"
            lines += _indented(f"{setting.values}; {default}", width)
            lines += _indented(setting.description, width)
            lines += _indented(f"example: {' or '.join(setting.examples)}", width) if setting.examples else []
            lines.append("")
    return "\n".join(lines)


def _indented(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


HEAD = """\
# Settings

`duplet config explain --markdown` writes this page from the models in `pipeline/config`; do not edit it by hand.
`duplet config explain train.loss` shows a part of it in the terminal, and `duplet config schema` prints the JSON Schema
of a configuration. How settings are read: [Your own data](data.md#how-settings-are-read).
"""


def as_markdown(config: list[Section], job: list[Section]) -> str:
    """docs/settings.md, whole: the sections of a configuration and those of a job file."""
    lines = [HEAD]
    for sections_of, whole, prefix in ((config, "The configuration", ""), (job, "The job file", "Job file: ")):
        for section in sections_of:
            top = "." not in section.path and not (prefix and section.path)
            lines += [f"{'##' if top else '###'} {prefix + section.title if section.path else whole}", ""]
            lines += [_escaped(section.description), "", *_table(section)]
    return "\n".join(lines).rstrip() + "\n"


def _table(section: Section) -> list[str]:
    if not section.settings:
        return []
    rows = ["| setting | values | default | meaning |", "| --- | --- | --- | --- |"]
    for setting in section.settings:
        example = f" Example: {' or '.join(map(_code, setting.examples))}" if setting.examples else ""
        default = setting.default if setting.default in ("required", "see text") else _code(setting.default)
        name, values = setting.path.rpartition(".")[2], _escaped(setting.values)
        rows.append(f"| `{name}` | {values} | {default} | {_escaped(setting.description)}{example} |")
    return [*rows, ""]


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")
