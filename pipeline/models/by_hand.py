"""The recurrent net by hand, in NumPy alone: forward, loss, back-propagation through time and training.

Each line stands beside the formula that it is; names are those of the formulas:

    s_t = tanh(U x_t + W s_{t-1})        x_t one-hot, so U x_t is a column of U
    z_t = V s_t,  o_t = softmax(z_t)
    E   = sum over t of E_t,  E_t = -log o_t[y_t]

Shapes: C characters or words, H hidden; U (H, C), W (H, H), V (C, H). Without biases, as the textbook has it. The net
of the tasks is `pipeline.models.recurrent`, which is the same with biases, in MXNet's fused kernel.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

FRESH = 10  # parts of a text that are read before the state begins at zero again


class Parameters(NamedTuple):
    """Also what the gradients with respect to them are kept in."""

    U: np.ndarray  # (H, C)
    W: np.ndarray  # (H, H)
    V: np.ndarray  # (C, H)


class Forward(NamedTuple):
    """What a forward pass leaves for the backward pass."""

    s: np.ndarray  # (T + 1, H): s_0, … s_{T-1} and, last, s_{-1}
    o: np.ndarray  # (T, C)


def start(size: int, hidden: int, rng: np.random.Generator, dtype: type = np.float64) -> Parameters:
    """Uniform between -1/sqrt(n) and 1/sqrt(n), n the number of inputs of each."""

    def draw(rows: int, columns: int) -> np.ndarray:
        return rng.uniform(-1, 1, (rows, columns)).astype(dtype) / dtype(np.sqrt(columns))

    return Parameters(U=draw(hidden, size), W=draw(hidden, hidden), V=draw(size, hidden))


def forward(net: Parameters, x: np.ndarray, before: np.ndarray) -> Forward:
    """Reads (T,) token numbers, after the state `before` (H,)."""
    steps, hidden = len(x), len(net.W)
    s = np.zeros((steps + 1, hidden), net.W.dtype)
    s[-1] = before  # s_{-1}: numpy's last row stands for the one before the first
    for t in range(steps):
        s[t] = np.tanh(net.U[:, x[t]] + net.W @ s[t - 1])  # s_t = tanh(U x_t + W s_{t-1})
    z = s[:steps] @ net.V.T  # z_t = V s_t, all t at once
    e = np.exp(z - z.max(axis=1, keepdims=True))
    o = e / e.sum(axis=1, keepdims=True)  # o_t = softmax(z_t)
    return Forward(s, o)


def loss(net: Parameters, x: np.ndarray, y: np.ndarray, before: np.ndarray) -> float:
    """E = -sum over t of log o_t[y_t], in nats, of (T,) tokens and the (T,) that follow each."""
    o = forward(net, x, before).o
    return float(-np.log(o[np.arange(len(y)), y]).sum())


def gradients(net: Parameters, x: np.ndarray, y: np.ndarray, run: Forward, truncate: int | None = None) -> Parameters:
    """dE/dU, dE/dW, dE/dV by back-propagation through time.

    With delta_t = dE/d(U x_t + W s_{t-1}), all of what comes later included:

        dE_t/dz_t = o_t - y_t
        dE/dV     = sum over t of (o_t - y_t) s_t'
        delta_t   = (V' (o_t - y_t) + W' delta_{t+1}) * (1 - s_t^2)
        dE/dW     = sum over t of delta_t s_{t-1}'
        dE/dU     = sum over t of delta_t x_t'

    The sum over k of the textbook's dE_t/dW = sum over k <= t of dE_t/ds_t ds_t/ds_k ds_k/dW is what the recursion from
    the end gathers; `truncate` cuts it: dE_t reaches back `truncate` steps at most, which costs a pass per step (to cut
    a text into parts instead, and carry the state, costs none: see `train`).
    """
    s, o = run
    steps, hidden = len(x), len(net.W)
    dU, dW = np.zeros_like(net.U), np.zeros_like(net.W)
    dz = o.copy()
    dz[np.arange(steps), y] -= 1  # dE_t/dz_t = o_t - y_t
    dV = dz.T @ s[:steps]  # dE/dV = sum over t of (o_t - y_t) s_t'
    if truncate is None:
        delta = np.zeros(hidden, net.W.dtype)  # delta_T = 0: nothing comes after the last
        for t in reversed(range(steps)):
            delta = (net.V.T @ dz[t] + net.W.T @ delta) * (1 - s[t] ** 2)  # (V' (o_t - y_t) + W' delta_{t+1}) tanh'
            dW += np.outer(delta, s[t - 1])  # dE/dW = sum of delta_t s_{t-1}'
            dU[:, x[t]] += delta  # dE/dU = sum of delta_t x_t', x_t one-hot
        return Parameters(dU, dW, dV)
    for t in range(steps):
        delta = (net.V.T @ dz[t]) * (1 - s[t] ** 2)  # E_t alone
        for k in range(t, max(-1, t - truncate - 1), -1):
            dW += np.outer(delta, s[k - 1])
            dU[:, x[k]] += delta
            delta = (net.W.T @ delta) * (1 - s[k - 1] ** 2)  # ds_k/ds_{k-1} = diag(1 - s_k^2) W, transposed
    return Parameters(dU, dW, dV)


def step_jacobian(net: Parameters, s: np.ndarray) -> np.ndarray:
    """ds_t/ds_{t-1} = diag(1 - s_t^2) W, (H, H), of a state s_t (H,)."""
    return (1 - s**2)[:, None] * net.W


class Progress(NamedTuple):
    """Where a training stands."""

    update: int
    nats: float  # per token, mean over the updates since the last one told


def train(
    net: Parameters,
    text: np.ndarray,
    steps: int,
    rate: float,
    updates: int,
    told_every: int = 100,
    clip: float = 5.0,
) -> Iterator[Progress]:
    """AdaGrad over the text's parts of `steps` tokens, the state carried from part to part; changes `net` in place.

    Every FRESH parts the state begins at zero again, as writing does. Without biases, tanh being odd, a state and its
    mirror image go on alike, but the mirrored one finds the rarest words likeliest; a state that is never reset stays
    on one side, and the net does not learn to get there from zero.

    Duchi et al. 2011; gradients are clipped number by number, which is enough against those that explode. The sums of
    squares begin above zero, else the first updates would move the rows of all words that did not come by `rate`.
    """
    sums = [np.full_like(array, 0.1) for array in net]
    state, at, nats = np.zeros(len(net.W), net.W.dtype), 0, []
    for update in range(1, updates + 1):
        if at + steps + 1 > len(text):
            at = 0
        if at == 0 or update % FRESH == 0:
            state = np.zeros_like(state)
        x, y = text[at : at + steps], text[at + 1 : at + steps + 1]
        run = forward(net, x, state)
        nats.append(float(-np.log(run.o[np.arange(steps), y]).mean()))
        for array, total, gradient in zip(net, sums, gradients(net, x, y, run)):
            gradient = np.clip(gradient, -clip, clip)
            total += gradient**2
            array -= rate * gradient / np.sqrt(total)
        state, at = run.s[steps - 1], at + steps
        if update % told_every == 0 or update == updates:
            yield Progress(update, float(np.mean(nats)))
            nats = []


def write(net: Parameters, first: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """(length,) tokens drawn one after the other, after `first`."""
    state, token, tokens = np.zeros(len(net.W), net.W.dtype), first, []
    for _ in range(length):
        run = forward(net, np.array([token]), state)
        state, token = run.s[0], int(rng.choice(len(net.V), p=run.o[0].astype(np.float64) / run.o[0].sum(dtype=float)))
        tokens.append(token)
    return np.array(tokens, np.int64)
