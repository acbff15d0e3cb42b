"""A text's vector, and its gradient, must not depend on what it is batched with."""

import itertools

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

from pipeline.config import ModelConfig
from pipeline.models.encoder import Encoder, Pooling, padding_of

pytestmark = pytest.mark.usefixtures("kernel")

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
POOLINGS = ("last", "max", "mean", "attention", "max_mean")
LENGTHS = (3, 21, 1, 12)
WIDTH, HIDDEN = 6, 8


def build(cell: str, layers: int, pooling: str, directions: int = 2, **options: bool) -> tuple[Encoder, Pooling]:
    mx.random.seed(3)
    np.random.seed(3)
    sizes = {"layers": layers, "directions": directions, "embedding": WIDTH, "hidden": HIDDEN, "dropout": 0.0}
    config = ModelConfig(cell=cell, pooling=pooling, **sizes, **options)
    encoder, pool = Encoder(config), Pooling(pooling, HIDDEN, directions)
    for block in (encoder, pool):
        block.initialize()
        for name, parameter in block.collect_params().items():
            if name.endswith("bias"):  # biases start at 0, where padding does least harm
                parameter.set_data(nd.random.normal(0, 0.5, parameter.shape))
    return encoder, pool


def vectors(encoder: Encoder, pool: Pooling, x: nd.NDArray, lengths: tuple[int, ...]) -> nd.NDArray:
    size = nd.array(lengths, dtype="int32")
    padding = padding_of(size, x.shape[0])
    return pool(encoder(x, padding), size, padding)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest value where that is above 1 (relu states are unbounded)."""
    return float(np.abs(a - b).max() / max(1, np.abs(a).max()))


@pytest.mark.parametrize(
    ("cell", "layers", "pooling", "directions"), itertools.product(CELLS, (1, 3), POOLINGS, (1, 2))
)
def test_vector_does_not_depend_on_padding(cell: str, layers: int, pooling: str, directions: int) -> None:
    encoder, pool = build(cell, layers, pooling, directions)
    x = nd.random.normal(shape=(max(LENGTHS), len(LENGTHS), WIDTH))  # what stands on padding is arbitrary
    together = vectors(encoder, pool, x, LENGTHS).asnumpy()
    for i, length in enumerate(LENGTHS):
        alone = vectors(encoder, pool, x[:length, i : i + 1], (length,)).asnumpy()
        assert apart(together[i], alone[0]) < 1e-6
    assert np.abs(together).max() > 0.01


@pytest.mark.parametrize(("cell", "options"), itertools.product(CELLS, ({"layer_norm": True}, {"residual": True})))
def test_norm_and_residuals_keep_it(cell: str, options: dict[str, bool]) -> None:
    encoder, pool = build(cell, 2, "mean", **options)
    x = nd.random.normal(shape=(max(LENGTHS), len(LENGTHS), WIDTH))
    together = vectors(encoder, pool, x, LENGTHS).asnumpy()
    for i, length in enumerate(LENGTHS):
        alone = vectors(encoder, pool, x[:length, i : i + 1], (length,)).asnumpy()
        assert apart(together[i], alone[0]) < 2e-6  # layer norm divides by small deviations


@pytest.mark.parametrize(("cell", "pooling"), itertools.product(CELLS, POOLINGS))
def test_gradient_does_not_depend_on_padding(cell: str, pooling: str) -> None:
    encoder, pool = build(cell, 2, pooling)
    values = nd.random.normal(shape=(max(LENGTHS), len(LENGTHS), WIDTH))
    parameters = {**encoder.collect_params(), **pool.collect_params()}

    def gradients(extra_steps: int) -> dict[str, np.ndarray]:
        x = nd.concat(values, nd.random.normal(shape=(extra_steps, len(LENGTHS), WIDTH)), dim=0)
        x.attach_grad()
        with autograd.record():
            result = (vectors(encoder, pool, x, LENGTHS) ** 2).sum()
        result.backward()
        found = {name: parameter.grad().asnumpy() for name, parameter in parameters.items()}
        on_padding = np.concatenate([x.grad.asnumpy()[n:, i].ravel() for i, n in enumerate(LENGTHS)])
        assert np.abs(on_padding).max() == 0
        return found

    short, long = gradients(1), gradients(17)
    for name in short:
        assert apart(short[name], long[name]) < 1e-5, name


def test_last_pooling_takes_the_last_valid_state_and_the_first_backwards() -> None:
    encoder, _ = build("lstm", 1, "last")
    x = nd.random.normal(shape=(max(LENGTHS), len(LENGTHS), WIDTH))
    lengths = nd.array(LENGTHS, dtype="int32")
    padding = padding_of(lengths, x.shape[0])
    states = encoder(x, padding)
    pooled = Pooling("last", HIDDEN, 2)(states, lengths, padding).asnumpy()
    for i, n in enumerate(LENGTHS):
        np.testing.assert_array_equal(pooled[i, :HIDDEN], states[n - 1, i, :HIDDEN].asnumpy())
        np.testing.assert_array_equal(pooled[i, HIDDEN:], states[0, i, HIDDEN:].asnumpy())


@pytest.mark.parametrize("cell", CELLS)
def test_cells_equal_their_equations(cell: str) -> None:
    """Against the recurrences written out step by step in numpy, forwards and backwards."""
    encoder, _ = build(cell, 1, "last")
    layer = encoder.layers[0]
    x = np.random.default_rng(0).normal(size=(5, 1, WIDTH)).astype(np.float32)
    got = encoder(nd.array(x), nd.zeros((5, 1, 1))).asnumpy()[:, 0]
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    for d, steps, columns in (("f", range(5), slice(0, HIDDEN)), ("b", range(4, -1, -1), slice(HIDDEN, None))):
        w, r, bw, br = (
            getattr(layer, f"{d}_{n}").data().asnumpy() for n in ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")
        )
        h = c = np.zeros(HIDDEN)
        for t in steps:
            a, b = w @ x[t, 0] + bw, r @ h + br
            if cell == "lstm":
                i, f, g, o = np.split(a + b, 4)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            elif cell == "gru":
                (ar, az, an), (br_, bz, bn) = np.split(a, 3), np.split(b, 3)
                z = sigmoid(az + bz)
                h = (1 - z) * np.tanh(an + sigmoid(ar + br_) * bn) + z * h
            else:
                h = np.tanh(a + b) if cell == "rnn_tanh" else np.maximum(a + b, 0)
            np.testing.assert_allclose(got[t, columns], h, atol=1e-5)


def test_dropout_really_drops_between_layers() -> None:
    mx.random.seed(1)
    config = ModelConfig(layers=2, dropout=0.5, embedding=WIDTH, hidden=HIDDEN)
    encoder = Encoder(config)
    encoder.initialize()
    x, padding = nd.ones((4, 1, WIDTH)), nd.zeros((4, 1, 1))
    seen = []
    encoder.layers[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].asnumpy()))
    with autograd.train_mode():
        encoder(x, padding)
    encoder(x, padding)
    training, inference = seen
    assert 0.2 < (training == 0).mean() < 0.8
    assert (inference != 0).all()


def test_word_dropout_takes_whole_words_and_only_in_training() -> None:
    mx.random.seed(1)
    encoder = Encoder(ModelConfig(layers=1, dropout=0.0, word_dropout=0.25, embedding=WIDTH, hidden=HIDDEN))
    encoder.initialize()
    x, padding = nd.ones((50, 8, WIDTH)), nd.zeros((50, 8, 1))
    seen: list[np.ndarray] = []
    encoder.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].asnumpy()))
    with autograd.train_mode():
        encoder(x, padding)
    encoder(x, padding)
    training, inference = seen
    gone = (training == 0).all(axis=2)
    assert ((training == 0).any(axis=2) == gone).all(), "a whole word or none of it"
    assert 0.18 < gone.mean() < 0.32
    np.testing.assert_allclose(training[~gone], 1 / 0.75, rtol=1e-6)
    assert (inference == 1).all()


def test_max_mean_is_both_side_by_side() -> None:
    states, lengths = nd.random.normal(shape=(5, 3, 2 * HIDDEN)), nd.array([2, 5, 1], dtype="int32")
    padding = padding_of(lengths, 5)
    parts = [Pooling(kind, HIDDEN, 2)(states, lengths, padding) for kind in ("max", "mean")]
    both = Pooling("max_mean", HIDDEN, 2)
    assert both.width == 4 * HIDDEN
    np.testing.assert_array_equal(both(states, lengths, padding).asnumpy(), nd.concat(*parts, dim=1).asnumpy())
