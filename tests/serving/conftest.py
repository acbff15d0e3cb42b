"""A trained model's folder without a training: random parameters, whole in every other respect."""

import json
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Config
from pipeline.core import manifest
from pipeline.core.manifest import KeyParts
from tests.serving.networks import VOCABULARY, config_of, random_network

WORDS = [*string.ascii_lowercase, "sort", "list"]


def write_trained(folder: Path, config: Config, seed: int = 0) -> Path:
    """A stage folder as `duplet train` leaves it, over the words a, b, c, … and sort, list."""
    began = time.time()
    folder.mkdir(parents=True)
    _, arrays = random_network(config, seed)
    np.savez(folder / "parameters.npz", **arrays)
    (folder / "config.json").write_text(config.model_dump_json())
    tokens = {token: i for i, token in enumerate(["<pad>", "<unk>", *WORDS])}
    assert len(tokens) == VOCABULARY
    (folder / "vocabulary.json").write_text(json.dumps({"token_to_idx": tokens}))
    tokenizer = {"kind": "word", "lowercase": True, "max_tokens": config.tokenize.max_tokens}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    parts = KeyParts(1, {"seed": seed}, {"tokenize": "none"}, {})
    manifest.write(folder, "train", parts, {"updates": 1}, began, {"configuration": config.name})
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Path]:
    """Makes a trained folder under tmp_path; arguments are `config_of`'s."""

    def make(loss: dict[str, Any] | None = None, seed: int = 0, **model: Any) -> Path:
        return write_trained(tmp_path / "runs" / "train" / f"model{seed}", config_of(loss, **model), seed)

    return make
