"""What other packages bring: found through their entry points; one that cannot be used costs a sentence, no more."""

import functools
import importlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import metadata
from typing import Any, Generic, NamedTuple, TypeVar

from pipeline.config.base import Settings
from pipeline.core.errors import InputError, guess, one_line
from pipeline.core.version import __version__

INTERFACE = 1  # of all that a package may bring; raised when a package that brings something must change
NAME = re.compile("[a-z][a-z0-9_]*")  # of what is the name of a section too
Thing = TypeVar("Thing")


class Brought(NamedTuple):
    """Something that a package brings, and that package's name."""

    package: str
    value: Any


class Plugins(NamedTuple):
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


class Table(Generic[Thing]):
    """Everything of one kind by its name: Duplet's own, then what installed packages bring.

    Args:
        noun: what one is called; the group of entry points is `duplet.` and its plural.
        kind: what an entry point must be; it has a `name` and an `interface`.
        own: Duplet's, by name. A model in MLflow carries them without an installed package, so no entry point has them.
        check: what is wrong with a thing of that kind, without a point at its end, or None.
        reserved: the names beside which the section of a thing's `options` would stand; None of kinds without sections.
    """

    def __init__(
        self,
        noun: str,
        kind: type[Thing],
        own: Mapping[str, Any],
        check: Callable[[Any], str | None] = lambda _: None,
        reserved: Collection[str] | None = None,
    ) -> None:
        self.noun, self.kind, self.own, self._check, self._reserved = noun, kind, own, check, reserved
        self.plural = f"{noun}{'es' if noun.endswith('s') else 's'}"

    @functools.cached_property
    def plugins(self) -> Plugins:
        """What installed packages bring, and a sentence for each thing that cannot be used."""
        return _brought(f"duplet.{self.plural}", self.noun, self._problem, self.own)

    @property
    def brought(self) -> dict[str, Thing]:
        """What installed packages bring, by name."""
        return {name: thing.value for name, thing in self.plugins.things.items()}

    @property
    def all(self) -> dict[str, Any]:
        """All by name, Duplet's own first."""
        return {**self.own, **self.brought}

    def named(self, name: str) -> Any:
        """One of them. Raises InputError where no installed package brings it."""
        if name in self.own:
            return self.own[name]
        known = self.all
        if name not in known:
            raise InputError(
                f"there is no {self.noun} {name!r}{guess(name, known)} "
                f"({self.plural}: {', '.join(known)}); install the package that brings it"
                + "".join(f"; {problem}" for problem in self.plugins.problems)
            )
        return known[name]

    def package_of(self, name: str) -> str | None:
        """The package that brings it; None of Duplet's own."""
        thing = self.plugins.things.get(name)
        return thing and thing.package

    def fault(self, name: str, what: str) -> InputError:
        """The error of a thing that a package brings, for what only its use shows."""
        return InputError(
            f"the {self.noun} {name} of package {self.package_of(name)} {what}: update the package, or use another "
            f"{self.noun}"
        )

    def _problem(self, thing: Any) -> str | None:
        if not isinstance(thing, self.kind):
            return f"is a {type(thing).__name__}, not a {self.kind.__module__}.{self.kind.__qualname__}"
        interface, name = thing.interface, thing.name  # type: ignore[attr-defined]
        if interface != INTERFACE:
            return f"was made for version {interface} of the interface, and this is {INTERFACE}"
        if name in self.own:
            return f"calls itself {name}, as a {self.noun} of Duplet"
        if self._reserved is None:
            return self._check(thing)
        if not NAME.fullmatch(name) or name in self._reserved or hasattr(Settings, name):
            return f"calls itself {name!r}, which is not a name for a {self.noun}"
        options = thing.options  # type: ignore[attr-defined]
        if options is not None and not (isinstance(options, type) and issubclass(options, Settings)):
            return "has options that are not a pipeline.config.Settings"
        if options is not None:
            options()  # raises where a setting has no default
        return self._check(thing)


def _brought(group: str, noun: str, check: Callable[[Any], str | None], known: Iterable[str]) -> Plugins:
    things: dict[str, Brought] = {}
    problems = []
    for point in sorted(metadata.entry_points(group=group), key=lambda point: (_package(point), point.name)):
        package, what = _package(point), f"its {noun} {point.name}"
        try:
            value = point.load()
            problem = check(value)
        except (Exception, SystemExit) as error:
            message = one_line(error, 200)
            problem = f"cannot be loaded by Duplet {__version__} ({type(error).__name__}: {message})"
        owner = None if problem else things[value.name].package if value.name in things else None
        if point.name in known:
            owner = "Duplet"
        if owner:
            problems.append(f"package {package}: {what} has the name of one of {owner}, which stays: rename it")
        elif problem:
            problems.append(f"package {package}: {what} {problem}: it is left out; update or remove the package")
        else:
            things[value.name] = Brought(package, value)
    return Plugins(things, tuple(problems))


def _package(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"
