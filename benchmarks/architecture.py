"""Counts what docs/architecture.md says of the code: rooms, floors, arrows, circles and lines. `make architecture`.

A room is a folder or module right under `pipeline/`, and all of `jobs/`. An arrow leads from a room to one that it
imports from. A floor is a row of rooms that import only from rows below it. A circle is a set of modules that import
each other, imports inside functions included.
"""

import graphlib
import sys
from collections import Counter, defaultdict
from collections.abc import Sized
from pathlib import Path
from typing import NamedTuple

import grimp

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "jobs")


class Architecture(NamedTuple):
    floors: list[list[str]]  # the lowest first; empty where rooms import each other
    arrows: set[tuple[str, str]]
    circles: list[set[str]]  # of modules
    lines: Counter[str]  # of each room

    @property
    def rooms(self) -> list[str]:
        """All rooms, by name."""
        return sorted(self.lines)


def room_of(module: str) -> str:
    """The room of a module.

    >>> room_of("pipeline.models.encoder"), room_of("pipeline.api"), room_of("jobs.slurm")
    ('models', 'api', 'jobs')
    """
    package, *rest = module.split(".")
    return rest[0] if package == "pipeline" and rest else package


def measure() -> Architecture:
    """Reads the code of both packages, without running it."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    arrows = {
        (room_of(module), room_of(other))
        for module, others in imported.items()
        for other in others
        if room_of(module) != room_of(other) and "pipeline" not in (module, other)
    }
    lines: Counter[str] = Counter()
    for package in PACKAGES:
        for path in (PROJECT / package).rglob("*.py"):
            parts = path.relative_to(PROJECT).with_suffix("").parts
            room = room_of(".".join(parts))
            if room != "__init__":
                lines[room] += len(path.read_text(encoding="utf-8").splitlines())
    return Architecture(_floors(set(lines), arrows), arrows, _circles(imported), lines)


def _floors(rooms: set[str], arrows: set[tuple[str, str]]) -> list[list[str]]:
    """Rooms by the longest way down from them; none where rooms import each other."""
    below: dict[str, set[str]] = {room: set() for room in rooms}
    for room, other in arrows:
        below[room].add(other)
    height: dict[str, int] = {}
    try:
        for room in graphlib.TopologicalSorter(below).static_order():
            height[room] = max((height[other] + 1 for other in below[room]), default=0)
    except graphlib.CycleError:
        return []
    floors = defaultdict(list)
    for room, floor in sorted(height.items()):
        floors[floor].append(room)
    return [floors[floor] for floor in sorted(floors)]


def _circles(imported: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that reach each other; takes away modules that reach nothing, or that nothing reaches."""
    left = {module: set(others) for module, others in imported.items()}
    while True:
        reached = {other for others in left.values() for other in others}
        gone = {module for module, others in left.items() if not others & left.keys() or module not in reached}
        if not gone:
            break
        left = {module: others - gone for module, others in left.items() if module not in gone}
    reach = {module: _reachable(module, left) for module in left}
    circles = {frozenset(other for other in reach[module] if module in reach[other]) for module in left}
    return [set(circle) for circle in circles if circle]


def _reachable(module: str, imported: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    wanted = [module]
    while wanted:
        for other in imported.get(wanted.pop(), set()) - found:
            found.add(other)
            wanted.append(other)
    return found


def figures(house: Architecture) -> str:
    """What docs/architecture.md shows: the counts, then the floors from the top."""
    counted: dict[str, Sized] = {
        "rooms": house.rooms,
        "floors": house.floors,
        "arrows": house.arrows,
        "circles": house.circles,
    }
    counts = ", ".join(f"{len(things)} {name}" for name, things in counted.items())
    floors = [f"{number:2}  {', '.join(floor)}" for number, floor in enumerate(house.floors, 1)]
    return "\n".join([counts, *reversed(floors)])


def main() -> int:
    """Prints the figures; exit code 1 where there is a circle."""
    house = measure()
    print(figures(house))
    for circle in house.circles:
        print("circle: " + ", ".join(sorted(circle)))
    print("lines: " + ", ".join(f"{room} {lines:,}" for room, lines in house.lines.most_common()))
    print(f"{sum(house.lines.values()):,} lines of code")
    return 1 if house.circles else 0


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT))
    sys.exit(main())
