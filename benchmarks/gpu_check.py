"""Checks on a real GPU what Duplet promises, and writes one report to send back; benchmarks/gpu_check.sh starts it.

Each check runs in a process of its own, so that one that ends it leaves the others to run. What a check found stands
beside its limit; `not run` says why. Exit code 0: all that ran held; 1: something did not.

equality: each task's first updates on the CPU and on the GPU, from equal parameters, without dropout: the largest
difference of a loss or of a parameter, as a part of the largest of its kind. TF32 is off for it. padding: a text alone
and behind padding, each cell. dropout: the same seed draws the same masks. skipping: an update that is not finite
changes nothing. resume: a training that was ended goes on to the parameters of one that was not. workers: two GPUs
train what one does, by NCCL. speed: real tokens per second of `make bench`'s model, at several sizes of an update.
memory: the most that nvidia-smi saw in use meanwhile.

    python benchmarks/gpu_check.py [--quick] [--only NAME]
"""

import argparse
import contextlib
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
REPORT = "gpu_check.txt"
TASKS = ("matching", "classification", "tagging", "cloze", "language_model", "translation", "captioning",
         "visual_question")  # fmt: skip
CELLS = ("lstm", "gru", "rnn_relu", "rnn_tanh")
EQUAL = 1e-3  # of two devices' losses and parameters, as a part of the largest
PADDING = 1e-6
PAIRS = (64, 256, 1024)  # of an update
TIMEOUT_S = 1800


class Row(NamedTuple):
    """What a check found."""

    state: str  # ok, failed, not run, measured
    found: str
    limit: str = ""


