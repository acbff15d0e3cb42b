"""Folders of models as `duplet train` leaves them, with random parameters: equal words are alike all the same."""

import json
import time
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np

from pipeline.config import check_config
from pipeline.core import manifest
from pipeline.models.matcher import Matcher
from pipeline.tokenization.encoder import PADDING, UNKNOWN, forms, write_settings
from tests.serving.networks import randomise


def model_folder(folder: Path, words: list[str], seed: int = 0, **model: Any) -> Path:
    """Writes a model that knows `words`; two seeds give two models, with keys of their own."""
    shape = {"embedding": 64, "hidden": 4, "dropout": 0.0, "head": "late_interaction"} | model
    data = {
        "name": "small",
        "ingest": {"source": {"format": "jsonl", "path": "pairs.jsonl"}},
        "tokenize": {"max_tokens": {"query": 12, "document": 24}},
        "model": shape,
    }
    config = check_config(data, "test")
    folder.mkdir(parents=True)
    tokens = {token: i for i, token in enumerate([PADDING, UNKNOWN, *words])}
    network = Matcher(config.model, len(tokens), 0, prefix="matcher_")
    network.initialize(ctx=mx.cpu())
    np.savez(folder / "parameters.npz", **randomise(network, seed))
    (folder / "config.json").write_text(config.model_dump_json())
    (folder / "vocabulary.json").write_text(json.dumps({"token_to_idx": tokens}))
    write_settings(forms(config)[""], folder)
    parts = manifest.KeyParts(1, {"seed": seed, "model": shape}, {}, {})
    manifest.write(folder, "train", parts, {}, time.time())
    return folder
