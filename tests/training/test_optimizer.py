"""The optimizer against its papers' equations in numpy, row by row of the embedding too."""

import math
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

from pipeline.config import OptimizerConfig, ScheduleConfig
from pipeline.distributed.world import World
from pipeline.models.parameters import parameters_of
from pipeline.training.optimizer import Optimizer, learning_rate

ROWS, WIDTH = 7, 3
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
RATES = (0.1, 0.02, 0.3, 0.05)
TOUCHED = ((0, 2, 5), (2, 3), (0, 2, 5, 6), (5,))
KINDS = {
    "adam": {"kind": "adam", "weight_decay": 0.5},  # adam has no decay, whatever is set
    "adamw": {"kind": "adamw", "weight_decay": 0.1},
    "sgd": {"kind": "sgd", "momentum": 0.8, "weight_decay": 0.05},
    "plain sgd": {"kind": "sgd", "momentum": 0.0},
}


class Small(gluon.Block):
    """An embedding and a dense layer: something that has all that the optimizer looks for."""

    def __init__(self) -> None:
        super().__init__()
        with self.name_scope():
            self.embedding = self.params.get("embedding", shape=(ROWS, WIDTH), grad_req="null")
            self.layer = gluon.nn.Dense(2, in_units=WIDTH)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def build(world: World, seed: int = 1, **options: Any) -> tuple[Small, Optimizer]:
    mx.random.seed(seed)
    network = Small()
    network.initialize()
    for parameter in network.collect_params().values():
        parameter.set_data(nd.random.normal(0, 1, parameter.shape))
    return network, Optimizer(network, OptimizerConfig(**options), world)


def values_of(network: gluon.Block) -> dict[str, np.ndarray]:
    return {name: p.data().asnumpy() for name, p in parameters_of(network).items()}


def step(
    network: Small, optimizer: Optimizer, tokens: tuple[int, ...], rate: float, update: int, scale: float = 1.0
) -> tuple[float, dict[str, np.ndarray]]:
    """One update with a loss whose gradients all differ; its norm, and the gradients, the embedding's made dense."""
    touched = optimizer.rows(np.array(tokens, np.int32))
    assert touched
    with autograd.record():
        rows = touched.table()
        weights = nd.arange(1, rows.size + 1).reshape(rows.shape)
        loss = scale * ((network.layer(rows) ** 2).sum() + (weights * rows**2).sum())
    loss.backward()
    found = {name: p.grad().asnumpy().copy() for name, p in parameters_of(network).items() if p.grad_req != "null"}
    found["embedding"] = np.zeros((ROWS, WIDTH), np.float32)
    found["embedding"][list(tokens)] = touched.values.grad.asnumpy()
    return float(optimizer.step(touched, rate, update).asscalar()), found


