"""Trained folders of the other tasks without a training: their own networks with random parameters."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from PIL import Image

from pipeline.config import Config, check_config
from pipeline.core import manifest
from pipeline.core.manifest import KeyParts
from pipeline.models.parameters import parameters_of
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
    "translation": {"source": "german", "target": "english"},
}
SOURCES: dict[str, dict[str, Any]] = {
    "captioning": {"format": "scenes"},
    "visual_question": {"format": "scene_questions"},
}
LIMITS = {"translation": {"source": 9, "target": 9}, "captioning": {"caption": 9}, "visual_question": {"question": 9}}
PICTURE = (16, 16, 3)  # an image's shape, unless a test has another


def config_of(task: str, model: dict[str, Any] | None = None, **sections: Any) -> Config:
    """A small configuration of a task; a language model reads forwards."""
    source = SOURCES.get(task, {"format": "text", "path": "text.txt"})
    if task in COLUMNS:
        source = {"format": "jsonl", "path": "rows.jsonl", "columns": COLUMNS[task]}
    if sections.get(task, {}).get("features") == "given":
        source = {"format": "captions", "captions": "captions.tsv", "images": "vectors.npy"}
    sizes = SMALL | {"layers": 2} | ({"directions": 1} if task == "language_model" else {}) | (model or {})
    if task in LIMITS:
        sections = {"tokenize": {"max_tokens": LIMITS[task]}} | sections
    data = {"name": "small", "task": task, "ingest": {"source": source}, "model": sizes, **sections}
    return check_config(data, "test")


def write_vocabularies(folder: Path, config: Config, image: tuple[int, ...] = PICTURE) -> None:
    """Vocabularies and tokenizers as training leaves them, and an image's shape."""
    kind = {"tagging": "whitespace", "language_model": "whitespace"}.get(config.task, "word")
    folder.mkdir(parents=True, exist_ok=True)
    limits = LIMITS.get(config.task, {"text": 9 if config.task != "language_model" else None})
    _write(folder, WORDS, kind, True, limits)
    if "image" in config.spec.fields:
        (folder / "images.json").write_text(json.dumps({"shape": image}))
    if config.task == "visual_question":
        _write(folder / "answer", LABELS, "whole", False, {"answer": 1})
    if config.task == "classification":
        _write(folder / "label", LABELS, "whole", False, {"label": 1})
    if config.task == "tagging":
        _write(folder / "tags", TAGS, "whitespace", False, {"tags": 9})
        _write(folder / "letters", LETTERS, "letters", False, {"letters": 30})


def _write(folder: Path, tokens: list[str], kind: str, lowercase: bool, limits: dict[str, int | None]) -> None:
    folder.mkdir(exist_ok=True)
    ids = {token: i for i, token in enumerate(["<pad>", "<unk>", *tokens])}
    (folder / "vocabulary.json").write_text(json.dumps({"token_to_idx": ids, "idx_to_token": [*ids]}))
    settings = {"kind": kind, "lowercase": lowercase, "max_tokens": limits}
    (folder / "tokenizer.json").write_text(json.dumps(settings))


def finish(folder: Path, config: Config, tokenized: str = "none", scale: float = 1.0) -> tuple[Task, Any]:
    """Adds random parameters, configuration and manifest to vocabularies; returns the task and its network.

    Larger ones (`scale`) say more different things.
    """
    task = task_of(config, folder)
    network = task.network()
    network.initialize(ctx=mx.cpu())
    arrays = randomise(network, 1, scale)
    for name, parameter in parameters_of(network).items():
        if name.startswith("net."):  # five layers of large weights would saturate all that follows
            parameter.set_data(0.15 * parameter.data())
            arrays[name] = parameter.data().asnumpy()
    np.savez(folder / "parameters.npz", **arrays)
    (folder / "config.json").write_text(config.model_dump_json())
    parts = KeyParts(1, {}, {"tokenize": tokenized}, {})
    manifest.write(folder, "train", parts, {"updates": 1}, 0.0, {"configuration": config.name})
    return task, network


def write_task(folder: Path, config: Config, image: tuple[int, ...] = PICTURE) -> tuple[Task, Any]:
    """A whole trained folder."""
    write_vocabularies(folder, config, image)
    return finish(folder, config)


def rows_of(task: str, texts: list[str], image: tuple[int, ...] = PICTURE) -> list[dict[str, str]]:
    """Rows to predict, one for each text; images are drawn at random and stand in them as data URLs."""
    column = COLUMNS.get(task, {}).get("source" if task == "translation" else "text", "question")
    if task not in SOURCES:
        return [{column: f"{text} ___" if task == "cloze" else text} for text in texts]
    rng = np.random.default_rng(4)
    if len(image) == 3:  # spots of colour: fine noise is grey to a convolution
        spots = np.ones((image[0] // 4, image[1] // 4, 1))
        drawn = [np.kron(rng.random((4, 4, 3)), spots) for _ in texts]
    else:
        drawn = [rng.normal(size=image) for _ in texts]
    rows = [{"image": data_url(one)} for one in drawn]
    return rows if task == "captioning" else [row | {"question": text} for row, text in zip(rows, texts)]


def data_url(image: np.ndarray) -> str:
    """A picture, (S, S, 3) from 0 to 1, as PNG; or a vector as numpy's file."""
    file = io.BytesIO()
    if image.ndim == 3:
        Image.fromarray((255 * image).astype(np.uint8)).save(file, "PNG")
    else:
        np.save(file, image.astype(np.float32))
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
