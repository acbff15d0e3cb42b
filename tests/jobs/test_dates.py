"""Cron expressions: what makes sense, when they are due, and what fills a configuration."""

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import dates, zones
from pipeline.core.errors import InputError


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 25 * * *", "hour '25' is not valid"),
        ("61 2 * * *", "minute '61' is not valid"),
        ("0 2 * *", "has 4 fields"),
        ("* * * * * *", "has 6 fields"),
        ("", "has 0 fields"),
        ("@daily", "has 1 fields"),
        ("0 2 31 2 *", "names a day that never comes"),
        ("0 2 * * funday", "weekday 'funday' is not valid"),
        ("5-1 * * * *", "minute '5-1' is not valid"),
        ("*/0 * * * *", "minute '*/0' is not valid"),
        ("*/61 * * * *", "minute '*/61' is not valid"),
        ("0 */25 * * *", "hour '*/25' is not valid"),
        ("0 2 1-5/32 * *", "day '1-5/32' is not valid"),
        ("5/2 * * * *", "minute '5/2' is not valid"),
        ("0 2 L * *", "day 'L' is not valid"),
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
    with pytest.raises(InputError, match=r"--date '24.11.2026' is not a date such as 2026-11-24"):
        dates.read("24.11.2026")


# --- against cron's own rule ------------------------------------------------------------------------------------------
def bits(text: str, field: dates.Field) -> set[int]:
    """The numbers of a field, as entry.c of Debian's cron sets its bits."""
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        low, _, high = span.partition("-")
        ends = (field.low, field.high) if span == "*" else (int(low), int(high or low))
        found |= set(range(ends[0], ends[1] + 1, int(step or 1)))
    return found | {0, 7} if field.name == "weekday" and found & {0, 7} else found


def fires(expression: str, day: datetime) -> bool:
    """Whether cron runs it on a day: both day fields where one begins with *, else one (find_jobs of cron.c)."""
    texts = expression.split()
    _, _, in_month, months, in_week = (bits(text, field) for text, field in zip(texts, dates.FIELDS))
    fits = day.day in in_month, day.isoweekday() % 7 in in_week
    return day.month in months and (all(fits) if "*" in (texts[2][0], texts[4][0]) else any(fits))


def part(low: int, high: int) -> st.SearchStrategy[str]:
    ends = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    spans = st.just("*") | ends.map(lambda two: f"{two[0]}-{two[1]}")
    return st.integers(low, high).map(str) | spans | st.tuples(spans, st.integers(1, high)).map("{0[0]}/{0[1]}".format)


def parts(low: int, high: int) -> st.SearchStrategy[str]:
    return st.lists(part(low, high), min_size=1, max_size=3).map(",".join)


@settings(max_examples=300, deadline=None)
@given(parts(1, 31), parts(1, 12), parts(0, 7))
def test_days_are_those_on_which_cron_runs(day: str, month: str, weekday: str) -> None:
    given = f"0 2 {day} {month} {weekday}"
    start = datetime(2026, 11, 1, 2)
    expected = [when for ahead in range(1, 120) if fires(given, when := start + timedelta(days=ahead))]
    try:
        expression = dates.check(given)
    except InputError:  # a day that never comes
        assert not expected
        return
    found, at = [], start
    while (at := dates.following(expression, at)) < start + timedelta(days=120):
        found.append(at)
    assert found == expected
    assert dates.due(expression, start, start + timedelta(days=119)) == expected


def test_a_step_beside_a_weekday_is_odd_mondays() -> None:
    """crontab(5): a day must fit both fields where one begins with *; of 1-31/2 and mon one is enough."""
    november = datetime(2026, 11, 1), datetime(2026, 11, 30, 23)
    assert [when.day for when in dates.due("0 2 */2 * mon", *november)] == [9, 23]
    mondays_and_odd_days = sorted({2, 9, 16, 23, 30, *range(1, 31, 2)})
    assert [when.day for when in dates.due("0 2 1-31/2 * mon", *november)] == mondays_and_odd_days
    assert dates.means_two_things("0 2 */2 * mon") and not dates.means_two_things("0 2 1-31/2 * mon")
    assert not dates.means_two_things("0 2 */2 * *")


def test_a_day_means_its_dates() -> None:
    assert dates.named("2026-11-24", "0 2 * * *") == [datetime(2026, 11, 24, 2)]
    assert [when.hour for when in dates.named("2026-11-24", "0 0,12,23 * * *")] == [0, 12, 23]
    assert dates.named("2026-11-24T07:05", "0 2 * * *") == [datetime(2026, 11, 24, 7, 5)]
    with pytest.raises(InputError, match=r"'0 2 \* \* mon' has no date on that day, the next one is 2026-11-30T02:00"):
        dates.named("2026-11-24", "0 2 * * mon")


# --- zones ------------------------------------------------------------------------------------------------------------
def test_the_next_date_on_this_machine_s_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 29, 10, 0, tzinfo=UTC)
    for here, begin in (("UTC", "2026-11-29T18:00:00"), ("Asia/Shanghai", "2026-11-30T02:00:00")):
        monkeypatch.setenv("TZ", here)
        time.tzset()
        assert dates.begin("0 2 * * *", "Asia/Shanghai", now) == begin
    # in the second of two hours that read alike, the next date is not the one that is past
    second = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 in Berlin, once more
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert dates.begin("*/30 * * * *", "Europe/Berlin", second) == "2026-10-25T01:30:00"
    monkeypatch.undo()
    time.tzset()


def test_the_name_of_this_machine_s_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, named = tmp_path / "localtime", tmp_path / "timezone"
    monkeypatch.setattr(zones, "SYSTEM", system)
    monkeypatch.setattr(zones, "NAMED", named)
    monkeypatch.delenv("TZ", raising=False)
    assert zones.local() == "UTC"  # as the C library has it where there is no file
    system.symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    assert zones.local() == zones.system() == "Europe/Berlin"
    system.unlink()
    system.write_bytes(b"a copy")
    with pytest.raises(InputError, match="does not tell the name of this machine's time zone: give --zone"):
        zones.system()
    named.write_text("Asia/Shanghai\n")
    for name, found in (("America/New_York",) * 2, (":Asia/Tokyo", "Asia/Tokyo"), ("?", "Asia/Shanghai")):
        monkeypatch.setenv("TZ", name)
        assert (zones.local(), zones.system()) == (found, "Asia/Shanghai")


def test_zones_of_one_clock() -> None:
    assert zones.same("UTC", "Etc/UTC") and zones.same("Europe/Berlin", "Europe/Paris")
    assert not zones.same("Europe/London", "UTC")  # in summer
