"""The two directions of a layer: trained by one backward pass, as if each were a layer of its own."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

from pipeline.config.cells import CELLS
from pipeline.models.recurrent import RecurrentLayer

pytestmark = pytest.mark.usefixtures("kernel")

STEPS, TEXTS, INPUTS, HIDDEN = 6, 3, 4, 5


def run(layer: RecurrentLayer, x: nd.NDArray, weights: nd.NDArray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """States (T, N, directions * HIDDEN), and each parameter's gradient of a loss that weighs every output."""
    with autograd.record():
        states = layer(x, nd.zeros((STEPS, TEXTS, 1)), layer.packed(mx.cpu()))
        loss = (states.tanh() * weights).sum()
    loss.backward()
    names = {name: getattr(layer, name) for name in dir(layer) if name.endswith(("_weight", "_bias"))}
    return states.asnumpy(), {name: parameter.grad().asnumpy() for name, parameter in names.items()}


@pytest.mark.parametrize("cell", CELLS.own)
def test_two_directions_are_two_layers_that_share_only_input_and_loss(cell: str) -> None:
    rng = np.random.default_rng(5)
    x = nd.array(rng.normal(size=(STEPS, TEXTS, INPUTS)))
    weights = nd.array(rng.normal(size=(STEPS, TEXTS, 2 * HIDDEN)))
    both = RecurrentLayer(cell, INPUTS, HIDDEN, 2)
    both.initialize(mx.init.Uniform(0.5))
    states, gradients = run(both, x, weights)
    for d, there in (("f", slice(None)), ("b", slice(None, None, -1))):
        own = slice(0, HIDDEN) if d == "f" else slice(HIDDEN, 2 * HIDDEN)
        alone = RecurrentLayer(cell, INPUTS, HIDDEN, 1)
        alone.initialize()
        for name in ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias"):
            getattr(alone, f"f_{name}").set_data(getattr(both, f"{d}_{name}").data())
        found, slopes = run(alone, nd.array(x.asnumpy()[there]), nd.array(weights.asnumpy()[there][:, :, own]))
        np.testing.assert_allclose(states[:, :, own], found[there], atol=1e-6)
        for name in ("i2h_weight", "h2h_weight", "i2h_bias"):
            assert np.abs(slopes[f"f_{name}"]).max() > 1e-3
            np.testing.assert_allclose(gradients[f"{d}_{name}"], slopes[f"f_{name}"], atol=1e-5)