# --- the checks -------------------------------------------------------------------------------------------------------
def equality(task: str, folder: Path, quick: bool) -> Row:
    """See the top."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    plain: dict[str, Any] = {
        "model": {"dropout": 0.0},
        "train": {"optimizer": {"kind": "sgd", "learning_rate": 0.1}, "max_updates": 3, "log_every_updates": 1},
    }
    plain |= {"cloze": {"sampled": 0}, "language_model": {"variational": False}}
    (cpu, losses), (gpu, others) = (_trained(task, folder, gpus, plain) for gpus in (False, True))
    far = float(np.abs(others - losses).max() / np.abs(losses).max())
    for name, array in cpu.items():
        far = max(far, float(np.abs(gpu[name] - array).max() / max(np.abs(array).max(), 1e-3)))
    return _within(far, EQUAL)


def padding(cell: str, folder: Path, quick: bool) -> Row:
    """See the top."""
    import mxnet as mx
    from mxnet import nd

    from pipeline.models.encoder import padding_of
    from pipeline.models.recurrent import RecurrentLayer
    from pipeline.training.worker import gpu_environment

    os.environ.update(gpu_environment(_config("matching", folder, {"model": {"cell": cell}})))
    gpu = mx.gpu(0)
    layer = RecurrentLayer(cell, 32, 64, 2)
    layer.initialize(mx.init.Uniform(0.3), ctx=mx.cpu())
    layer.collect_params().reset_ctx(gpu)
    x = np.random.default_rng(1).normal(size=(40, 4, 32)).astype(np.float32)
    results = []
    for steps in (25, 40):
        lengths = nd.full(4, 25, gpu, "int32")
        results.append(layer(nd.array(x[:steps], gpu), padding_of(lengths, steps), layer.packed(gpu))[:25].asnumpy())
    return _within(float(np.abs(results[0] - results[1]).max()), PADDING)


def dropout(folder: Path, quick: bool) -> Row:
    """See the top."""
    import mxnet as mx
    from mxnet import autograd, nd

    from pipeline.models.dropout import Dropout

    masks = []
    for seed in (1, 1, 2):
        mx.random.seed(seed)
        with autograd.record():
            masks.append(Dropout(0.5)(nd.ones((64, 64), ctx=mx.gpu(0))).asnumpy())
    held = bool((masks[0] == masks[1]).all() and (masks[0] != masks[2]).any())
    return Row("ok" if held else "failed", f"equal masks of one seed {(masks[0] == masks[1]).all()}", "and only of one")


def skipping(kind: Any, folder: Path, quick: bool) -> Row:
    """See the top."""
    from mxnet import nd

    from pipeline.config import OptimizerConfig
    from pipeline.distributed.world import World
    from pipeline.models.parameters import parameters_of
    from pipeline.tasks.base import task_of
    from pipeline.training.optimizer import Optimizer

    config, tokenized = _prepared("translation", folder, True, {})
    world = World(True)
    network = task_of(config, tokenized).network()
    network.initialize(ctx=world.context)
    optimizer = Optimizer(network, OptimizerConfig(kind=kind), world)
    for _, parameter in optimizer.dense:
        parameter.grad(world.context)[:] = 1
    held = lambda: {name: p.data(world.context).asnumpy() for name, p in parameters_of(network).items()}
    optimizer.step(None, 0.1, 0)
    before = held()
    optimizer.step(None, 0.1, 1, nd.full(1, np.nan, ctx=world.context))
    changed = [name for name, array in held().items() if (array != before[name]).any()]
    optimizer.step(None, 0.1, 2)
    moved = any((array != before[name]).any() for name, array in held().items())
    state = "ok" if moved and not changed else "failed"
    return Row(state, f"{len(changed)} arrays changed, by other updates: {moved}", "0")


def resume(folder: Path, quick: bool) -> Row:
    """See the top."""
    halves = {"train": {"max_updates": 8, "checkpoint_every_updates": 4}}
    newest = folder / "gpu" / "checkpoints" / "update-00000008"
    found: list[dict[str, np.ndarray]] = []
    said: list[str] = []
    for _ in range(2):
        _trained("matching", folder, True, halves, said.append)
        found.append(dict(np.load(newest / "parameters.npz")))
        shutil.rmtree(newest)  # as if it had been ended before: it goes on from update 4
    if "going on from update-00000004" not in said:
        return Row("failed", "it did not go on from update 4")
    return _within(max(float(np.abs(found[1][name] - array).max()) for name, array in found[0].items()), EQUAL)


def workers(folder: Path, quick: bool) -> Row:
    """See the top."""
    import horovod.mxnet as hvd
    import mxnet as mx

    if mx.context.num_gpus() < 2:
        return Row("not run", f"{mx.context.num_gpus()} GPU here")
    if not hvd.nccl_built():
        return Row("not run", "Horovod was built without NCCL")
    settings = ["model.dropout=0", "train.optimizer.kind=sgd", "train.max_updates=5", "train.gpus=true"]
    found = []
    for count in (1, 2):
        path = folder / "workers.yaml"
        path.write_text(json.dumps(_settings("matching", folder / str(count), {})))
        stages = _command("train", str(path), *settings, f"train.workers={count}")["stages"]
        found.append(dict(np.load(Path(stages["train"]["folder"]) / "parameters.npz")))
    return _within(max(float(np.abs(found[1][k] - a).max() / np.abs(a).max()) for k, a in found[0].items()), EQUAL)


def speed(pairs: int, count: int, folder: Path, quick: bool) -> Row:
    """Real tokens per second, and the most memory in use."""
    import mxnet as mx

    if mx.context.num_gpus() < count:
        return Row("not run", f"{mx.context.num_gpus()} GPU here")
    from training_speed import train  # beside this file

    overrides = ["train.gpus=true", f"train.workers={count}", f"train.max_pairs_per_update={pairs * count}",
                 f"train.max_tokens_per_update={pairs * count * 512}", "train.epochs=100",
                 f"train.max_updates={12 if quick else 60}", "train.log_every_updates=2"]  # fmt: skip
    overrides += ["ingest.source.max_pairs=600"] if quick else []
    with _memory() as used:
        found = train(folder / "bench", *overrides)
    shares = f"padding {found['padding_share']:.0%}, waiting for data {found['data_wait_share']:.0%}"
    return Row("measured", f"{found['tokens_per_s']:,.0f} tokens/s, {shares}, memory {used[0]} MiB")


def checks(quick: bool) -> dict[str, Callable[[Path, bool], Row]]:
    """All of them, by name."""
    tasks = ("matching", "captioning") if quick else TASKS
    found: dict[str, Callable[[Path, bool], Row]] = {
        **{f"equality {task}": functools.partial(equality, task) for task in tasks},
        **{f"padding {cell}": functools.partial(padding, cell) for cell in CELLS},
        "dropout": dropout,
        **{f"skipping {kind}": functools.partial(skipping, kind) for kind in ("adam", "sgd")},
        "resume": resume,
        "workers": workers,
    }
    for pairs in PAIRS[:1] if quick else PAIRS:
        for count in (1, 2):
            found[f"speed {pairs} pairs on {count} GPU"] = functools.partial(speed, pairs, count)
    return found


# --- what they share --------------------------------------------------------------------------------------------------
def _within(found: float, limit: float) -> Row:
    return Row("ok" if found <= limit else "failed", f"{found:.2e}", f"{limit:.0e}")


def _settings(task: str, folder: Path, sections: dict[str, Any]) -> dict[str, Any]:
    """A small configuration of a task over what Duplet makes up itself."""
    from tests.tasks.examples import small

    data = small(task, str(folder / "runs"))
    for name, values in sections.items():
        if name in ("model", "train", task):
            data[name] = {**data.get(name, {}), **values}
    return data


def _config(task: str, folder: Path, sections: dict[str, Any]) -> Any:
    from pipeline.config import check_config

    return check_config(_settings(task, folder, sections), "gpu_check")


def _prepared(task: str, folder: Path, gpus: bool, sections: dict[str, Any]) -> tuple[Any, Path]:
    """The configuration, and its tokenized folder."""
    from pipeline.orchestration import flow

    stages = flow.run(_config(task, folder, sections), "gpu_check", "tokenize", lambda line: None).stages
    train = {**sections.get("train", {}), "gpus": gpus}
    return _config(task, folder, {**sections, "train": train}), Path(stages["tokenize"]["folder"])


def _trained(
    task: str, folder: Path, gpus: bool, sections: dict[str, Any], say: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Trains from parameters that were drawn on the CPU, or goes on; parameters and losses."""
    import mxnet as mx

    from pipeline.core.event_log import Spool
    from pipeline.distributed.world import World
    from pipeline.models.parameters import parameters_of
    from pipeline.tasks.base import task_of
    from pipeline.training import loop
    from pipeline.training.optimizer import set_parameters

    config, tokenized = _prepared(task, folder, gpus, sections)
    world, start = World(gpus), task_of(config, tokenized).network()
    mx.random.seed(1)
    np.random.seed(1)
    start.initialize(ctx=mx.cpu())
    opened = task_of(config, tokenized)
    network = opened.network()
    network.initialize(ctx=world.context)
    set_parameters(network, {name: p.data(mx.cpu()).asnumpy() for name, p in parameters_of(start).items()})
    work = folder / ("gpu" if gpus else "cpu")
    work.mkdir(parents=True, exist_ok=True)
    spool = Spool(work / "points.jsonl")
    state = loop.fit(opened, network, config, world, work / "checkpoints", spool, say)
    losses = np.array([point["loss"] for point in state.history if "loss" in point])
    return {name: p.data(world.context).asnumpy() for name, p in parameters_of(network).items()}, losses


