"""What a source of another package declares of itself; see docs/data.md, "Adding a source".

Duplet's own formats are in `sources` (their settings) and `pipeline.ingest.readers` (their reading).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pipeline.config.base import Settings
from pipeline.config.plugins import INTERFACE, Table
from pipeline.config.sources import FORMATS


@dataclass(frozen=True)
class SourceSpec:
    """A source. Callables are "module:name", imported when data is read.

    Attributes:
        name: the format.
        options: the model of `ingest.source`, with `format: Literal[name]` and the source's own settings.
        rows: (source, configuration, most bytes of a row, stage's folder) -> iterator of (split, rows): the split that
            the rows were given for, or None for rows that are still to be divided; a row is `pipeline.ingest.rows.Row`.
        tasks: that its records are for; empty: any.
        addresses: settings that hold files, folders or patterns. Their content shapes the stage, not where they lie.
        columns: where a row keeps the task's fields, as `ingest.source.columns` has it.
        packages: distributions whose version shapes the rows.
        interface: what the declaration was written for.
    """

    name: str
    options: type[Settings]
    rows: str
    tasks: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    interface: int = INTERFACE


def _problem(spec: SourceSpec) -> str | None:
    """What is wrong with a source that a package brings."""
    form = getattr(spec.options, "model_fields", {}).get("format")
    if form is None or get_args(form.annotation) != (spec.name,):
        return f'has options without the setting format: Literal["{spec.name}"]'
    return None


SOURCES = Table("source", SourceSpec, FORMATS, _problem)


def source_specs() -> dict[str, SourceSpec]:
    """The sources that installed packages bring, by format."""
    return SOURCES.brought


def formats() -> dict[str, type[Settings]]:
    """All formats with the model of their settings, those of Duplet first."""
    return FORMATS | {name: spec.options for name, spec in source_specs().items()}
