"""What other packages bring: found through their entry points; one that cannot be used costs a sentence, no more."""

import importlib
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

from pipeline.core.errors import one_line
from pipeline.core.version import __version__

NOUNS = {"duplet.tasks": "task", "duplet.sources": "source"}


class Brought(NamedTuple):
    """Something that a package brings, and that package's name."""

    package: str
    value: Any


class Found(NamedTuple):
    """All that the installed packages bring of one kind, by its own name; a sentence for each that cannot be used."""

    things: dict[str, Brought]
    problems: tuple[str, ...]


def part(path: str) -> Any:
    """What "module:name" names. Of this package it is the copy that runs: a model in MLflow has one of its own name.

    >>> part("json:dumps")([1])
    '[1]'
    """
    module, _, name = path.partition(":")
    top, point, rest = module.partition(".")
    own = __name__.partition(".")[0]
    return getattr(importlib.import_module(f"{own}{point}{rest}" if top == "pipeline" else module), name)


def brought(group: str, check: Callable[[Any], str | None], known: tuple[str, ...]) -> Found:
    """What installed packages bring in a group of entry points.

    Args:
        check: what is wrong with a thing, which has a `name`, or None; without a point at its end.
        known: names that are taken.
    """
    things: dict[str, Brought] = {}
    problems = []
    for point in sorted(metadata.entry_points(group=group), key=lambda one: (_package(one), one.name)):
        package, what = _package(point), f"its {NOUNS[group]} {point.name}"
        try:
            value = point.load()
            problem = check(value)
        except (Exception, SystemExit) as error:
            said = one_line(error, 200)
            problem = f"cannot be loaded by Duplet {__version__} ({type(error).__name__}: {said})"
        owner = None if problem else things[value.name].package if value.name in things else None
        if point.name in known:
            owner = "Duplet"
        if owner:
            problems.append(f"package {package}: {what} has the name of one of {owner}, which stays: rename it")
        elif problem:
            problems.append(f"package {package}: {what} {problem}: it is left out; update or remove the package")
        else:
            things[value.name] = Brought(package, value)
    return Found(things, tuple(problems))


def _package(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"