def _command(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "pipeline.cli", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"`duplet {' '.join(arguments)}` ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def _memory() -> Iterator[list[str]]:
    """[the most MiB in use on any GPU while entered], as nvidia-smi says."""
    most, over = ["unknown"], threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            said = _printed("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits").split()
            if said and all(word.isdigit() for word in said):
                most[0] = str(max([0 if most[0] == "unknown" else int(most[0]), *map(int, said)]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def _printed(*command: str) -> str:
    """What a command prints, or that it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    return (done.stdout or done.stderr).strip()


# --- the report -------------------------------------------------------------------------------------------------------
def run(names: list[str], quick: bool, report: Path) -> bool:
    """Runs checks and writes the report; whether all held."""
    held = True
    with report.open("w", encoding="utf-8") as file:

        def tell(text: str) -> None:
            print(text, flush=True)
            file.write(text + "\n")
            file.flush()

        tell(f"Duplet on a GPU, {time.strftime('%Y-%m-%d')}, {platform.platform()}, Python {platform.python_version()}")
        asked = "--query-gpu=name,compute_cap,driver_version,memory.total"
        tell(_printed("nvidia-smi", asked, "--format=csv,noheader"))
        tell(_printed("git", "-C", str(HERE), "log", "-1", "--format=commit %H"))
        tell(_printed(sys.executable, "-m", "pipeline.cli", "doctor"))
        tell(f"\n{'check':<26} {'state':<9} {'found':<50} {'limit':<12} seconds")
        for name in names:
            began = time.monotonic()
            row, said = _in_a_process(name, quick)
            held = held and row.state != "failed"
            tell(f"{name:<26} {row.state:<9} {row.found:<50} {row.limit:<12} {time.monotonic() - began:.0f}")
            if said:
                tell("    " + said.replace("\n", "\n    "))
        tell("\nall that ran held" if held else "\nnot all held")
    return held


def _in_a_process(name: str, quick: bool) -> tuple[Row, str]:
    """A check's row, and the end of what it said where it did not come to one."""
    command = [sys.executable, __file__, "--only", name, *(["--quick"] if quick else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Row("failed", f"not within {TIMEOUT_S} s"), ""
    if done.returncode == 0:
        return Row(*json.loads(done.stdout.splitlines()[-1])), ""
    return Row("failed", f"ended with {done.returncode}"), "\n".join(done.stderr.splitlines()[-12:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two tasks and few updates: whether the checks run at all")
    parser.add_argument("--only", help="one check, in this process; its row as JSON")
    parser.add_argument("--report", type=Path, default=Path(REPORT))
    arguments = parser.parse_args()
    known = checks(arguments.quick)
    if not arguments.only:
        return 0 if run(list(known), arguments.quick, arguments.report) else 1
    folder = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    try:
        row = known[arguments.only](folder, arguments.quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
