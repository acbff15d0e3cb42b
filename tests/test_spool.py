"""Points on disk: whole lines only, from an offset on, and none after the update that a training goes on from."""

import time
from itertools import pairwise
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.event_log import Lines, Point, Reader, Spool, sealed, unsealed


def points(spool: Spool, offset: int = 0) -> list[tuple[int, dict[str, float]]]:
    return [(point.update, point.values) for point, _ in spool.read(offset)]


def filled(tmp_path: Path, *updates: int) -> Spool:
    spool = Spool(tmp_path / "points.jsonl")
    for update in updates:
        spool.write(update, {"loss": update / 3})
    return spool


def test_points_come_back_in_order_with_their_time(tmp_path: Path) -> None:
    before = int(time.time() * 1000)
    spool = filled(tmp_path, 1, 2, 3)
    assert points(spool) == [(1, {"loss": 1 / 3}), (2, {"loss": 2 / 3}), (3, {"loss": 1.0})]
    assert all(before <= point.time_ms <= int(time.time() * 1000) for point, _ in spool.read(0))
    assert all(isinstance(point, Point) for point, _ in spool.read(0))


def test_no_file_has_no_points(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "points.jsonl")
    assert points(spool) == []
    spool.keep_until(5)
    assert not spool.path.exists()


def test_reading_goes_on_from_an_offset(tmp_path: Path) -> None:
    spool = filled(tmp_path, 1, 2)
    read = list(spool.read(0))
    assert points(spool, read[0][1]) == [(2, {"loss": 2 / 3})]
    end = read[-1][1]
    assert end == spool.path.stat().st_size
    assert points(spool, end) == []
    spool.write(3, {"größe": 1.0})
    ((point, after),) = spool.read(end)
    assert (point.update, point.values) == (3, {"größe": 1.0})
    assert after == spool.path.stat().st_size


def test_half_a_line_is_not_read_until_it_is_whole(tmp_path: Path) -> None:
    spool = filled(tmp_path, 1, 2)
    end = spool.path.stat().st_size
    line = sealed({"update": 3, "time_ms": 5, "values": {"loss": 0.25}})
    for cut in range(len(line)):  # the whole line without its end included
        spool.path.write_bytes(spool.path.read_bytes()[:end] + line[:cut])
        assert [update for update, _ in points(spool)] == [1, 2]
        assert points(spool, end) == []
    spool.path.write_bytes(spool.path.read_bytes()[:end] + line)
    assert points(spool, end) == [(3, {"loss": 0.25})]


def test_a_line_cut_by_a_kill_costs_no_later_point(tmp_path: Path) -> None:
    """The next writer must not glue its first point to the half line of the killed one."""
    spool = filled(tmp_path, 1, 2)
    spool.path.write_bytes(spool.path.read_bytes()[:-7])
    spool.write(3, {"loss": 1.0})
    assert [update for update, _ in points(spool)] == [1, 3]
    spool.path.write_bytes(spool.path.read_bytes()[:-7])
    spool.keep_until(3)  # what a training that goes on does first
    spool.write(4, {"loss": 1.0})
    assert [update for update, _ in points(spool)] == [1, 4]


def test_lines_that_are_no_points_are_passed_over(tmp_path: Path) -> None:
    spool = filled(tmp_path, 1)
    bad = [b'{"upd', b"", b"[]", b"3", b"null", b"\xff\xfe", b'{"update": 1, "time_ms": 5, "values": {"loss": 9}}']
    for line in (*bad, sealed({"update": 1})[:-1], sealed({"update": 1, "x": 2})[:-1]):
        with spool.path.open("ab") as file:
            file.write(line + b"\n")
    spool.write(2, {"loss": 2.0})
    assert [update for update, _ in points(spool)] == [1, 2]
    assert list(spool.read(0))[-1][1] == spool.path.stat().st_size


def test_keep_until_drops_later_points_only(tmp_path: Path) -> None:
    spool = filled(tmp_path, 10, 20, 20, 30)
    before = [point for point, _ in spool.read(0)]
    spool.keep_until(20)
    assert [point for point, _ in spool.read(0)] == before[:3]  # times included
    assert [path.name for path in tmp_path.iterdir()] == ["points.jsonl"]
    spool.write(25, {"loss": 0.5})
    assert [update for update, _ in points(spool)] == [10, 20, 20, 25]
    spool.keep_until(0)
    assert points(spool) == []


