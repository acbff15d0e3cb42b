"""Matching networks with random parameters, for comparing what serves them with MXNet."""

from typing import Any

import mxnet as mx
import numpy as np
from mxnet import nd

from pipeline.config import Config, check_config
from pipeline.models.matcher import Matcher
from pipeline.models.parameters import parameters_of

VOCABULARY = 30
SMALL = {"embedding": 6, "hidden": 4, "dropout": 0.0, "head": "cosine"}


def config_of(loss: dict[str, Any] | None = None, **model: Any) -> Config:
    """A configuration of a small model; a pointwise loss is judged by grades."""
    data: dict[str, Any] = {
        "name": "small",
        "ingest": {"source": {"format": "jsonl", "path": "pairs.jsonl"}},
        "tokenize": {"max_tokens": {"query": 12, "document": 20}},
        "model": SMALL | model,
    }
    if loss is not None:
        data |= {"train": {"loss": loss, "metric": "accuracy"}, "evaluate": {"kinds": ["graded"]}}
    return check_config(data, "test")


def random_network(config: Config, seed: int = 0) -> tuple[Matcher, dict[str, np.ndarray]]:
    """A network whose parameters, biases and norms too, are random and large enough to tell gates apart."""
    network = Matcher(config.model, VOCABULARY, config.train.loss.outputs, prefix="matcher_")
    network.initialize(ctx=mx.cpu())
    return network, randomise(network, seed)


def randomise(network: Any, seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Gives every parameter random values; returns them by structural name."""
    rng = np.random.default_rng(seed)
    for parameter in parameters_of(network).values():
        parameter.set_data(nd.array(scale * rng.uniform(-0.7, 0.7, parameter.shape)))
    return {name: parameter.data().asnumpy() for name, parameter in parameters_of(network).items()}


def random_texts(rng: np.random.Generator, count: int, longest: int, padded_to: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, T) int32 ids from 1, 0 on padding, and their (N,) int32 lengths from 1 to `longest`."""
    lengths = rng.integers(1, longest + 1, count).astype(np.int32)
    ids = rng.integers(1, VOCABULARY, (count, padded_to)).astype(np.int32)
    return np.where(np.arange(padded_to) < lengths[:, None], ids, 0).astype(np.int32), lengths


def represent(network: Matcher, side: str, ids: np.ndarray, lengths: np.ndarray) -> Any:
    """MXNet's own Representation of texts, ids batch first."""
    return network.represent(
        side, network.embedding.data(), nd.array(ids.T, dtype="int32"), nd.array(lengths, dtype="int32")
    )
