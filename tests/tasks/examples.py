"""A tiny configuration of every task over an embedded source, and one of graded pairs; what the tests that hold for
every task run on."""

from pathlib import Path
from typing import Any

from pipeline.config import Config, check_config

CODE = {"format": "python", "of": "package", "max_records": 300}

BPE: dict[str, Any] = {"kind": "sentencepiece", "sentencepiece_model": "bpe", "vocabulary_size": 120}

# Sizes are small and dropout is on: what resumes bit for bit must do so with it.
SMALL: dict[str, dict[str, Any]] = {
    "matching": {
        "task": "matching",
        "ingest": {
            "source": {"format": "docstrings", "max_pairs": 240},
            "split": {"valid": 0.2, "test": 0.2},
        },
        "tokenize": {"max_tokens": {"query": 8, "document": 16}, "max_passages": 3},
        "model": {"embedding": 12, "hidden": 8, "layers": 2},
        "train": {"max_pairs_per_update": 16},
    },
    "pairs": {  # with dropout within the head
        "task": "matching",
        "ingest": {"source": {"format": "docstrings", "max_pairs": 120}, "split": {"valid": 0.2, "test": 0.2}},
        "tokenize": {"max_tokens": {"query": 16, "document": 16}},
        "model": {"embedding": 12, "hidden": 8, "head": "cross_attention"},
        "train": {"max_pairs_per_update": 16, "swap_share": 0.5, "loss": {"kind": "pointwise", "grades": 3}},
        "evaluate": {"kinds": ["graded"]},
    },
    "classification": {
        "task": "classification",
        "ingest": {"source": CODE, "split": {"valid": 0.2, "test": 0.2}},
        "tokenize": {"max_tokens": {"text": 24}, **BPE},
        "model": {"embedding": 12, "hidden": 8, "layers": 2, "pooling": "last"},
        "train": {"max_pairs_per_update": 16, "bpe_dropout": 0.3},
    },
    "tagging": {
        "task": "tagging",
        "ingest": {
            "source": {"format": "python", "of": "kinds", "max_records": 300},
            "split": {"valid": 0.2, "test": 0.2},
        },
        "model": {"embedding": 12, "hidden": 8},
        "tagging": {"characters": True, "crf": True},
        "train": {"max_pairs_per_update": 16},
    },
    "cloze": {
        "task": "cloze",
        "ingest": {
            "source": {"format": "python", "of": "prose", "max_records": 300},
            "split": {"valid": 0.2, "test": 0.2},
        },
        "tokenize": {"max_tokens": {"text": 20}},
        "model": {"embedding": 12, "hidden": 8},
        "cloze": {"sampled": 40},
        "train": {"max_pairs_per_update": 16},
    },
    "language_model": {
        "task": "language_model",
        "ingest": {
            "source": {"format": "python", "of": "code", "max_records": 120, "lines_per_record": 3},
            "split": {"valid": 0.2, "test": 0.2},
        },
        "tokenize": {"kind": "verbatim", "lowercase": False, "min_count": 1},
        "model": {"embedding": 12, "hidden": 8, "layers": 2, "directions": 1},
        "language_model": {"streams": 5, "steps": 20, "variational": True, "sample_tokens": 10},
        "train": {},
    },
    "translation": {
        "task": "translation",
        "ingest": {"source": {"format": "numbers", "count": 240}, "split": {"valid": 0.2, "test": 0.2}},
        "tokenize": BPE,
        "model": {"embedding": 12, "hidden": 8, "layers": 2},
        "translation": {"attention": "bahdanau", "beam": 3},
        "train": {"max_pairs_per_update": 16, "bpe_dropout": 0.3},
    },
    "captioning": {
        "task": "captioning",
        "ingest": {"source": {"format": "scenes", "count": 120}, "split": {"valid": 0.2, "test": 0.2}},
        "model": {"embedding": 12, "hidden": 8},
        "train": {"max_pairs_per_update": 16},
    },
    "visual_question": {
        "task": "visual_question",
        "ingest": {"source": {"format": "scene_questions", "count": 120}, "split": {"valid": 0.2, "test": 0.2}},
        "model": {"embedding": 12, "hidden": 8},
        "train": {"max_pairs_per_update": 16},
    },
}


def to_predict(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """A record as a row that the task predicts something for."""
    if name == "cloze":
        words = row["text"].split()
        return {"text": " ".join([*words[: len(words) // 2], "___", *words[len(words) // 2 + 1 :]])}
    return row


def small(name: str, root: str, **train: Any) -> dict[str, Any]:
    """The whole configuration of one task; `train` adds to its section."""
    base: dict[str, Any] = {"name": name, "root": root, "tracking": {"system_metrics": False, "send": "later"}}
    base |= {"evaluate": {"bootstrap_samples": 20}, **SMALL[name]}
    schedule = {"schedule": {"warmup_updates": 2}, "threads_per_worker": 1, "log_every_updates": 2, "epochs": 2}
    return base | {"train": schedule | SMALL[name]["train"] | train}


def drawn(task: str, source: str, root: Path, **more: Any) -> Config:
    """A task over 150 drawn scenes; arguments replace whole sections."""
    data: dict[str, Any] = {
        "name": "drawn", "root": str(root), "task": task,
        "ingest": {"source": {"format": source, "count": 150}, "split": {"valid": 0.2, "test": 0.2}},
        "model": {"embedding": 8, "hidden": 8}, "evaluate": {"bootstrap_samples": 20},
        "tracking": {"system_metrics": False, "send": "later"},
    }  # fmt: skip
    return check_config(data | more, "test")
