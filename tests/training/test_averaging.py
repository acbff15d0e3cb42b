"""The parameters' running mean against the plain sum over all that the parameters ever were."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

from pipeline.config import OptimizerConfig
from pipeline.distributed.world import World
from pipeline.models.parameters import parameters_of
from pipeline.training.averaging import judged
from pipeline.training.optimizer import Optimizer
from tests.training.test_optimizer import ROWS, build, step, values_of


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def plain_means(past: list[dict[str, np.ndarray]], decay: float) -> dict[str, np.ndarray]:
    """Σ_i (1 - d_i) Π_{j>i} d_j x_i of x_0 … x_n, the start's share Π d_j, d_i = min(decay, (1 + i) / (10 + i))."""
    decays = [min(decay, (1 + i) / (10 + i)) for i in range(len(past) - 1)]
    weights = [np.prod(decays)] + [(1 - d) * np.prod(decays[i + 1 :]) for i, d in enumerate(decays)]
    assert sum(weights) == pytest.approx(1)
    return {name: sum(w * x[name].astype(np.float64) for w, x in zip(weights, past)) for name in past[0]}


@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_rows_that_are_seldom_touched_have_the_mean_of_a_table_averaged_whole(world: World, decay: float) -> None:
    network, _ = build(world)
    optimizer = Optimizer(network, OptimizerConfig(), world, decay)
    rng, past = np.random.default_rng(1), [values_of(network)]
    for update in range(30):
        tokens = tuple(sorted(rng.choice(ROWS - 1, rng.integers(1, 4), replace=False).tolist()))  # the last one never
        step(network, optimizer, tokens, 0.1, update)
        past.append(values_of(network))
        if update % 7 == 0:
            raw = values_of(network)
            with optimizer.judged(update + 1):
                found = values_of(network)
            for name, value in plain_means(past, decay).items():
                np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
            assert all(raw[name].tobytes() == value.tobytes() for name, value in values_of(network).items())
            kept = judged(raw, optimizer.state(), decay, update + 1)
            assert all(kept[name].tobytes() == found[name].tobytes() for name in found)


def test_restored_means_go_on_identically(world: World) -> None:
    """Also where they were asked for in between, which must leave no trace."""
    touched = ((0, 2, 5), (2, 3), (0, 2, 5, 6), (5,))
    network, _ = build(world)
    optimizer = Optimizer(network, OptimizerConfig(), world, 0.5)
    for update in (0, 1):
        step(network, optimizer, touched[update], 0.1, update)
    other, _ = build(world, seed=9)
    fresh = Optimizer(other, OptimizerConfig(), world, 0.5)
    for name, parameter in parameters_of(other).items():
        parameter.set_data(nd.array(values_of(network)[name]))
    fresh.restore(optimizer.state())
    for update in (2, 3):
        with fresh.judged(update):
            pass
        for pair in ((network, optimizer), (other, fresh)):
            step(*pair, touched[update], 0.1, update)
    left, right = optimizer.state(), fresh.state()
    assert left.keys() == right.keys() >= {"mean:embedding", "mean's updates"}
    assert all(left[name].tobytes() == right[name].tobytes() for name in left)


@pytest.mark.learns
def test_of_gradients_that_are_mostly_noise_the_mean_finds_the_bottom(world: World) -> None:
    """(w - noise)² / 2 by plain SGD: the parameters never settle, their mean is at least 50 times nearer (squared).

    By the theory of autoregressive series about 100 times at decay 0.999 and rate 0.1.
    """

    class Weights(gluon.Block):
        def __init__(self) -> None:
            super().__init__()
            self.w = self.params.get("w", shape=(256,), init=mx.init.Zero())

    network = Weights()
    network.initialize()
    optimizer = Optimizer(network, OptimizerConfig(kind="sgd", momentum=0, clip_norm=None), world, 0.999)
    w, noise = network.w.data(), np.random.default_rng(1).standard_normal((12_000, 256)).astype(np.float32)
    last = []
    for update, one in enumerate(noise):
        with autograd.record():
            loss = ((w - nd.array(one)) ** 2).sum() / 2
        loss.backward()
        optimizer.step(None, 0.1, update)
        if update >= len(noise) - 200:
            last.append(float((w.asnumpy() ** 2).mean()))
    with optimizer.judged(len(noise)):
        mean = float((w.asnumpy() ** 2).mean())
    assert np.mean(last) > 50 * mean
