"""Workers of unlike processors agree on what runs their recurrent layers."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.models.kernel import build, library

pytestmark = pytest.mark.workers


@pytest.mark.parametrize("limit", ["AVX2", "SSE41"])
def test_unlike_workers_decide_alike(limit: str, tmp_path: Path) -> None:
    build.build()
    library.found.cache_clear()
    mine = library.found().instructions
    if not mine:
        assert "avx2" not in Path("/proc/cpuinfo").read_text(), library.found().phrase
        pytest.skip("the processor has no AVX2")
    launcher = [str(Path(sys.executable).with_name("horovodrun")), "--gloo", "-np", "2", "-H", "localhost:2"]
    program = [sys.executable, str(Path(__file__).with_name("unlike_processors.py")), limit, str(tmp_path)]
    done = subprocess.run([*launcher, *program], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = ((tmp_path / f"rank-{rank}").read_text().splitlines() for rank in (0, 1))
    if limit == "AVX2":
        name = "own avx2" if mine == "avx2" else "own avx2+avx512"
        assert first == second == [name, name]
        return
    assert first[0] == second[0] == "mxnet"
    assert "model.kernel=own cannot be had" in first[1] and "worker 1 cannot have others" in first[1]
    assert "model.kernel=own cannot be had" in second[1] and "ONEDNN_MAX_CPU_ISA=SSE41 forbids AVX2" in second[1]
