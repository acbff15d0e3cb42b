"""Settings read from YAML and `key=value` overrides; errors that name the key, the value and what is allowed."""

import difflib
import json
import os
import re
from pathlib import Path
from typing import Any

import pydantic

from pipeline.config import safe_yaml
from pipeline.config.cells import CELLS
from pipeline.config.heads import HEADS
from pipeline.config.losses import LOSSES
from pipeline.config.poolings import POOLINGS
from pipeline.config.schema import Config, config_model, problems
from pipeline.config.source_spec import formats
from pipeline.config.tasks import TASKS
from pipeline.config.values import put, typed
from pipeline.config.variables import expand, names
from pipeline.core.atomic_files import at_home
from pipeline.core.credentials import check_sent, server_of
from pipeline.core.errors import InputError, guess
from pipeline.core.manifest import NAME
from pipeline.core.redaction import is_secret
from pipeline.core.version import __version__

_EXAMPLE = "{format: tsv, path: pairs.tsv, columns: {query: question, document: answer}}"
# What is said of a section that nobody can guess.
MISSING = {
    "ingest": f": write where the data is, such as ingest: {{source: {_EXAMPLE}}} (docs/data.md)",
    "ingest.source": f": write where the data is, such as source: {_EXAMPLE} (docs/data.md)",
}


