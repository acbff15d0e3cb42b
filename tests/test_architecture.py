"""The house as docs/architecture.md describes it: few rooms, no circle, and the page is current."""

from pathlib import Path

import pytest

from benchmarks.architecture import Architecture, _circles, figures, measure, room_of

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"


@pytest.fixture(scope="module")
def house() -> Architecture:
    return measure()


def test_the_house_keeps_its_bounds(house: Architecture) -> None:
    assert house.circles == []
    assert len(house.rooms) <= 19
    assert 0 < len(house.floors) <= 9
    assert len(house.arrows) <= 90


def test_the_page_shows_the_figures(house: Architecture) -> None:
    assert figures(house) in PAGE.read_text(encoding="utf-8"), "run `make architecture` and copy its figures"


def test_circles_are_found() -> None:
    imported = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert _circles(imported) == [{"b", "c"}]
    assert _circles({"a": {"b"}, "b": set()}) == []


def test_rooms() -> None:
    assert [room_of(name) for name in ("pipeline.cli.commands.run", "pipeline", "jobs.slurm")] == [
        "cli",
        "pipeline",
        "jobs",
    ]
