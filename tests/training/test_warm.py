"""Starting from another training's parameters: rows matched by token, and what is refused."""

import json
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from pipeline.core.errors import InputError
from pipeline.models.parameters import parameters_of
from pipeline.training import warm_start


class Small(gluon.Block):
    """A table with a row per token, and a layer."""

    def __init__(self, tokens: int, units: int = 2) -> None:
        super().__init__()
        with self.name_scope():
            self.embedding = self.params.get("embedding", shape=(tokens, 3))
            self.layer = gluon.nn.Dense(units, in_units=3)
        self.initialize(mx.init.Normal(1.0))


def values(network: gluon.Block) -> dict[str, np.ndarray]:
    return {name: p.data().asnumpy() for name, p in parameters_of(network).items()}


def folder(path: Path, tokens: list[str], network: gluon.Block | None = None) -> Path:
    path.mkdir()
    (path / "vocabulary.json").write_text(json.dumps({"idx_to_token": tokens}))
    if network is not None:
        np.savez(path / "parameters.npz", **values(network))
    return path


def test_rows_follow_their_tokens(tmp_path: Path) -> None:
    old, new = Small(4), Small(5)
    trained = folder(tmp_path / "trained", ["<pad>", "<unk>", "gone", "stays"], old)
    tokenized = folder(tmp_path / "tokenized", ["<pad>", "<unk>", "stays", "new", "newer"])
    before = values(new)
    said = warm_start.start_from(trained, new, tokenized)
    after, given = values(new), values(old)
    np.testing.assert_array_equal(after["embedding"][:3], given["embedding"][[0, 1, 3]])
    np.testing.assert_array_equal(after["embedding"][3:], before["embedding"][3:])
    np.testing.assert_array_equal(after["layer.weight"], given["layer.weight"])
    assert "knew 3 of 5 tokens" in said


def test_an_equal_size_does_not_mean_equal_tokens(tmp_path: Path) -> None:
    old, new = Small(3), Small(3)
    trained = folder(tmp_path / "trained", ["<pad>", "a", "b"], old)
    warm_start.start_from(trained, new, folder(tmp_path / "tokenized", ["<pad>", "b", "a"]))
    np.testing.assert_array_equal(values(new)["embedding"], values(old)["embedding"][[0, 2, 1]])


def test_another_network_is_refused(tmp_path: Path) -> None:
    tokens = ["<pad>", "a", "b"]
    trained = folder(tmp_path / "trained", tokens, Small(3))
    tokenized = folder(tmp_path / "tokenized", tokens)
    with pytest.raises(InputError, match=r"layer.bias is \(2,\) there and \(4,\) here"):
        warm_start.start_from(trained, Small(3, units=4), tokenized)
    with pytest.raises(InputError, match="holds another network"):
        warm_start.start_from(trained, gluon.nn.Dense(2, in_units=3), tokenized)
    with pytest.raises(InputError, match="is not a trained model folder"):
        warm_start.start_from(tmp_path / "nowhere", Small(3), tokenized)
    (trained / "parameters.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match="is not a trained model folder"):
        warm_start.start_from(trained, Small(3), tokenized)
