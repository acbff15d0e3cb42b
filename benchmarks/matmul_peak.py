"""The machine's matrix-multiply peak by precision: the best of the installed libraries. Speeds are shares of it.

    .venv/bin/python benchmarks/matmul_peak.py

Asked are MXNet's FullyConnected (oneDNN), MXNet's dot (OpenBLAS) and ONNX Runtime in float32; and, where the processor
has AVX512_BF16, FullyConnected in bfloat16, as the two others have none. The last line of stdout is one JSON object:
for each library, GFLOP/s of as many one-thread processes as there are cores, at the same time and added up (how workers
train), and of one process on all cores; the best in float32 as `peak_gflops`, its library as `library`, and the best in
bfloat16 as `peak_bfloat16_gflops` (null: none).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LIBRARIES = ("onednn", "openblas", "onnxruntime")
IN_BFLOAT16 = "onednn_bfloat16"
SIZES = (512, 1024, 2048)  # of square matrices; the best counts, as caches differ


def products(library: str, n: int) -> Callable[[], None]:
    """A call that computes one (n, n) x (n, n) product to its end by a library."""
    if library == "onnxruntime":
        import numpy as np
        import onnxruntime
        from onnx import TensorProto, helper

        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [n, n]) for name in "abc"]
        graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", ends[:2], ends[2:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        given = {name: np.random.default_rng(0).random((n, n), np.float32) for name in "ab"}
        return lambda: session.run(None, given)
    from mxnet import nd  # reads its number of threads when it is loaded

    a, b = nd.random.uniform(-1, 1, (n, n)), nd.random.uniform(-1, 1, (n, n))
    if library == "openblas":
        return lambda: nd.dot(a, b).wait_to_read()
    if library == IN_BFLOAT16:
        a, b = (nd.amp_cast(array, dtype="bfloat16") for array in (a, b))
    return lambda: nd.FullyConnected(a, b, no_bias=True, num_hidden=n).wait_to_read()


def measure(library: str, seconds: float) -> float:
    """The best GFLOP/s of this process over all sizes; waits for a line on stdin before it starts.

    An (n, n) x (n, n) product is 2 n^3 operations.
    """
    calls = [products(library, n) for n in SIZES]
    for call in calls:
        call()
    print("ready", flush=True)
    sys.stdin.readline()
    best = 0.0
    for n, call in zip(SIZES, calls):
        repeats = max(1, round(1e10 / (2 * n**3)))  # about a tenth of a second
        ends = time.perf_counter() + seconds / len(SIZES)
        while time.perf_counter() < ends:
            began = time.perf_counter()
            for _ in range(repeats):
                call()
            best = max(best, repeats * 2 * n**3 / (time.perf_counter() - began) / 1e9)
    return best


def together(library: str, processes: int, threads: int, seconds: float) -> float:
    """The sum of `measure` over processes of so many threads each, started at the same moment."""
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
        "MXNET_CPU_WORKER_NTHREADS": "1",
    }
    command = [sys.executable, __file__, "--child", library, "--seconds", str(seconds)]
    started = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            sys.exit(f"matmul_peak: {library} does not start (`duplet doctor` tells why)")
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0].splitlines()[-1]) for process in started)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3, help="of measuring, per process and library")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(measure(options.child, options.seconds))
        return
    cores, found = len(os.sched_getaffinity(0)), {}
    bfloat16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    for library in (*LIBRARIES, *([IN_BFLOAT16] if bfloat16 else [])):
        workers, one = together(library, cores, 1, options.seconds), together(library, 1, cores, options.seconds)
        found[library] = {"one_thread_processes": round(workers, 1), "one_process": round(one, 1)}
    best = max(LIBRARIES, key=lambda library: max(found[library].values()))
    peaks = {"peak_gflops": max(found[best].values()),
             "peak_bfloat16_gflops": max(found[IN_BFLOAT16].values()) if bfloat16 else None}  # fmt: skip
    print(json.dumps({"cores": cores, "libraries": found, "library": best, **peaks}))


if __name__ == "__main__":
    main()
