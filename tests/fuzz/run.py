"""Fuzzes every reader, loader and tokenizer, guided by coverage: `make fuzz`, or

    PYTHONPATH=.fuzz/lib:. python -m tests.fuzz.run [TARGET …]

INPUTS (100,000) are shared out among the targets (all, unless some are named). An input fails that raises what its
target does not allow, takes over TIMEOUT_S, or lets the process grow over RSS_MB; it is kept in .fuzz/found, and

    PYTHONPATH=.fuzz/lib:. python -m tests.fuzz.one TARGET .fuzz/found/FILE

runs it again. Prints a line per target and ends with 1 if anything failed.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.targets import PIECES, targets

HOME = Path(".fuzz").resolve()
TIMEOUT_S, RSS_MB, MAX_BYTES = 20, 2048, 8192


def fuzz(name: str, inputs: int) -> tuple[int, float, int, str]:
    """Inputs done, seconds, peak resident MB, and the last lines of what went wrong, if anything did."""
    corpus = HOME / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets()[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    command = [
        sys.executable, "-m", "tests.fuzz.one", name, f"-runs={inputs}", f"-timeout={TIMEOUT_S}",
        f"-rss_limit_mb={RSS_MB}", f"-max_len={MAX_BYTES}", f"-dict={HOME / 'pieces.dict'}", "-print_final_stats=1",
        "-detect_leaks=0", "-seed=1", "-len_control=0", f"-artifact_prefix={HOME / 'found' / name}-", str(corpus),
    ]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    stat = lambda key: int((re.findall(rf"stat::{key}:\s*(\d+)", done.stderr) or [0])[-1])
    _, _, raised = (done.stdout + done.stderr).partition("Uncaught Python exception")
    wrong = "" if done.returncode == 0 else "\n".join((raised or done.stderr).splitlines()[-40:])
    return stat("number_of_executed_units"), time.monotonic() - began, stat("peak_rss_mb"), wrong


def main() -> int:
    chosen = sys.argv[1:] or list(targets())
    total = int(os.environ.get("INPUTS", "100000"))
    (HOME / "found").mkdir(parents=True, exist_ok=True)
    quoted = ("".join(f"\\x{byte:02x}" for byte in piece) for piece in PIECES if len(piece) < 64)
    (HOME / "pieces.dict").write_text("".join(f'"{piece}"\n' for piece in quoted))
    done_all, failed = 0, []
    for name in chosen:
        done, seconds, peak, wrong = fuzz(name, -(-total // len(chosen)))
        done_all += done
        print(
            f"{name:20} {done:8,} inputs {seconds:7.1f} s, peak {peak:5} MB  {'FAILED' if wrong else 'ok'}", flush=True
        )
        if wrong:
            failed.append(name)
            print(wrong, flush=True)
    print(f"{done_all:,} inputs, {len(chosen)} targets, {len(failed)} failed {' '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