def test_keep_until_changes_no_byte_of_what_it_keeps(tmp_path: Path) -> None:
    """A reader's offset stays good."""
    spool = filled(tmp_path, 1, 2, 3)
    spool.write(3, {"größe": 1e-300})
    content = spool.path.read_bytes()
    spool.keep_until(3)
    assert spool.path.read_bytes() == content
    (_, offset), *_ = spool.read(0)
    spool.keep_until(2)
    assert [update for update, _ in points(spool, offset)] == [2]


values = st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False), max_size=3)


@given(st.lists(st.tuples(st.integers(0, 9), values), max_size=8), st.integers(0, 9))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_points_come_back(tmp_path: Path, written: list[tuple[int, dict[str, float]]], until: int) -> None:
    spool = Spool(tmp_path / "points.jsonl")
    spool.path.unlink(missing_ok=True)
    for update, value in written:
        spool.write(update, value)
    assert points(spool) == written
    offset, found = 0, []
    while read := list(spool.read(offset))[:1]:  # one at a time, by offsets
        found.append((read[0][0].update, read[0][0].values))
        offset = read[0][1]
    assert found == written
    spool.keep_until(until)
    assert points(spool) == [(update, value) for update, value in written if update <= until]


def test_no_changed_bit_of_a_line_goes_unseen(tmp_path: Path) -> None:
    line = sealed({"update": 12, "time_ms": 1764000000000, "values": {"loss": 0.125}})
    for position in range(len(line) * 8):
        changed = bytearray(line)
        changed[position // 8] ^= 1 << position % 8
        assert unsealed(bytes(changed)) is None
    spool = filled(tmp_path, 1, 2, 3)
    content = bytearray(spool.path.read_bytes())
    content[len(content) // 2] ^= 1
    spool.path.write_bytes(bytes(content))
    assert [update for update, _ in points(spool)] == [1, 3]


def test_a_disk_that_takes_nothing_holds_points_up_and_loses_none(tmp_path: Path) -> None:
    """/dev/full answers every write as a full disk does."""
    spool = Spool(tmp_path / "points.jsonl")
    spool.write(1, {"loss": 1.0})
    (tmp_path / "points.jsonl").rename(tmp_path / "kept")
    spool.path.symlink_to("/dev/full")
    spool.write(2, {"loss": 2.0})
    spool.write(3, {"loss": 3.0})
    spool.path.unlink()
    (tmp_path / "kept").rename(spool.path)
    with spool.path.open("ab") as file:
        file.write(b'{"update": 2, "ti')  # as much of it as there was room for
    spool.write(4, {"loss": 4.0})
    assert [update for update, _ in points(spool)] == [1, 2, 3, 4]


def test_a_spool_stays_within_its_bound_and_thins_the_oldest_training_points(tmp_path: Path) -> None:
    bound = 20_000
    spool = Spool(tmp_path / "points.jsonl", bound)
    for update in range(1, 2001):
        spool.write(update, {"loss": float(update)})
        if update % 100 == 0:
            spool.write(update, {"valid/mrr@10": 0.5})
        assert spool.path.stat().st_size <= bound
    kept = points(spool)
    assert [update for update, values in kept if "valid/mrr@10" in values] == list(range(100, 2001, 100))
    updates = [update for update, values in kept if "loss" in values]
    assert updates == sorted(set(updates))
    assert updates[0] == 1
    assert updates[-20:] == list(range(1981, 2001))
    gaps = [after - before for before, after in pairwise(updates)]
    assert max(gaps[:20]) <= 4 * min(gaps[:20])  # the oldest are even
    assert min(gaps[:20]) > 20 * max(gaps[-20:])


def test_what_may_not_be_dropped_is_kept_past_the_bound(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "lines", 2000, lambda entry: None if entry["n"] % 2 else entry["n"])
    for n in range(200):
        lines.append({"n": n})
    assert {entry["n"] for entry, _ in lines.read() if entry["n"] % 2} == set(range(1, 200, 2))


def test_a_reader_begins_anew_where_the_file_was_rewritten(tmp_path: Path) -> None:
    spool = filled(tmp_path, 1, 2, 3)
    reader = Reader(spool)
    assert [point.update for point in reader.new()] == [1, 2, 3]
    assert list(reader.new()) == []
    spool.write(4, {"loss": 1.0})
    assert [point.update for point in reader.new()] == [4]
    spool.keep_until(1)
    for update in (2, 3, 4, 5):
        spool.write(update, {"loss": 0.25})
    assert [point.update for point in reader.new()] == [1, 2, 3, 4, 5]


def test_values_that_are_not_finite_come_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "points.jsonl")
    spool.write(1, {"loss": float("inf"), "norm": float("nan")})
    ((_, found),) = points(spool)
    assert found["loss"] == float("inf")
    assert found["norm"] != found["norm"]