class Reference:
    """Adam (Kingma and Ba 2015, algorithm 1), AdamW (Loshchilov and Hutter 2019, algorithm 2) and SGD with momentum in
    float64; of the embedding only the rows touched."""

    def __init__(self, values: dict[str, np.ndarray], config: OptimizerConfig) -> None:
        self.values = {name: value.astype(np.float64) for name, value in values.items()}
        self.first = {name: np.zeros(value.shape) for name, value in values.items()}
        self.second = {name: np.zeros(value.shape) for name, value in values.items()}
        self.config = config

    def step(self, gradients: dict[str, np.ndarray], tokens: tuple[int, ...], rate: float, t: int) -> float:
        norm = math.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
        clip = self.config.clip_norm
        factor = min(1.0, clip / norm) if clip else 1.0
        for name, gradient in gradients.items():
            where: Any = list(tokens) if name == "embedding" else slice(None)
            self._apply(name, where, gradient[where].astype(np.float64) * factor, rate, t)
        return norm

    def _apply(self, name: str, where: Any, g: np.ndarray, rate: float, t: int) -> None:
        x, m, v, decay = self.values[name], self.first[name], self.second[name], self.config.weight_decay
        if self.config.kind == "sgd":
            m[where] = self.config.momentum * m[where] - rate * (g + decay * x[where])
            x[where] += m[where]
            return
        m[where] = BETA1 * m[where] + (1 - BETA1) * g
        v[where] = BETA2 * v[where] + (1 - BETA2) * g**2
        m_hat, v_hat = m[where] / (1 - BETA1**t), v[where] / (1 - BETA2**t)
        shrink = rate * decay * x[where] if self.config.kind == "adamw" else 0
        x[where] -= rate * m_hat / (np.sqrt(v_hat) + EPSILON) + shrink


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 1.0, 1e6])
def test_steps_equal_the_equations(world: World, kind: str, clip: float | None) -> None:
    options = {**KINDS[kind], "clip_norm": clip}
    network, optimizer = build(world, **options)
    reference = Reference(values_of(network), OptimizerConfig(**options))
    scale = 0.01 if clip is None and "sgd" in kind else 1.0
    for update, (rate, tokens) in enumerate(zip(RATES, TOUCHED)):
        if clip == 1e6:
            scale = 0.01
        norm, gradients = step(network, optimizer, tokens, rate, update, scale)
        assert norm == pytest.approx(reference.step(gradients, tokens, rate, update + 1), rel=1e-5)
        for name, value in values_of(network).items():
            np.testing.assert_allclose(value, reference.values[name], atol=2e-5, rtol=2e-5, err_msg=f"{update} {name}")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_not_touched_keep_value_and_moments_bit_for_bit(world: World, kind: str) -> None:
    network, optimizer = build(world, **KINDS[kind])
    for update, tokens in enumerate(TOUCHED):
        before, state = values_of(network)["embedding"].copy(), optimizer.state()
        step(network, optimizer, tokens, 0.1, update)
        after, moments = values_of(network)["embedding"], optimizer.state()
        rest = [row for row in range(ROWS) if row not in tokens]
        assert before[rest].tobytes() == after[rest].tobytes()
        assert (before[list(tokens)] != after[list(tokens)]).any(axis=1).all()
        for name in (name for name in moments if name.startswith("embedding:")):
            assert state[name][rest].tobytes() == moments[name][rest].tobytes()


