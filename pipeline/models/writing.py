"""Text from a language model, token by token: drawn from its chances, or the likeliest by beam search."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from gluonnlp.model import BeamSearchSampler, BeamSearchScorer
from mxnet import Context, nd

from pipeline.models.language_model import LanguageModel, States

# Below LARGE_NEGATIVE_FLOAT of gluonnlp's sampler, so that a barred token loses even against beams not begun yet.
BARRED = -1e30
MAX_BEAM_CELLS = 2**24  # the sampler keeps beam * V + token in a float32


class Choice(NamedTuple):
    """How the next token is drawn."""

    temperature: float = 1.0  # logits are divided by it; 0: always the likeliest
    top_k: int | None = None  # from the k likeliest alone (Fan et al. 2018)
    top_p: float | None = None  # from the fewest that together have this chance (Holtzman et al. 2020)


def choose(logits: np.ndarray, choice: Choice, rng: np.random.Generator) -> np.ndarray:
    """(N,) int32 tokens drawn from (N, V) logits; the random numbers used do not depend on `choice`.

    >>> choose(np.array([[0.0, 2.0, 1.0]]), Choice(temperature=0), np.random.default_rng(1))
    array([1], dtype=int32)
    """
    draws = rng.random(len(logits))
    if choice.temperature == 0:
        return logits.argmax(axis=1).astype(np.int32)
    scaled = logits.astype(np.float64) / choice.temperature
    order = np.argsort(-scaled, axis=1, kind="stable")
    chances = np.exp(np.take_along_axis(scaled, order, axis=1) - scaled.max(axis=1, keepdims=True))
    if choice.top_k is not None:
        chances[:, choice.top_k :] = 0
    chances /= chances.sum(axis=1, keepdims=True)
    if choice.top_p is not None:
        before = np.cumsum(chances, axis=1) - chances  # what the likelier ones have together
        chances[before >= choice.top_p] = 0
        chances[:, 0] = np.maximum(chances[:, 0], np.finfo(np.float64).tiny)
    reached = np.cumsum(chances, axis=1)
    place = (reached <= draws[:, None] * reached[:, -1:]).sum(axis=1)
    return order[np.arange(len(order)), np.minimum(place, order.shape[1] - 1)].astype(np.int32)


def read(
    network: LanguageModel, prompt: np.ndarray, context: Context, packed: list[nd.NDArray]
) -> tuple[nd.NDArray, States]:
    """(T, N) int32 prompts to the (N, V) logits of what follows, and the states."""
    ids = nd.array(prompt, context, "int32")
    outputs, states = network(ids, network.begin(ids.shape[1], context), packed)
    return network.logits(outputs[-1]), states


def write(
    network: LanguageModel,
    prompt: np.ndarray,
    length: int,
    choice: Choice,
    rng: np.random.Generator,
    context: Context,
    barred: np.ndarray,
) -> Iterator[np.ndarray]:
    """Yields `length` times the (N,) int32 next tokens of N texts, after (T, N) prompts of at least one token.

    Args:
        barred: tokens never written.
    """
    packed = network.packed(context)
    logits, states = read(network, prompt, context, packed)
    for place in range(length):
        values = logits.asnumpy()
        values[:, barred] = BARRED
        chosen = choose(values, choice, rng)
        yield chosen
        if place + 1 < length:
            outputs, states = network(nd.array(chosen[None], context, "int32"), states, packed)
            logits = network.logits(outputs[0])


def likeliest(
    network: LanguageModel, prompt: np.ndarray, length: int, beam: int, context: Context, barred: np.ndarray
) -> tuple[np.ndarray, float]:
    """(length,) int32 tokens after a (T,) prompt that beam search finds likeliest together, and their log chance.

    All texts are equally long, so no length penalty is needed; padding stands for the end that never comes and must be
    among `barred`.

    Raises:
        ValueError: beam times vocabulary is more than gluonnlp's sampler can number.
    """
    if beam * (network.vocabulary + 1) > MAX_BEAM_CELLS:
        raise ValueError(f"a beam of {beam} over {network.vocabulary} tokens is more than {MAX_BEAM_CELLS} cells")
    packed = network.packed(context)
    bar = np.zeros(network.vocabulary, np.float32)
    bar[barred] = BARRED
    offset = nd.array(bar[None], context)

    def step(token: nd.NDArray, states: States) -> tuple[nd.NDArray, States]:
        """(K,) tokens and (K, hidden) states to (K, V) log chances and new states."""
        outputs, after = network(token.reshape((1, -1)).astype("int32"), [s.expand_dims(0) for s in states], packed)
        logits = nd.broadcast_add(network.logits(outputs[0]), offset)
        return nd.log_softmax(logits), [s[0] for s in after]

    _, states = network(
        nd.array(prompt[:-1, None], context, "int32"), network.begin(1, context), packed
    ) if len(prompt) > 1 else (None, network.begin(1, context))  # fmt: skip
    sampler = BeamSearchSampler(beam, step, eos_id=0, scorer=BeamSearchScorer(alpha=0.0), max_length=length)
    samples, scores, _ = sampler(nd.array(prompt[-1:], context, "int32"), [s[0] for s in states])
    # the first token is the prompt's last, and the sampler ends each text with a mark of its own
    return samples[0, 0].asnumpy()[1 : length + 1].astype(np.int32), float(scores[0, 0].asscalar())
