"""The net by hand against finite differences, and against MXNet's autograd, unrolled and fused."""

import argparse
import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mxnet import autograd, nd

from pipeline.models import by_hand
from pipeline.models.by_hand import Parameters

FINITE, AUTOGRAD = 1e-6, 1e-5  # relative errors allowed


def problem(size: int, hidden: int, steps: int, seed: int, dtype: type = np.float64):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    net = by_hand.start(size, hidden, rng, dtype)
    text = rng.integers(0, size, steps + 1)
    return net, text[:-1], text[1:], (rng.uniform(-0.9, 0.9, hidden)).astype(dtype)


def gradients(net: Parameters, x: np.ndarray, y: np.ndarray, before: np.ndarray) -> Parameters:
    return by_hand.gradients(net, x, y, by_hand.forward(net, x, before))


def finite_differences(
    net: Parameters, x: np.ndarray, y: np.ndarray, before: np.ndarray, step: float = 1e-5
) -> Parameters:
    """(E(p + h) - E(p - h)) / 2h for each number p of the parameters; float64 parameters only."""
    differences = []
    for array in net:
        gradient = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            original = array[place]
            array[place] = original + step
            above = by_hand.loss(net, x, y, before)
            array[place] = original - step
            below = by_hand.loss(net, x, y, before)
            array[place] = original
            gradient[place] = (above - below) / (2 * step)
        differences.append(gradient)
    return Parameters(*differences)


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """Norm of the difference over the norm of the larger; 0 where both are zero."""
    scale = max(np.linalg.norm(a), np.linalg.norm(b))
    return float(np.linalg.norm(a - b) / scale) if scale else 0.0


