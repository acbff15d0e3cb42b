"""One worker process: reads its job from a work folder, joins the others, and trains or evaluates."""

import contextlib
import json
import os
import re
import shutil
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import mxnet as mx
import numpy as np
from mxnet import nd

from pipeline.config import Config, check_config
from pipeline.config.mining import ranking_model
from pipeline.core import atomic_files
from pipeline.core.errors import DupletError, InputError, TryAgain, room_on
from pipeline.core.event_log import Spool
from pipeline.core.progress import Say
from pipeline.core.redaction import hide
from pipeline.distributed.heartbeat import Heart
from pipeline.distributed.launcher import GRACE_S, LOST_OTHERS, OUTCOME, PROGRESS, SAMPLES, Job
from pipeline.distributed.rendezvous import INTERFACE
from pipeline.distributed.world import World
from pipeline.models.kernel import library
from pipeline.models.parameters import model_of
from pipeline.tasks.base import task_of
from pipeline.tokenization.encoder import load_vocabulary
from pipeline.training import loop, rank_consistency, recurrent_kernel, vectors, warm_start
from pipeline.training.optimizer import set_parameters
from pipeline.training.replay import again

PARAMETERS = "parameters.npz"
# What an exchange says when another worker is gone: Horovod, or Gloo's connections below it.
OTHERS_END = re.compile(
    r"Horovod has been shut down|Connection (reset|closed) by peer|Broken pipe|Connection refused|NCCL async error"
)
# What says that there is no memory left: NumPy, MXNet on the CPU and on a GPU, oneDNN, C++.
NO_MEMORY = re.compile(
    r"unable to allocate|failed to allocate|memory allocation failed|out of memory|bad_alloc|could not create a memory",
    re.IGNORECASE,
)

# What is wrong with a worker's host, not with the settings: what an error says then, and what to do.
HOST_FAULTS = (
    (
        re.compile(r"no kernel image|invalid device function", re.IGNORECASE),
        "MXNet has no code for its GPU: take another kind, which `duplet doctor` there names, or set train.gpus=false",
    ),
    (
        re.compile(r"nccl(GetUniqueId|CommInitRank) failed"),
        f"NCCL finds no network to the other workers: name one that reaches them with {INTERFACE}, or set "
        "NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO says more",
    ),
)  # fmt: skip


def train(job: Job, config: Config, world: World, say: Say, heart: Heart) -> None:
    """Trains and writes (rank 0) the best parameters, the history and the loss curves into the stage folder."""
    task = task_of(config, Path(job.tokenized))
    rank_consistency.check_alike(Path(job.tokenized), task.lengths, config.packages, world)
    task.others = {name: Path(path) for name, path in job.others.items()}
    network = task.network()
    mx.random.seed(config.seed)
    np.random.seed(config.seed)  # MXNet's orthogonal initializer draws from it
    network.initialize(ctx=world.context)
    first = job.others.get("pretrain")
    start = lambda folder: warm_start.start_from(
        Path(folder), network, Path(job.tokenized), config.task, config.model.cell
    )
    if config.train.start_from:
        say(start(config.train.start_from))
    pretrained_rows = None
    if config.model.vectors:
        vocabulary = load_vocabulary(Path(job.tokenized))
        pretrained_rows, lines = vectors.start(Path(config.model.vectors), network, vocabulary)
        for line in lines:
            say(line)
    if first is not None:  # it has begun with those vectors
        say(start(first))
    spool = Spool(points(job), config.tracking.spool_mb * 2**20)
    state = loop.fit(task, network, config, world, Path(job.work) / "checkpoints", spool, say, heart, pretrained_rows)
    task.finish(network, world, Path(job.output))
    if world.rank == 0:
        output = Path(job.output)
        arrays = {name: p.data(world.context).asnumpy() for name, p in model_of(network).items()}
        np.savez(output / PARAMETERS, **arrays)
        result = {"updates": state.update, "best_update": state.best_update, f"valid/{config.train.metric}": state.best}
        result["parameters"] = sum(array.size for array in arrays.values())
        (output / "result.json").write_text(atomic_files.as_json(result), encoding="utf-8")
        (output / library.RAN).write_text(f"{state.kernel}\n", encoding="utf-8")
        shutil.copy(points(job), output / "points.jsonl")
        (output / "history.json").write_text(atomic_files.as_json(state.history), encoding="utf-8")
        from pipeline.reporting import plots  # takes time, and the other ranks draw nothing

        plots.loss_curves(state.history, output / "curves.png")
        some = task.lengths[:: max(1, len(task.lengths) >> 20)]  # a million show what there is
        plots.length_histograms({side: some[:, i] for i, side in enumerate(task.sides)}, output / "lengths.png")
        if (samples := Path(job.work) / SAMPLES).exists():
            shutil.copytree(samples, output / SAMPLES)


