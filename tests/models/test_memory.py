"""The norms of ds_t/ds_k through the fused kernels, against those by hand and against finite differences."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd

from pipeline.config import LanguageModelConfig, ModelConfig
from pipeline.models import by_hand, memory
from pipeline.models.language_model import LanguageModel


def network_of(cell: str) -> LanguageModel:
    mx.random.seed(2)
    np.random.seed(2)
    model = ModelConfig(cell=cell, embedding=4, hidden=5, directions=1, dropout=0.0)
    network = LanguageModel(model, LanguageModelConfig(), 7)
    network.initialize()
    return network


def test_the_kernel_and_the_hand_agree() -> None:
    network = network_of("rnn_tanh")
    layer = network.layers[0]
    embedded = network.words.weight.data().asnumpy()
    net = by_hand.Parameters(
        U=layer.f_i2h_weight.data().asnumpy() @ embedded.T, W=layer.f_h2h_weight.data().asnumpy(), V=np.zeros((7, 5))
    )
    x = np.random.default_rng(1).integers(0, 7, 30)
    places = np.array([2, 7, 11])
    np.testing.assert_allclose(
        memory.layer_norms(network, x, 12, places), memory.by_hand_norms(net, x, 12, places), rtol=1e-4
    )


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_gated_cell_s_jacobian_is_that_of_finite_differences(cell: str) -> None:
    network = network_of(cell)
    layer = network.layers[0]
    packed = layer.packed(mx.cpu())
    x = network.words(nd.array([[1], [2], [3]], dtype="int32"))
    states = [nd.random.uniform(-0.5, 0.5, (1, 1, 5)) for _ in range(network.states_per_layer)]
    found = memory._jacobian(layer, x, states, packed)

    def after(numbers: np.ndarray) -> np.ndarray:
        parts = [nd.array(part).reshape((1, 1, -1)) for part in np.split(numbers, len(states))]
        return np.concatenate([state.asnumpy().reshape(-1) for state in layer(x, parts, packed)[1]])

    start, step = np.concatenate([state.asnumpy().reshape(-1) for state in states]), 1e-2
    wanted = np.stack([(after(start + e) - after(start - e)) / (2 * step) for e in np.eye(len(start)) * step], axis=1)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
