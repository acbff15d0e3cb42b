"""A few of the kills that `make torture` does a hundred of."""

from pathlib import Path

import pytest

from benchmarks.torture import Case, torture

pytestmark = [pytest.mark.workers, pytest.mark.timeout(900)]


@pytest.mark.parametrize(("workers", "kinds"), [(1, ("during a checkpoint", "everything")), (2, ("one rank",))])
def test_killed_trainings_end_bit_for_bit_as_undisturbed_ones(
    workers: int, kinds: tuple[str, ...], tmp_path: Path
) -> None:
    said: list[str] = []
    cases = [Case(workers, kind) for kind in kinds]
    assert torture(tmp_path, cases, 1, said.append, "train.epochs=20") == []
    assert said[-1].startswith(f"{len(cases)} kills in ")
