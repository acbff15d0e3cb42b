"""Trained folders of the other tasks without a training: their own networks with random parameters."""

import json
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np

from pipeline.config import Config, check_config
from pipeline.core import manifest
from pipeline.core.manifest import KeyParts
from pipeline.tasks.base import Task, task_of
from tests.serving.networks import SMALL, randomise

WORDS = ["a", "b", "c", "d", "sort", "list", "zebra"]
LABELS = ["bad", "good", "so-so"]
TAGS = ["O", "B-X", "I-X", "B-Y"]
LETTERS = [" ", *"abcdeilorstz"]
COLUMNS: dict[str, dict[str, str]] = {
    "classification": {"text": "review", "label": "stars"},
    "tagging": {"text": "sentence", "tags": "marks"},
    "cloze": {"text": "passage"},
}


def config_of(task: str, model: dict[str, Any] | None = None, **sections: Any) -> Config:
    """A small configuration of a task; a language model reads forwards."""
    source = {"format": "jsonl", "path": "rows.jsonl", "columns": COLUMNS[task]} if task in COLUMNS else {
        "format": "text", "path": "text.txt"
    }  # fmt: skip
    sizes = SMALL | {"layers": 2} | ({"directions": 1} if task == "language_model" else {}) | (model or {})
    data = {"name": "small", "task": task, "ingest": {"source": source}, "model": sizes, **sections}
    return check_config(data, "test")


def write_vocabularies(folder: Path, config: Config) -> None:
    """Vocabularies and tokenizers as training leaves them."""
    kind = {"tagging": "whitespace", "language_model": "whitespace"}.get(config.task, "word")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, WORDS, kind, True, {"text": 9 if config.task != "language_model" else None})
    if config.task == "classification":
        _write(folder / "label", LABELS, "whole", False, {"label": 1})
    if config.task == "tagging":
        _write(folder / "tags", TAGS, "whitespace", False, {"tags": 9})
        _write(folder / "letters", LETTERS, "letters", False, {"letters": 30})


def _write(folder: Path, tokens: list[str], kind: str, lowercase: bool, limits: dict[str, int | None]) -> None:
    folder.mkdir(exist_ok=True)
    ids = {token: i for i, token in enumerate(["<pad>", "<unk>", *tokens])}
    (folder / "vocabulary.json").write_text(json.dumps({"token_to_idx": ids}))
    settings = {"kind": kind, "lowercase": lowercase, "max_tokens": limits}
    (folder / "tokenizer.json").write_text(json.dumps(settings))


def finish(folder: Path, config: Config, tokenized: str = "none", scale: float = 1.0) -> tuple[Task, Any]:
    """Adds random parameters, configuration and manifest to vocabularies; returns the task and its network.

    Larger ones (`scale`) say more different things.
    """
    task = task_of(config, folder)
    network = task.network()
    network.initialize(ctx=mx.cpu())
    np.savez(folder / "parameters.npz", **randomise(network, 1, scale))
    (folder / "config.json").write_text(config.model_dump_json())
    parts = KeyParts(1, {}, {"tokenize": tokenized}, {})
    manifest.write(folder, "train", parts, {"updates": 1}, 0.0, {"configuration": config.name})
    return task, network


def write_task(folder: Path, config: Config) -> tuple[Task, Any]:
    """A whole trained folder."""
    write_vocabularies(folder, config)
    return finish(folder, config)