def mine(job: Job, config: Config, world: World, say: Say, heart: Heart) -> None:
    """Ranks the training split's documents by a trained model; rank 0 writes what is found."""
    from pipeline.tasks import mining  # no other verb needs BM25

    task, trained = task_of(config, Path(job.tokenized)), ranking_model(config)
    network = task.network()
    mx.random.seed(config.seed)
    np.random.seed(config.seed)
    network.initialize(ctx=world.context)
    ran = library.in_float32(library.ran(Path(str(trained))))
    recurrent_kernel.agree(config.model.runs, "float32", ran, world, say)
    try:
        say(warm_start.start_from(Path(str(trained)), network, Path(job.tokenized), config.task, config.model.cell))
    except InputError as error:
        setting = "mine.model" if config.mine.model else "train.start_from"
        raise InputError(str(error).replace("train.start_from", setting)) from None
    heart("mining", -1)
    mining.by_model(config, task.train, network, world, Path(job.output))
    if world.rank == 0:
        (Path(job.output) / "result.json").write_text("{}", encoding="utf-8")


def evaluate(job: Job, config: Config, world: World, say: Say, heart: Heart) -> None:
    """Judges the trained parameters on the test split; rank 0 writes tables, lists and result.json."""
    task = task_of(config, Path(job.tokenized))
    rank_consistency.check_alike(Path(job.tokenized), None, config.packages, world)
    network = task.network()
    network.initialize(ctx=world.context)
    assert job.trained is not None
    task.trained = Path(job.trained)
    # in float32, as it will be used
    recurrent_kernel.agree(config.model.runs, "float32", library.in_float32(library.ran(task.trained)), world, say)
    with np.load(Path(job.trained) / PARAMETERS, allow_pickle=False) as arrays:
        set_parameters(network, arrays)
    say("scoring the test split")
    heart("evaluating", -1)
    metrics = task.evaluate(network, world, Path(job.ingested), Path(job.output))
    if world.rank == 0:
        (Path(job.output) / "result.json").write_text(atomic_files.as_json(metrics), encoding="utf-8")


def replay(job: Job, config: Config, world: World, say: Say, heart: Heart) -> None:
    """Computes again the update that a training kept in `job.trained`; rank 0 writes the result as result.json."""
    task = task_of(config, Path(job.tokenized))
    task.others = {name: Path(path) for name, path in job.others.items()}
    network = task.network()
    network.initialize(ctx=world.context)
    assert job.trained is not None
    held_rows = None
    if config.model.vectors:  # whose rows were maybe held, and have no part in the gradients then
        held_rows, _ = vectors.start(Path(config.model.vectors), network, load_vocabulary(Path(job.tokenized)))
    result = again(Path(job.trained), task, network, config, world, say, held_rows)
    if world.rank == 0:
        (Path(job.output) / "result.json").write_text(atomic_files.as_json(result), encoding="utf-8")