def test_clipping_scales_all_gradients_together(world: World) -> None:
    """Plain SGD shows the gradient applied: of length clip_norm, in the direction of the whole."""
    network, optimizer = build(world, kind="sgd", momentum=0.0, clip_norm=0.5)
    before = values_of(network)
    norm, gradients = step(network, optimizer, (0, 1, 4), 1.0, 0)
    assert norm > 0.5
    moved = {name: before[name] - value for name, value in values_of(network).items()}
    assert math.sqrt(sum((d.astype(np.float64) ** 2).sum() for d in moved.values())) == pytest.approx(0.5, rel=1e-4)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(moved[name], gradient * 0.5 / norm, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_what_is_not_finite_changes_nothing(world: World, kind: str, clip: float | None, bad: float) -> None:
    """In the loss, and so in every gradient; 1e30 is finite and its square is not."""
    network, optimizer = build(world, **KINDS[kind], clip_norm=clip)
    step(network, optimizer, TOUCHED[0], 0.1, 0, 0.1)
    before = {**values_of(network), **optimizer.state()}
    norm, _ = step(network, optimizer, TOUCHED[1], 0.1, 1, bad)
    assert not math.isfinite(norm)
    after = {**values_of(network), **optimizer.state()}
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed == set()


@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_row_changes_nothing_elsewhere(world: World, kind: str) -> None:
    network, optimizer = build(world, **KINDS[kind])
    before = {**values_of(network), **optimizer.state()}
    rows = optimizer.rows(np.array([1, 2], np.int32))
    assert rows
    with autograd.record():
        loss = (network.layer(rows.table()) ** 2).sum()
    loss.backward()
    rows.values.grad[0, 0] = float("nan")
    assert math.isnan(optimizer.step(rows, 0.1, 0).asscalar())
    after = {**values_of(network), **optimizer.state()}
    assert {name for name in before if before[name].tobytes() != after[name].tobytes()} == set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_gradient_is_no_accident(world: World, kind: str) -> None:
    """The norm is 0: clipping must not divide by it."""
    network, optimizer = build(world, **{**KINDS[kind], "weight_decay": 0.0})
    before = values_of(network)
    norm, _ = step(network, optimizer, (0, 1), 0.1, 0, 0.0)
    assert norm == 0
    for name, value in values_of(network).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("kind", KINDS)
def test_restored_state_goes_on_identically(world: World, kind: str) -> None:
    network, optimizer = build(world, **KINDS[kind])
    for update in (0, 1):
        step(network, optimizer, TOUCHED[update], RATES[update], update)
    other, fresh = build(world, seed=9, **KINDS[kind])
    for name, parameter in parameters_of(other).items():
        parameter.set_data(nd.array(values_of(network)[name]))
    fresh.restore(optimizer.state())
    for update in (2, 3):
        for pair in ((network, optimizer), (other, fresh)):
            step(*pair, TOUCHED[update], RATES[update], update)
    for left, right in ((values_of(network), values_of(other)), (optimizer.state(), fresh.state())):
        assert left.keys() == right.keys()
        assert all(left[name].tobytes() == right[name].tobytes() for name in left)


def test_state_names_all_moments_and_refuses_others(world: World) -> None:
    _, optimizer = build(world, kind="adam")
    state = optimizer.state()
    assert set(state) == {f"{n}:{i}" for n in ("embedding", "layer.weight", "layer.bias") for i in (0, 1)}
    assert set(build(world, kind="sgd")[1].state()) == {"embedding:0", "layer.weight:0", "layer.bias:0"}
    state.pop("layer.bias:1")
    with pytest.raises(KeyError):
        optimizer.restore(state)


def test_parameters_shared_by_blocks_come_once() -> None:
    network = Small()
    network.again = network.layer
    assert sorted(parameters_of(network)) == ["again.bias", "again.weight", "embedding"]


# --- the schedule -----------------------------------------------------------------------------------------------------
def test_warm_up_rises_in_equal_steps_to_the_base() -> None:
    for kind in ("constant", "cosine", "linear"):
        config = ScheduleConfig(kind=kind, warmup_updates=5)
        rates = [learning_rate(config, 2.0, u, 50) for u in range(6)]
        np.testing.assert_allclose(rates, [0.4, 0.8, 1.2, 1.6, 2.0, 2.0])


def test_values_after_the_warm_up() -> None:
    at = lambda kind, update, share=0.0: learning_rate(
        ScheduleConfig(kind=kind, warmup_updates=10, final_share=share), 1.0, update, 110
    )
    assert [at("constant", u) for u in (10, 60, 109)] == [1, 1, 1]
    assert [at("linear", u) for u in (10, 60, 110)] == pytest.approx([1, 0.5, 0])
    assert [at("linear", u, 0.2) for u in (10, 60, 110)] == pytest.approx([1, 0.6, 0.2])
    assert [at("cosine", u) for u in (10, 35, 60, 85, 110)] == pytest.approx(
        [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0]
    )
    assert at("cosine", 60, 0.1) == pytest.approx(0.55)


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 40), (7, 40), (39, 40), (40, 40), (100, 40)])
def test_schedule_is_continuous_and_falls_after_the_warm_up(kind: str, warmup: int, total: int) -> None:
    config = ScheduleConfig(kind=kind, warmup_updates=warmup, final_share=0.1)
    rates = np.array([learning_rate(config, 1.0, update, total) for update in range(total + 20)])
    assert (rates > 0).all()
    assert rates.max() <= 1
    steps = np.diff(rates)
    largest = max(1 / max(1, warmup), math.pi / 2 / max(1, total - warmup))  # the steepest slope of either part
    assert np.abs(steps).max() <= largest + 1e-9
    assert (steps[: max(0, warmup - 1)] > 0).all()
    assert (steps[warmup:] <= 1e-12).all()
    if kind != "constant" and warmup < total:
        assert rates[-1] == pytest.approx(0.1)  # and stays there beyond the last update
