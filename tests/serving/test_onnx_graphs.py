"""The graphs of the other tasks against gluon networks built here: classifier, tagger, language-model step."""

import mxnet as mx
import numpy as np
import onnxruntime
import pytest
from mxnet import gluon, nd

from pipeline.config import ModelConfig
from pipeline.models.encoder import Encoder, Pooling, padding_of
from pipeline.models.recurrent import RecurrentLayer
from pipeline.serving import onnx_graphs
from tests.serving.networks import SMALL, VOCABULARY, random_texts, randomise
from tests.serving.test_onnx_matcher import CELLS, TOLERANCE, opened

CLASSES = 3


class Reader(gluon.Block):
    """Embedding, encoder, pooling and an output layer, as a classifier or (without pooling) a tagger has them."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.embedding = self.params.get("embedding", shape=(VOCABULARY, model.embedding))
        self.encoder = Encoder(model)
        self.pooling = Pooling(model.pooling, model.hidden, model.directions)
        self.output = gluon.nn.Dense(CLASSES, flatten=False, in_units=model.hidden * model.directions)

    def forward(self, ids: np.ndarray, lengths: np.ndarray, pooled: bool) -> nd.NDArray:
        table = self.embedding.data()
        embedded = nd.Embedding(nd.array(ids.T), table, input_dim=table.shape[0], output_dim=table.shape[1])
        steps = nd.array(lengths, dtype="int32")
        padding = padding_of(steps, ids.shape[1])
        states = self.encoder(embedded, padding)
        return self.output(self.pooling(states, steps, padding) if pooled else states)


def reader(cell: str, pooling: str = "max") -> tuple[ModelConfig, Reader, dict[str, np.ndarray]]:
    model = ModelConfig(**SMALL, cell=cell, layers=2, pooling=pooling)  # type: ignore[arg-type]
    network = Reader(model)
    network.initialize(ctx=mx.cpu())
    return model, network, randomise(network, 8)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("pooling", ("mean", "attention"))
def test_classifier(cell: str, pooling: str) -> None:
    model, network, arrays = reader(cell, pooling)
    session = opened(onnx_graphs.classifier(model, arrays))
    ids, lengths = random_texts(np.random.default_rng(0), 8, 7, 10)
    (found,) = session.run(None, {"ids": ids, "lengths": lengths})
    wanted = nd.softmax(network(ids, lengths, True), axis=1).asnumpy()
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)
    assert np.ptp(wanted, axis=0).max() > 0.01


@pytest.mark.parametrize("cell", CELLS)
def test_tagger(cell: str) -> None:
    model, network, arrays = reader(cell)
    session = opened(onnx_graphs.tagger(model, arrays))
    ids, lengths = random_texts(np.random.default_rng(1), 8, 7, 10)
    (found,) = session.run(None, {"ids": ids, "lengths": lengths})
    wanted = network(ids, lengths, False).asnumpy().transpose(1, 0, 2)
    there = np.arange(10) < lengths[:, None]
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found[there], wanted[there], atol=TOLERANCE)
    assert not found[~there].any()


class Speaker(gluon.Block):
    """A forward language model: embedding, recurrent layers, an output layer over the vocabulary."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        self.embedding = self.params.get("embedding", shape=(VOCABULARY, 6))
        self.layers = gluon.nn.Sequential()
        for inputs in (6, 5):
            self.layers.add(RecurrentLayer(cell, inputs, 5, 1))
        self.output = gluon.nn.Dense(VOCABULARY, flatten=False, in_units=5)

    def forward(self, ids: np.ndarray) -> nd.NDArray:
        table = self.embedding.data()
        x = nd.Embedding(nd.array(ids.T), table, input_dim=table.shape[0], output_dim=table.shape[1])
        padding = nd.zeros((ids.shape[1], ids.shape[0], 1))
        for layer in self.layers:
            x = layer(x, padding, layer.packed(mx.cpu()))
        return self.output(x).transpose((1, 0, 2))


@pytest.mark.parametrize("cell", CELLS)
def test_language_step(cell: str) -> None:
    """Token by token, and a longer beginning at once, give what the network gives over the whole text."""
    network = Speaker(cell)
    network.initialize(ctx=mx.cpu())
    arrays = randomise(network, 9)
    session = opened(onnx_graphs.language_step(cell, arrays, ["layers.0", "layers.1"]))
    ids = np.random.default_rng(2).integers(1, VOCABULARY, (3, 7)).astype(np.int32)
    wanted = network(ids).asnumpy()
    for cuts in ([1, 2, 3, 4, 5, 6], [4]):
        found = _stepped(session, np.split(ids, cuts, axis=1))
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE)


def _stepped(session: onnxruntime.InferenceSession, pieces: list[np.ndarray]) -> np.ndarray:
    names = [value.name for value in session.get_inputs() if value.name != "ids"]
    states = {name: np.zeros((1, len(pieces[0]), 5), np.float32) for name in names}
    logits = []
    for piece in pieces:
        found = session.run(None, {"ids": piece, **states})
        made = dict(zip([value.name for value in session.get_outputs()], found))
        logits.append(made["logits"])
        states = {name: made[f"new_{name}"] for name in names}
    return np.concatenate(logits, axis=1)