def gpu_environment(config: Config) -> dict[str, str]:
    """What CUDA's libraries read when they are first used."""
    # else equal sums on several streams may differ in their last bits
    variables = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    if config.model.cell == "rnn_tanh":
        # 10 bits of a factor are not enough for the bias that holds the state at zero on padding (models.recurrent)
        variables["NVIDIA_TF32_OVERRIDE"] = "0"
    return variables


def points(job: Job) -> Path:
    """The file of measured points in a job's work folder."""
    return Path(job.work) / "points.jsonl"


def main(work: Path) -> NoReturn:
    """Runs the job in `work` and ends the process; rank 0's or the first failing rank's sentence is in outcome.json."""
    job = Job(**json.loads((work / "job.json").read_text(encoding="utf-8")))
    rank = 0
    heart: Heart | None = None
    try:
        config = check_config(job.config, "job.json")
        if config.train.gpus:
            os.environ.update(gpu_environment(config))
        world = World(config.train.gpus)
        rank = world.rank
        with room_on(work):
            (work / f"rank-{rank}.pid").write_text(str(os.getpid()))
            heart = Heart(work, rank, job.token, world.local_rank)
            verbs = {"train": train, "mine": mine, "evaluate": evaluate, "replay": replay}
            with atomic_files.lock(work / "lock") if rank == 0 else contextlib.nullcontext():
                verbs[job.verb](job, config, world, _sayer(work, rank), heart)
        nd.waitall()
        heart.end()
        world.close()
        _leave(0)
    except DupletError as error:
        code, message = error.exit_code, str(error)
    except Exception as error:
        trace = hide(traceback.format_exc())
        print(trace, file=sys.stderr)
        if OTHERS_END.search(str(error)):  # the other worker's end says more, if anything does
            os._exit(LOST_OTHERS)
        log = work / f"failure-rank-{rank}.txt"
        with contextlib.suppress(OSError):
            log.write_text(trace, encoding="utf-8")
        code, message = told(error, job)
        message = f"rank {rank} on {socket.gethostname()}: {message}: see {log}"
    if rank != 0 and code == TryAgain.exit_code:
        _wait_for(work / OUTCOME)
    if rank == 0 or not (work / OUTCOME).exists():
        try:
            outcome = {"exit_code": code, "message": hide(message), "token": job.token}
            atomic_files.write_text(work / OUTCOME, json.dumps(outcome))
        except OSError:  # no room even for that; the heartbeat's file has its size already
            if heart is not None:
                heart.full()
    _leave(code)  # Horovod's shutdown would wait for ranks that are still at work


def _leave(code: int) -> NoReturn:
    """Ends the process at once: the native libraries' own ends were seen to crash under threads that still ran."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def told(error: Exception, job: Job) -> tuple[int, str]:
    """Exit code and sentence of an error that is none of Duplet's own."""
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        return InputError.exit_code, no_memory(job)
    for says, sentence in HOST_FAULTS:
        if says.search(str(error)):
            return InputError.exit_code, sentence
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return DupletError.exit_code, f"{job.verb} failed ({what})"


def no_memory(job: Job) -> str:
    """What to do where an update does not fit into memory."""
    budget = job.config["train"]["max_tokens_per_update"]
    return (
        f"{job.verb} ran out of memory: lower train.max_tokens_per_update={budget}, the padded tokens of an update "
        "over all workers (and, where that is at its least, tokenize.max_tokens or model.hidden)"
    )


def _wait_for(outcome: Path) -> None:
    """Waits until rank 0 has saved and said so: the launcher kills the others at the first end that is no success."""
    end = time.monotonic() + GRACE_S
    while not outcome.exists() and time.monotonic() < end:
        time.sleep(0.05)


def _sayer(work: Path, rank: int) -> Say:
    """Rank 0's lines go to the progress file, which the launching process reads out; other ranks are silent."""

    def say(line: str) -> None:
        if rank == 0:
            with (work / PROGRESS).open("a", encoding="utf-8") as file:
                file.write(hide(line) + "\n")

    return say


if __name__ == "__main__":
    main(Path(sys.argv[1]))
