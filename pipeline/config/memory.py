"""How much memory training needs, from the settings alone: an update as large as they allow.

Counted are a process, the parameters with what the optimizer keeps of them, and what an update's forward and backward
pass hold at once. The factors follow the layers' arrays; tests/updates/test_memory.py compares with measured peaks.
Pictures and what evaluation reads are not counted.
"""

import re
from typing import Any, NamedTuple

# Numbers that a piece of the queries is scored in, four bytes each; the backward pass needs some three times as much.
MAX_SCORES = 2**25
PROCESS = 300 * 2**20  # bytes of a worker that computes nothing: Python and its libraries
ON_CARD = 800 * 2**20  # of CUDA's context and libraries on a GPU
UNSURE = 1.5  # the estimate may be larger than what is needed by about so much
# Bytes of the largest variant of a kind, so that none is refused that would do.
CARDS = {
    "t4": 16, "p100": 16, "v100": 32, "a10": 24, "a10g": 24, "a30": 24, "a40": 48, "a100": 80, "l4": 24, "l40": 48,
    "l40s": 48, "h100": 94, "h200": 141, "a4000": 16, "a5000": 24, "a6000": 48, "rtx3090": 24, "rtx4090": 24,
}  # fmt: skip


class Sizes(NamedTuple):
    """What a task makes of an update."""

    tokens: int  # that are encoded, of all workers
    beside: tuple[
        tuple[float, str], ...
    ] = ()  # numbers that a part of a worker holds, and the setting that lowers them


class Need(NamedTuple):
    """Bytes of one worker by the setting that lowers them; of a process, "train.workers"."""

    parts: dict[str, int]
    saving: int  # what rank 0 copies for a checkpoint

    @property
    def total(self) -> int:
        """Without saving."""
        return sum(self.parts.values())


def padded_tokens(config: Any) -> int:
    """The most tokens of an update, with padding, as the settings allow."""
    longest = sum(limit or 0 for limit in config.tokenize.max_tokens.values())
    return int(min(config.train.max_tokens_per_update, config.train.max_pairs_per_update * longest))


def part_of(config: Any, count: int) -> int:
    """The share of one part of one worker."""
    return -(-count // (config.train.workers * config.train.accumulate))


def need(config: Any, vocabulary: int = 0) -> Need:
    """What a worker needs. `vocabulary`: tokens in it; 0 where it is not known yet, and then it is not counted."""
    model, train = config.model, config.train
    sizes = config.spec.sizes(config, vocabulary) if config.spec.sizes else Sizes(padded_tokens(config))
    gates, width = model.steps_by.gates, model.hidden * model.directions
    # a token: its row and the gradient of it, with dropout; a layer: its input and mask, gates, states, all with
    # gradients; pooling
    each, inputs, dense = 4.0 * model.embedding, model.embedding, 0
    for _ in range(model.layers):
        each += 3 * inputs + (2 * gates + 4) * width
        dense += model.directions * gates * model.hidden * (inputs + model.hidden + 2)
        inputs = width
    each += 4 * width
    towers = 2 if config.spec.heads and model.towers == "separate" else 1
    table, kept = vocabulary * model.embedding, 1 if train.optimizer.kind == "sgd" else 2
    kept += 1 + bool(train.average)
    parts = {
        "train.workers": ON_CARD if train.gpus else PROCESS,
        "model.hidden": 4 * towers * dense * (kept + 1),
        "tokenize.vocabulary_size": 4 * table * kept,
        "train.max_tokens_per_update": int(4 * part_of(config, sizes.tokens) * each),
    }
    for numbers, setting in sizes.beside:
        parts[setting] = parts.get(setting, 0) + int(4 * numbers)
    return Need(parts, 4 * (towers * dense + table) * kept)


def refusal(config: Any, available: int, where: str, workers: int, vocabulary: int = 0) -> str | None:
    """A sentence where so many workers cannot fit into the bytes that are available together; None where they may."""
    needed = need(config, vocabulary)
    total = workers * needed.total + (0 if config.train.gpus else needed.saving)
    if total <= UNSURE * available:
        return None
    largest = max(needed.parts, key=lambda name: needed.parts[name])
    current = config.train.workers if largest == "train.workers" else _value(config, largest)
    remedy = f"lower {largest}={current}"
    if largest.startswith("train.max_"):
        remedy += f", or raise train.accumulate={config.train.accumulate}"
    each = f"{workers} workers need" if workers > 1 else "a worker needs"
    return (
        f"an update as large as the settings allow does not fit into memory: {each} about {total:,} bytes "
        f"({_gib(total)}), {where} has {available:,} ({_gib(available)}); {_gib(workers * needed.parts[largest])} "
        f"of it goes with {largest}: {remedy}"
    )


def card_bytes(kind: str | None) -> int | None:
    """Memory of a kind of GPU, as a cluster calls it; None where that is not known.

    >>> card_bytes("nvidia_a100-pcie-40gb") == 40 * 2**30, card_bytes("a100") == 80 * 2**30, card_bytes("x")
    (True, True, None)
    """
    if kind is None:
        return None
    if match := re.search(r"(\d+)gb", kind.lower()):
        return int(match[1]) * 2**30
    words = re.findall(r"[a-z]+\d+[a-z]*", kind.lower().replace("rtx_", "rtx").replace("rtx-", "rtx"))
    return next((CARDS[word] * 2**30 for word in words if word in CARDS), None)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _value(config: Any, setting: str) -> Any:
    for name in setting.split("."):
        config = getattr(config, name)
    return config
