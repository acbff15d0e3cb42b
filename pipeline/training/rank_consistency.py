"""Whether all workers hold the same: versions and data when they begin, parameters after each exchange."""

import json
import socket
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core import atomic_files, manifest
from pipeline.core.errors import DupletError, InputError
from pipeline.core.version import __version__
from pipeline.distributed.world import World

# Of an array's largest magnitude: what processors that round differently may drift apart.
NOISE = 1e-5

ENVIRONMENT = "use one environment on all hosts"
DATA = "let all hosts have one root, or copy {folder} to that one anew"


def check_alike(tokenized: Path, lengths: np.ndarray | None, packages: Sequence[str], world: World) -> None:
    """Tells the others of this worker's versions, vocabularies and examples; every worker calls it.

    Args:
        lengths: (N, S), tokens of the training examples' sides, which decide who takes which; None: nothing is trained.
        packages: that the configuration uses beside Duplet's own.

    Raises:
        InputError, on all workers: one has others than most; names it, its host and what to do.
    """
    if world.size == 1:
        return
    versions = {"duplet": __version__} | manifest.versions("mxnet", "horovod", "numpy", *packages)
    own = {name: [f"{name} {version}", ENVIRONMENT] for name, version in versions.items()}
    remedy = DATA.format(folder=tokenized)
    for path in sorted(tokenized.rglob("*")):
        if path.suffix in (".json", ".model") and path.name != manifest.NAME:
            name = str(path.relative_to(tokenized))
            own[name] = [f"{name} of SHA-256 {atomic_files.sha256(path)[:12]}", remedy]
    if lengths is not None:
        checksum = zlib.crc32(np.ascontiguousarray(lengths).data)
        own["examples"] = [f"{len(lengths)} training examples of CRC-32 {checksum:08x}", remedy]
    line = json.dumps([socket.gethostname(), own]).encode() + b"\n"
    told = world.gather_numpy(np.frombuffer(line, np.uint8).astype(np.int32), "versions and data")
    hosts, helds = zip(*(json.loads(line) for line in told.astype(np.uint8).tobytes().splitlines()))
    for name in sorted(set().union(*helds)):
        everyones = np.array([held.get(name, [f"no {name}"])[0] for held in helds])
        right = _most_common(everyones)
        for wrong in np.flatnonzero(everyones != everyones[right]):
            raise InputError(
                f"rank {wrong} on {hosts[wrong]} has {everyones[wrong]}, and rank {right} on {hosts[right]} "
                f"{everyones[right]}: {(helds[wrong].get(name) or helds[right][name])[1]}"
            )


def compare(parameters: dict[str, Any], world: World, update: int, equal_at: int) -> None:
    """Exchanges a checksum per parameter; only where those differ, the parameter itself.

    Args:
        parameters: Gluon parameters by name, the same names in the same order on all ranks.
        update, equal_at: updates done, and when all were last seen to be equal.

    Raises:
        DupletError, on all ranks: a parameter differs by more than float noise; names it, the rank and the update.
    """
    names = list(parameters)
    own = [zlib.crc32(parameters[name].data(world.context).asnumpy()) for name in names]
    sums = world.gather_numpy(np.array([own], np.uint32).view(np.int32), "checksums")  # (workers, parameters)
    for i in np.flatnonzero((sums != sums[0]).any(axis=0)):
        own_values = parameters[names[i]].data(world.context).expand_dims(0)
        values = world.gather(own_values, "compared").asnumpy().astype(np.float64)  # (workers, …)
        right = _most_common(sums[:, i])
        apart = [float(np.abs(value - values[right]).max()) for value in values]
        bound = NOISE * float(np.abs(values[right]).max())
        wrong = [rank for rank, distance in enumerate(apart) if not distance <= bound]  # nan is wrong too
        if wrong:
            raise DupletError(
                f"parameter {names[i]} of rank {wrong[0]} differs from rank {right}'s by up to {apart[wrong[0]]:.3g} "
                f"at update {update}, more than float noise, and did not at update {equal_at}: check that worker's "
                "memory and network; the same command goes on from the newest checkpoint, saved while they were equal"
            )


def _most_common(sums: np.ndarray) -> int:
    """The first rank of those that the most agree with."""
    return int(np.argmax([(sums == checksum).sum() for checksum in sums]))
