"""Workers of unlike processors agree on what runs their recurrent layers."""

from pathlib import Path

import pytest

from tests.networks import built_layers
from tests.workers.by_workers import run_by

pytestmark = pytest.mark.workers


@pytest.mark.parametrize("limit", ["AVX2", "SSE41"])
def test_unlike_workers_decide_alike(limit: str, tmp_path: Path) -> None:
    instructions = built_layers()
    done = run_by(2, Path(__file__).with_name("unlike_processors.py"), limit, str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = ((tmp_path / f"rank-{rank}").read_text().splitlines() for rank in (0, 1))
    if limit == "AVX2":
        name = "own avx2" if instructions == "avx2" else "own avx2+avx512"
        assert first == second == [name, name]
        return
    assert first[0] == second[0] == "mxnet"
    assert "model.kernel=own cannot be had" in first[1] and "worker 1 cannot have others" in first[1]
    assert "model.kernel=own cannot be had" in second[1] and "ONEDNN_MAX_CPU_ISA=SSE41 forbids AVX2" in second[1]