def load_config(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> Config:
    """Reads a YAML file, applies `a.b=value` overrides, expands ${VARIABLES} and checks the whole.

    Raises:
        InputError: no such file, not valid YAML, an unknown key, a wrong type or value, a contradiction.
    """
    path = Path(at_home(str(path)))
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(safe_yaml.MAX_CHARACTERS + 1)  # whatever was given by mistake, no more is held
    except FileNotFoundError:
        stems = {candidate.stem: candidate for candidate in path.parent.glob("*.y*ml")}
        near = [stems[stem] for stem in difflib.get_close_matches(path.stem, stems, 1, 0.6)]
        raise InputError(f"no configuration at {path}" + (f"; did you mean {near[0]}?" if near else "")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"configuration {path} cannot be read: {error}") from None
    try:
        data = safe_yaml.load(text)
    except ValueError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if safe_yaml.core(data) is None:
        raise InputError(f"{path} is empty: it must hold at least ingest.source (docs/data.md)")
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold a mapping of settings, found {type(safe_yaml.core(data)).__name__}")
    data.setdefault("name", path.stem)
    for override in overrides:
        put(data, override, (config_model(),), "train.workers=2")
    try:
        return check_config(typed(data, (config_model(),), _expanded), str(path))
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except RecursionError:
        raise InputError(f"{path}: settings are nested too deeply") from None


def secrets_sent(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> list[str]:
    """Which secrets of the environment a configuration sends where: a sentence each; it was loaded before.

    >>> secrets_sent("configs/demo.yaml")
    []
    """
    sentences: dict[str, None] = {}

    def look(text: str) -> str:
        expanded = expand(text)
        for name in names(text):
            if is_secret(name, os.environ[name]):
                sentences[f"the value of {name} goes to {server_of(expanded)}"] = None
        return expanded

    data = safe_yaml.load(Path(at_home(str(path))).read_text(encoding="utf-8"))
    for override in overrides:
        put(data, override, (config_model(),), "train.workers=2")
    typed(data, (config_model(),), look)
    return list(sentences)


def _expanded(text: str) -> str:
    """A text with its variables' values. Raises InputError, also for a secret that may not go there."""
    expanded = expand(text)
    check_sent(expanded, text, names(text))
    return expanded


def check_config(data: dict[str, Any], origin: str) -> Config:
    """Validates a plain dictionary; errors name the key, the value, what is allowed and the nearest name."""
    try:
        # through JSON and strict, so that "3" is no number and a list still fits a tuple
        return config_model().model_validate_json(json.dumps(data, default=str), strict=True)
    except pydantic.ValidationError as error:
        explanation = "; ".join(_explain(e, data) for e in error.errors()[:5])
        raise InputError(f"{origin}: {' '.join(explanation.splitlines())}") from None  # a key may have line ends
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{origin}: {error}") from None


def _explain(error: Any, data: dict[str, Any]) -> str:
    known = formats()
    # the third step of a source's settings is its format, which no key of the configuration stands for
    tagged = error["loc"][:2] == ("ingest", "source")
    steps = [step for at, step in enumerate(error["loc"]) if not (tagged and at == 2 and step in known)]
    where = ".".join(map(str, steps)) or "configuration"
    value: Any = data
    for step in steps:
        if isinstance(value, list):  # a step may also name one of several types that a value can have
            value = value[step] if isinstance(step, int) else value
        else:
            value = value.get(step) if isinstance(value, dict) else None
    if error["type"] == "extra_forbidden":
        allowed = _names_at(steps[:-1], data)
        meant = guess(str(steps[-1]), allowed, before=", ")
        return f"unknown key {where}={_short(value)}{meant} (allowed: {', '.join(allowed)})"
    if error["type"] == "missing":
        return f"{where} is missing{MISSING.get(where, '')}"
    if error["type"] == "union_tag_not_found":
        return f"{where}.format is missing (one of: {', '.join(known)})"
    if error["type"] == "union_tag_invalid":
        tag = error["ctx"]["tag"]
        return f"{where}.format={tag!r}: input should be one of {', '.join(map(repr, known))}{guess(tag, known)}"
    message = error["msg"].removeprefix("Value error, ")
    context = error.get("ctx", {})
    expected = [name for name in re.split(", | or ", str(context.get("expected", "")).replace("'", "")) if name]
    shown = f"={_short(value)}" if value is not None and not isinstance(value, dict) else ""
    return f"{where}{shown}: {message[0].lower() + message[1:]}{guess(str(value), expected)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _names_at(steps: list[Any], data: dict[str, Any]) -> list[str]:
    """The keys allowed in the section that `steps` lead to."""
    model: Any = config_model()
    for step in steps:
        fields = model.model_fields
        model = formats()[data["ingest"]["source"]["format"]] if step == "source" else fields[step].annotation
    return list(model.model_fields)


def stored_config(data: Any, path: Path) -> Config:
    """The configuration that a folder of another day was made with.

    Settings get renamed and removed; rather than guess what an old one means, it is said who wrote it.

    Args:
        data: what stands in `path`, a file of that folder.

    Raises:
        InputError: this version cannot read it.
    """
    for table, *path_to in (
        (TASKS, "task"), (CELLS, "model", "cell"), (HEADS, "model", "head"), (POOLINGS, "model", "pooling"),
        (LOSSES, "train", "loss", "kind"),
    ):  # fmt: skip
        name = data
        for step in path_to:
            name = name.get(step) if isinstance(name, dict) else None
        if isinstance(name, str) and name not in table.all:
            extra = _manifest(path.parent).get("extra")
            package = extra.get("package") if isinstance(extra, dict) else None
            raise InputError(
                f"{path.parent} is of the {table.noun} {name}, which no installed package brings: install "
                + (package or "the package that brings it")
                + "".join(f"; {problem}" for problem in problems())
            )
    try:
        return check_config(data, path.name)
    except InputError as error:
        raise InputError(
            f"{path.parent} was written by {_writer(path.parent)}, and this version, {__version__}, cannot read its "
            f"settings ({error}): train the model again, or use the version that wrote it"
        ) from None


def _manifest(folder: Path) -> dict[str, Any]:
    """A folder's manifest as it stands; {} of one that has none."""
    try:
        data = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _writer(folder: Path) -> str:
    try:
        data = _manifest(folder)
        version, commit, created = data["versions"].get("duplet"), data["git_commit"], data["created"]
    except (KeyError, TypeError, AttributeError):
        return "an unknown version of Duplet"
    return (
        f"Duplet {version or 'before 0.1.0'}" + (f" at commit {commit[:12]}" if commit else "") + f" on {created[:10]}"
    )
