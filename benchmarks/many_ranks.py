"""Real trainings by many ranks of this machine, as several hosts start them: one is killed and goes on, one is not.

The ranks meet as they do on a cluster: a starter gives each its place as `srun` does, and they find each other by
`pipeline.distributed.rendezvous`, four ranks and more on each of four made-up hosts. A tiny model trains for an epoch
of some thirty updates; all ranks compare their parameters after each. All ranks of the second training are killed in
the middle; the same command goes on. Both must end with the same bits: checkpoint, parameters, history, points.

    python benchmarks/many_ranks.py [--ranks 16,32]
"""

import argparse
import os
import random
import shlex
import sys
import tempfile
import time
from pathlib import Path

import torture
from torture import Case, Training, configuration, finished, run, training_of

HOSTS = 4
UPDATES = 30  # of an epoch
torture.LIMIT_S = 1800.0  # many ranks share few cores
STARTER = """
import os, signal, subprocess, sys
per_host, hosts, command = int(sys.argv[1]) // 4, 4, sys.argv[2:]
processes = []
for rank in range(per_host * hosts):
    place = dict(SLURM_STEP_TASKS_PER_NODE=f"{per_host}(x{hosts})", SLURM_NODEID=rank // per_host,
                 SLURM_LOCALID=rank % per_host, SLURM_PROCID=rank)
    processes.append(subprocess.Popen(command, env={**os.environ, **{k: str(v) for k, v in place.items()}}))
signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in processes])
sys.exit(max(abs(process.wait()) for process in processes))
"""


def launcher(folder: Path) -> str:
    """What DUPLET_LAUNCHER is, with a starter in a folder."""
    (folder / "starter.py").write_text(STARTER, encoding="utf-8")
    module = [sys.executable, "-P", "-m", "pipeline.distributed.rendezvous"]
    starter = [sys.executable, str(folder / "starter.py"), "{workers}"]
    return shlex.join([*module, "serve", *starter, *module, "rank"])


def measure(folder: Path, config: Path, template: Path, ranks: int, rng: random.Random) -> bool:
    """Whether a killed training of so many ranks came out as an undisturbed one; says what happened."""
    overrides = (
        "train.epochs=1", f"train.max_pairs_per_update={2 * ranks}", "train.compare_ranks_every_updates=1",
        "train.checkpoint_every_updates=5", "train.validate_every_updates=20", "train.min_stall_s=600",
    )  # fmt: skip
    began = time.monotonic()
    expected = finished(training_of(config, folder / f"undisturbed-{ranks}", template, ranks, overrides))
    took = time.monotonic() - began
    training: Training = training_of(config, folder / f"killed-{ranks}", template, ranks, overrides)
    killed = training.kill(Case(ranks, "all ranks"), rng, after=UPDATES // 3)
    saved = sorted(path.name for path in training.kept.glob("update-*"))
    training.start()
    got = finished(training, started=True)
    different = [name for name in expected if expected[name] != got[name]]
    last = expected["last checkpoint"]
    print(
        f"{ranks} ranks: an epoch to {last} in {took:.0f} s; "
        + (
            f"killed while {killed.phase} with {saved[-1] if saved else 'no checkpoint'}, "
            if killed
            else "not killed, "
        )
        + f"then the same command: {len(different)} of {len(expected)} results differ {different or ''}",
        flush=True,
    )
    return killed is not None and bool(saved) and not different


def main() -> int:
    """Exit 1 where a training was not killed after a checkpoint, or came out different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="16,32", help="multiples of four")
    given = parser.parse_args()
    rng, good = random.Random(1), []
    for ranks in map(int, given.ranks.split(",")):
        with tempfile.TemporaryDirectory(prefix="duplet-ranks-") as name:
            folder = Path(name)
            config = configuration(folder, 2 * ranks * UPDATES)
            run("tokenize", config, f"root={folder / 'template'}")
            os.environ["DUPLET_LAUNCHER"], os.environ["DUPLET_INTERFACE"] = launcher(folder), "lo"
            good.append(measure(folder, config, folder / "template", ranks, rng))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
