"""Names: readable, short enough, and never one for two things."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import naming


@given(st.text(max_size=90), st.text(max_size=20), st.integers(20, 63))
def test_any_text_gives_a_name_that_every_place_takes(text: str, part: str, most: int) -> None:
    name = naming.unique(text, part, most=most)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert len(name) <= most


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), unique=True, min_size=2, max_size=20))
def test_what_differs_has_another_name(things: list[tuple[str, str]]) -> None:
    assert len({naming.unique(text, part) for text, part in things}) == len(things)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("问答", "搜索"),
        ("customer-support-search-english-v1" * 2, "customer-support-search-english-v2" * 2),
        ("faq v1", "faq-v1"),
        ("FAQ", "faq"),
        (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")),
        ("what?", "what!"),
        ("", " "),
    ],
)
def test_names_that_read_alike_stay_apart(one: str, other: str) -> None:
    assert naming.unique(one, "/runs", most=40) != naming.unique(other, "/runs", most=40)


def test_parts_are_not_run_together() -> None:
    assert naming.unique("a", "b", "c") != naming.unique("a", "bc") != naming.unique("ab", "c")


def test_the_readable_part_is_what_people_wrote() -> None:
    assert naming.slug("Kundendienst für 2026") == "kundendienst-fur-2026"
    assert naming.unique("faq", "/runs").startswith("faq-")
    assert naming.unique("faq", "/runs") == naming.unique("faq", "/runs")


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,70}[a-z0-9])?", fullmatch=True))
def test_a_name_too_long_for_a_place_is_cut_and_still_its_own(name: str) -> None:
    short = naming.within(name, 30)
    assert short == name if len(name) <= 30 else (len(short) <= 30 and short != naming.within(f"{name}x", 30))
