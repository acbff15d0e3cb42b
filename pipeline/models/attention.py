"""Attention: which places of a memory matter to a query, and their weighted mean."""

from typing import Any, NamedTuple

from mxnet import gluon, init, nd

from pipeline.config.head import FAR_BELOW


class Memory(NamedTuple):
    """What is attended to: an encoder's states, or an image's grid; L places for each of N examples."""

    values: nd.NDArray  # (N, L, W)
    keys: nd.NDArray  # (N, L, A), what queries are compared with: made once for all of them
    padding: nd.NDArray  # (N, L), 1 where there is no place, else 0


def _weights(scores: nd.NDArray, padding: nd.NDArray, temperature: float = 1.0) -> nd.NDArray:
    """(N, T, L) scores to weights that sum to 1 over the places that are there."""
    return nd.softmax(nd.broadcast_add(scores, padding.expand_dims(1) * FAR_BELOW), axis=2, temperature=temperature)


class LuongAttention(gluon.Block):
    """score(s, h) = s . (W h), "general" in Luong et al., "Effective approaches to attention-based neural machine
    translation", 2015, eq. 8. One matrix product gives all steps' scores."""

    def __init__(self, query: int, memory: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.keys = gluon.nn.Dense(
                query, use_bias=False, flatten=False, in_units=memory, weight_initializer=init.Xavier()
            )

    def forward(self, queries: nd.NDArray, memory: Memory) -> tuple[nd.NDArray, nd.NDArray]:
        """(N, T, query) to (N, T, W) weighted means of the memory and the (N, T, L) weights."""
        weights = _weights(nd.batch_dot(queries, memory.keys, transpose_b=True), memory.padding)
        return nd.batch_dot(weights, memory.values), weights


class ScaledAttention(gluon.Block):
    """score(s, h) = s . (W h) / sqrt(width of s): Luong's, divided as in Vaswani et al., "Attention is all you need",
    2017, section 3.2.1.

    A decoder learns from its own words first, and W's gradient is tiny as long as it does. Adam takes full steps all
    the same, so scores that are not divided grow at random until the softmax looks at one place alone and learns no
    more.
    """

    def __init__(self, query: int, memory: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.places = gluon.nn.Dense(
                query, use_bias=False, flatten=False, in_units=memory, weight_initializer=init.Xavier()
            )

    @property
    def keys(self) -> gluon.nn.Dense:
        """W. Its parameter has a name of its own: one that was trained undivided must not be taken for it."""
        return self.places

    def forward(self, queries: nd.NDArray, memory: Memory) -> tuple[nd.NDArray, nd.NDArray]:
        """As LuongAttention."""
        scores = nd.batch_dot(queries, memory.keys, transpose_b=True)
        weights = _weights(scores, memory.padding, queries.shape[2] ** 0.5)
        return nd.batch_dot(weights, memory.values), weights


class BahdanauAttention(gluon.Block):
    """score(s, h) = v . tanh(W s + U h): Bahdanau et al., "Neural machine translation by jointly learning to align and
    translate", 2015, appendix A.1.2. Every pair of a query and a place costs a tanh per unit."""

    def __init__(self, query: int, memory: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.keys = gluon.nn.Dense(query, flatten=False, in_units=memory, weight_initializer=init.Xavier())
            self.project = gluon.nn.Dense(
                query, use_bias=False, flatten=False, in_units=query, weight_initializer=init.Xavier()
            )
            self.score = gluon.nn.Dense(
                1, use_bias=False, flatten=False, in_units=query, weight_initializer=init.Xavier()
            )

    def forward(self, queries: nd.NDArray, memory: Memory) -> tuple[nd.NDArray, nd.NDArray]:
        """As LuongAttention."""
        compared = nd.broadcast_add(self.project(queries).expand_dims(2), memory.keys.expand_dims(1))  # (N, T, L, A)
        weights = _weights(self.score(nd.tanh(compared)).squeeze(axis=3), memory.padding)
        return nd.batch_dot(weights, memory.values), weights


ATTENTIONS: dict[str, type[LuongAttention] | type[ScaledAttention] | type[BahdanauAttention]] = {
    "scaled": ScaledAttention,
    "luong": LuongAttention,
    "bahdanau": BahdanauAttention,
}