@settings(max_examples=15, deadline=None)
@given(size=st.integers(2, 6), hidden=st.integers(1, 5), steps=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_gradients_are_those_of_finite_differences(size: int, hidden: int, steps: int, seed: int) -> None:
    net, x, y, before = problem(size, hidden, steps, seed)
    for name, ours, theirs in zip(net._fields, gradients(net, x, y, before), finite_differences(net, x, y, before)):
        # what differences of losses cannot resolve in float64 does not count: a gradient of rounding noise
        assert np.linalg.norm(ours - theirs) < 1e-9 or relative_error(ours, theirs) < FINITE, name


def test_gradients_reach_the_first_step() -> None:
    """A token that only stands first has a column of U to blame, however late the loss."""
    net, _, _, before = problem(5, 4, 12, 3)
    x, y = np.array([4] + [0, 1, 2] * 4), np.array([0, 1, 2] * 4 + [0])
    run = by_hand.forward(net, x, before)
    whole = by_hand.gradients(net, x, y, run)
    only_late = by_hand.gradients(net, x, y, run, truncate=3)
    assert np.linalg.norm(whole.U[:, 4]) > 0
    assert relative_error(whole.U[:, 4], only_late.U[:, 4]) > 1e-4


@pytest.mark.parametrize("truncate", [0, 1, 3])
def test_truncation_leaves_out_what_is_further_back(truncate: int) -> None:
    """Against autograd over the terms dE_t/ds_k themselves: each loss is cut off `truncate` steps before it."""
    net, x, y, before = problem(4, 3, 7, 5, np.float32)
    U, W, V = (nd.array(array) for array in net)
    total = [np.zeros_like(array) for array in net]
    states = by_hand.forward(net, x, before).s
    for t in range(len(x)):
        first = max(0, t - truncate)
        for array in (U, W, V):
            array.attach_grad()
        with autograd.record():
            s = nd.array(states[first - 1])  # a constant: what is before `first` gets no gradient
            for k in range(first, t + 1):
                s = nd.tanh(U[:, int(x[k])] + nd.dot(W, s))
            loss = -nd.log_softmax(nd.dot(V, s))[int(y[t])]
        loss.backward()
        for sum_, array in zip(total, (U, W, V)):
            sum_ += array.grad.asnumpy()
    for ours, theirs in zip(by_hand.gradients(net, x, y, by_hand.forward(net, x, before), truncate), total):
        assert relative_error(ours, theirs) < AUTOGRAD


def test_truncating_beyond_the_beginning_changes_nothing() -> None:
    net, x, y, before = problem(5, 4, 6, 8)
    run = by_hand.forward(net, x, before)
    for whole, cut in zip(by_hand.gradients(net, x, y, run), by_hand.gradients(net, x, y, run, truncate=6)):
        assert relative_error(whole, cut) < 1e-12


def test_gradients_are_those_of_autograd_on_the_unrolled_net() -> None:
    net, x, y, before = problem(9, 7, 20, 1, np.float32)
    U, W, V = (nd.array(array) for array in net)
    for array in (U, W, V):
        array.attach_grad()
    with autograd.record():
        s, total = nd.array(before), 0
        for t in range(len(x)):
            s = nd.tanh(U[:, int(x[t])] + nd.dot(W, s))
            total = total - nd.log_softmax(nd.dot(V, s))[int(y[t])]
    total.backward()
    assert total.asscalar() == pytest.approx(by_hand.loss(net, x, y, before), rel=AUTOGRAD)
    for ours, theirs in zip(gradients(net, x, y, before), (U, W, V)):
        assert relative_error(ours, theirs.grad.asnumpy()) < AUTOGRAD


def test_gradients_are_those_of_autograd_on_the_fused_kernel() -> None:
    net, x, y, before = problem(9, 7, 20, 2, np.float32)
    U, W, V = (nd.array(array) for array in net)
    for array in (U, W, V):
        array.attach_grad()
    with autograd.record():
        inputs = nd.one_hot(nd.array(x), depth=len(net.V)).expand_dims(1)  # (T, 1, C)
        packed = nd.concat(U.reshape(-1), W.reshape(-1), nd.zeros(2 * len(net.W)), dim=0)
        states = nd.RNN(
            data=inputs,
            parameters=packed,
            state=nd.array(before).reshape((1, 1, -1)),
            mode="rnn_tanh",
            state_size=len(net.W),
            num_layers=1,
        )
        losses = -nd.pick(nd.log_softmax(nd.dot(states[:, 0], V.T)), nd.array(y))
        total = losses.sum()
    total.backward()
    assert total.asscalar() == pytest.approx(by_hand.loss(net, x, y, before), rel=AUTOGRAD)
    for ours, theirs in zip(gradients(net, x, y, before), (U, W, V)):
        assert relative_error(ours, theirs.grad.asnumpy()) < AUTOGRAD


def test_the_state_jacobian_is_that_of_finite_differences() -> None:
    net, x, _, before = problem(5, 4, 1, 4)
    s = by_hand.forward(net, x, before).s[0]
    found = np.empty((4, 4))
    for i, e in enumerate(np.eye(4) * 1e-5):
        above, below = (by_hand.forward(net, x, before + sign * e).s[0] for sign in (1, -1))
        found[:, i] = (above - below) / 2e-5
    assert relative_error(by_hand.step_jacobian(net, s), found) < FINITE


def test_it_learns_a_text_that_needs_two_characters_of_memory() -> None:
    """After x comes what stood before x: a model of pairs cannot tell a from b there (0.5 · log 2 nats at best)."""
    rng = np.random.default_rng(0)
    letters = rng.integers(0, 2, 4000)
    text = np.stack([letters, np.full(4000, 2), letters], axis=1).reshape(-1)  # a x a, b x b, …
    net = by_hand.start(3, 16, rng)
    *_, last = by_hand.train(net, text, steps=15, rate=0.1, updates=700, told_every=100)
    # of three characters one is a coin's throw, and the others are certain: log(2) / 3 = 0.231 at best
    assert last.nats < 0.25


@pytest.mark.parametrize("seed", [1, 3])
def test_it_knows_the_text_from_a_state_of_zero_too(seed: int) -> None:
    """What it read from the carried state at 2.4 nats, it read from zero at 4 to 5, and wrote only rare letters."""
    source = inspect.getsource(argparse)
    letters = sorted(set(source))
    text = np.array([letters.index(letter) for letter in source])
    net = by_hand.start(len(letters), 100, np.random.default_rng(seed), np.float32)
    *_, last = by_hand.train(net, text, steps=35, rate=0.1, updates=2000)
    nothing, places = np.zeros(100, np.float32), np.random.default_rng(0).integers(0, len(text) - 36, 100)
    fresh = np.mean([by_hand.loss(net, text[at : at + 35], text[at + 1 : at + 36], nothing) / 35 for at in places])
    assert last.nats < 2.9 and fresh < last.nats + 0.6


def test_it_writes_what_it_has_learned() -> None:
    net = by_hand.start(4, 6, np.random.default_rng(1))
    text = np.tile([0, 1, 2, 3], 300)
    list(by_hand.train(net, text, steps=12, rate=0.1, updates=300))
    written = by_hand.write(net, 0, 40, np.random.default_rng(2))
    assert (written == np.tile([1, 2, 3, 0], 10)).mean() > 0.95
