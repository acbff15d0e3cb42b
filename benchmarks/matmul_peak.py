"""The machine's matrix-multiply peak in MXNet, fp32: what the training speed's share is taken of.

    .venv/bin/python benchmarks/matmul_peak.py

The last line of stdout is one JSON object: GFLOP/s of as many one-thread processes as there are cores, at the same time
and added up (how workers train), of one process on all cores, and the better of the two as `peak_gflops`.
"""

import argparse
import json
import os
import subprocess
import sys
import time

SIZES = (512, 1024, 2048)  # of square matrices; the best counts, as caches differ


def measure(seconds: float) -> float:
    """The best GFLOP/s of this process over all sizes; waits for a line on stdin before it starts.

    An (n, n) x (n, n) product is 2 n^3 operations.
    """
    from mxnet import nd  # reads its number of threads when it is loaded

    operands = [(nd.random.uniform(-1, 1, (n, n)), nd.random.uniform(-1, 1, (n, n))) for n in SIZES]
    for a, b in operands:
        nd.dot(a, b).wait_to_read()
    print("ready", flush=True)
    sys.stdin.readline()
    best = 0.0
    for n, (a, b) in zip(SIZES, operands):
        repeats = max(1, round(1e10 / (2 * n**3)))  # about a tenth of a second
        ends = time.perf_counter() + seconds / len(SIZES)
        while time.perf_counter() < ends:
            began = time.perf_counter()
            for _ in range(repeats):
                product = nd.dot(a, b)
            product.wait_to_read()  # one queue, run in order: the last is done when all are
            nd.waitall()
            best = max(best, repeats * 2 * n**3 / (time.perf_counter() - began) / 1e9)
    return best


def together(processes: int, threads: int, seconds: float) -> float:
    """The sum of `measure` over processes of so many threads each, started at the same moment."""
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
        "MXNET_CPU_WORKER_NTHREADS": "1",
    }
    command = [sys.executable, __file__, "--child", "--seconds", str(seconds)]
    started = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            sys.exit("matmul_peak: MXNet does not start (`duplet doctor` tells why)")
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0].splitlines()[-1]) for process in started)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3, help="of measuring, per process")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(measure(options.seconds))
        return
    cores = len(os.sched_getaffinity(0))
    workers, one = together(cores, 1, options.seconds), together(1, cores, options.seconds)
    figures = {"one_thread_processes": workers, "one_process": one, "peak_gflops": max(workers, one)}
    print(json.dumps({"cores": cores, **{name: round(value, 1) for name, value in figures.items()}}))


if __name__ == "__main__":
    main()
