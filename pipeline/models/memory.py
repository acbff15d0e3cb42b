"""How much of a state is left in later ones: the norm of ds_t/ds_k over t - k, by hand and through MXNet's kernels."""

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd

from pipeline.models import by_hand
from pipeline.models.language_model import LanguageModel
from pipeline.models.recurrent import RecurrentLayer


def by_hand_norms(net: by_hand.Parameters, x: np.ndarray, lags: int, places: np.ndarray) -> np.ndarray:
    """(lags,) spectral norms of ds_t/ds_k = the product of ds_j/ds_{j-1} over k < j <= t, for t - k = 1 … lags.

    The geometric mean over k in `places`, of (T,) tokens read from a zero state.
    """
    s = by_hand.forward(net, x, np.zeros(len(net.W), net.W.dtype)).s
    logs = np.zeros(lags)
    for k in places:
        product = np.eye(len(net.W))
        for lag in range(lags):
            product = by_hand.step_jacobian(net, s[k + lag + 1]) @ product
            logs[lag] += log_norm(product)
    return np.exp(logs / len(places))


def layer_norms(network: LanguageModel, x: np.ndarray, lags: int, places: np.ndarray) -> np.ndarray:
    """As `by_hand_norms`, of a language model's first layer; an LSTM's state is its h and c together.

    By autograd through the fused kernel: the text from k on is run once for each number of the state at t, all side by
    side from the same state at k, and each run asks for the gradient of its own number.
    """
    layer = network.layers[0]
    context = network.words.weight.list_ctx()[0]
    packed = layer.packed(context).detach()
    embedded = network.words(nd.array(x[:, None], context, "int32"))
    logs = np.zeros(lags)
    for k in places:
        _, states = layer(embedded[: k + 1], network.begin(1, context)[: network.states_per_layer], packed)
        for lag in range(lags):
            logs[lag] += log_norm(_jacobian(layer, embedded[k + 1 : k + lag + 2], states, packed))
    return np.exp(logs / len(places))


def _jacobian(layer: RecurrentLayer, x: nd.NDArray, states: list[nd.NDArray], packed: nd.NDArray) -> np.ndarray:
    """(S, S) d(states after x)/d(states before), S the numbers of all states, from (T, 1, C) inputs."""
    size = layer.hidden * len(states)
    begin = [nd.broadcast_axis(state, axis=1, size=size).copy() for state in states]
    for state in begin:
        state.attach_grad()
    with autograd.record():
        _, after = layer(nd.broadcast_axis(x, axis=1, size=size), begin, packed)
    heads = nd.eye(size)
    autograd.backward(after, [heads[:, i * layer.hidden : (i + 1) * layer.hidden].expand_dims(0)
                              for i in range(len(after))])  # fmt: skip
    return np.concatenate([state.grad[0].asnumpy() for state in begin], axis=1)


def log_norm(matrix: np.ndarray) -> float:
    """The logarithm of the largest singular value; of what float32 calls zero, that of 1e-30."""
    return float(np.log(max(float(np.linalg.norm(matrix, 2)), 1e-30)))


def learn(network: LanguageModel, text: np.ndarray, updates: int = 300, streams: int = 10, steps: int = 40) -> float:
    """A short training by Adam, streams of (L,) tokens side by side; the mean nats of its last 50 updates."""
    trainer = gluon.Trainer(network.collect_params(), "adam", {"learning_rate": 0.005, "clip_gradient": 1.0})
    size = (len(text) - 1) // streams
    starts, losses = size * np.arange(streams), []
    states = network.begin(streams, mx.cpu())
    for update in range(updates):
        begin = update * steps % max(1, size - steps)
        places = np.minimum(starts + begin + np.arange(steps)[:, None], len(text) - 2)
        with autograd.record():
            outputs, after = network(nd.array(text[places], dtype="int32"), states)
            loss = network.losses(outputs, nd.array(text[places + 1])).mean()
        loss.backward()
        trainer.step(1)
        states = [state.detach() for state in after]
        losses.append(float(loss.asscalar()))
    return float(np.mean(losses[-50:]))
