"""Cron expressions: what makes sense, when they are due, and what fills a configuration."""

import doctest
import re
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import dates
from pipeline.errors import InputError


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(dates).failed == 0


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 25 * * *", "hour '25' makes no sense"),
        ("61 2 * * *", "minute '61' makes no sense"),
        ("0 2 * *", "has 4 fields"),
        ("* * * * * *", "has 6 fields"),
        ("", "has 0 fields"),
        ("@daily", "has 1 fields"),
        ("0 2 31 2 *", "names a day that never comes"),
        ("0 2 * * funday", "weekday 'funday' makes no sense"),
        ("5-1 * * * *", "minute '5-1' makes no sense"),
        ("*/0 * * * *", "minute '*/0' makes no sense"),
        ("0 2 L * *", "day 'L' makes no sense"),
        ("0 2 * * *; rm", "has 6 fields"),
    ],
)
def test_an_expression_that_makes_no_sense_is_one_sentence(expression: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as refused:
        dates.check(expression)
    assert "\n" not in str(refused.value)


field = st.text("0123456789*/,-abcdefghijklmnopqrstuvwxyzL#", max_size=5)


@settings(max_examples=300, deadline=None)
@given(st.tuples(field, field, field, field, field))
def test_what_is_accepted_has_a_next_time_and_the_rest_a_sentence(fields: tuple[str, ...]) -> None:
    try:
        expression = dates.check(" ".join(fields))
    except InputError:
        return
    now = datetime(2026, 2, 3, 4, 5)
    assert dates.following(expression, now) > now


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["0 2 * * *", "*/7 * * * *", "30 1 1 * *", "0 0 * * mon-fri", "5,35 8-18/2 * * *"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 1)),
    st.integers(0, 60 * 24 * 9),
    st.integers(0, 59),
)
def test_due_times_are_those_that_come_one_after_another(
    expression: str, start: datetime, minutes: int, seconds: int
) -> None:
    start = start.replace(second=0, microsecond=0)
    now = start + timedelta(minutes=minutes, seconds=seconds)
    expected, at = [], start
    while (at := dates.following(expression, at)) <= now:
        expected.append(at)
    assert dates.due(expression, start, now) == expected[-dates.MOST :]


def test_a_date_on_the_command_line() -> None:
    assert dates.read("2026-11-24") == datetime(2026, 11, 24)
    assert dates.read("2026-11-24T02:30") == datetime(2026, 11, 24, 2, 30)
    with pytest.raises(InputError, match=r"--date '24.11.2026' is no date such as 2026-11-24"):
        dates.read("24.11.2026")
