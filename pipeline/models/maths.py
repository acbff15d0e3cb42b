"""Heads and poolings in training: what they learn as a Gluon block, and MXNet's arithmetic for their formulas."""

from collections.abc import Callable
from typing import Any

from mxnet import Context, autograd, gluon, init, nd

from pipeline.config.head import FAR_BELOW, Dense, Learned, Texts


class Identity(init.Initializer):
    """Starts a square matrix at the identity, so that a bilinear head starts as a dot product."""

    def _init_weight(self, _: Any, array: nd.NDArray) -> None:
        array[:] = nd.eye(array.shape[0])


STARTS = {"identity": Identity, "xavier": init.Xavier, "zeros": init.Zero, "ones": init.One}


class Learning(gluon.Block):
    """What a head or a pooling learns."""

    def __init__(self, parts: Learned, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            for name, part in parts.items():
                if isinstance(part, Dense):
                    start = {"weight_initializer": init.Xavier(), "use_bias": part.bias, "flatten": False}
                    setattr(self, name, gluon.nn.Dense(part.units, in_units=part.inputs, **start))
                else:
                    setattr(self, name, self.params.get(name, shape=part.shape, init=STARTS[part.start]()))


def unit(vectors: nd.NDArray) -> nd.NDArray:
    """Vectors of length 1 along the last axis."""
    return nd.broadcast_div(vectors, nd.sqrt((vectors * vectors).sum(axis=-1, keepdims=True) + 1e-12))


def _products(left: nd.NDArray, right: nd.NDArray) -> nd.NDArray:
    """(N, P) and (M, P) to (N, M), every row with every row; by oneDNN, several times as fast as `nd.dot` on a CPU."""
    return nd.FullyConnected(left, right, no_bias=True, num_hidden=right.shape[0])


class MxnetMaths:
    """`pipeline.config.head.Maths` over NDArrays.

    Args:
        output: the linear layer above the head, if there is one; dropout: what `dropped` does.
    """

    def __init__(
        self, block: Learning, output: gluon.Block | None, options: Any, context: Context,
        dropout: Callable[[nd.NDArray], nd.NDArray] | None = None,
    ) -> None:  # fmt: skip
        self._block, self._output, self.options, self._context = block, output, options, context
        self._dropout = dropout

    def array(self, name: str) -> nd.NDArray:
        return getattr(self._block, name).data(self._context)

    def dense(self, x: nd.NDArray, name: str) -> nd.NDArray:
        return getattr(self._block, name)(x)

    def output(self, features: nd.NDArray) -> nd.NDArray:
        assert self._output is not None, "a head that is learned, or graded, is always built with an output layer"
        return self._output(features)

    def dropped(self, x: nd.NDArray) -> nd.NDArray:
        return self._dropout(x) if self._dropout else x

    @staticmethod
    def neighbours(x: nd.NDArray) -> nd.NDArray:
        end = nd.zeros_like(nd.slice_axis(x, axis=1, begin=0, end=1))
        longer = nd.concat(end, x, end, dim=1)
        before, after = (nd.slice_axis(longer, axis=1, begin=i, end=i + x.shape[1]) for i in (0, 2))
        return nd.concat(before, x, after, dim=2)

    @staticmethod
    def largest(x: nd.NDArray) -> nd.NDArray:
        # not max: MXNet gives each of several equal maxima the whole gradient, and a word that stands twice is equal
        # to itself but for rounding, so that the gradient would depend on the batch's shape
        return nd.pick(x, x.detach().argmax(axis=x.ndim - 1), axis=x.ndim - 1)

    concat = staticmethod(lambda *values: nd.concat(*values, dim=values[0].ndim - 1))
    stack = staticmethod(lambda *values: nd.stack(*values, axis=1))
    first = staticmethod(lambda x: nd.slice_axis(x, axis=1, begin=0, end=1).reshape(-1))
    width = staticmethod(lambda x: x.shape[-1])
    since = staticmethod(lambda x, begin: nd.slice_axis(x, axis=x.ndim - 1, begin=begin, end=None))
    sum = staticmethod(lambda x, axis, keep=False: x.sum(axis=axis, keepdims=keep))
    unit = staticmethod(unit)
    absolute = staticmethod(nd.abs)
    root = staticmethod(lambda x: nd.sqrt(nd.maximum(x, 1e-12)))
    tanh = staticmethod(lambda x: nd.Activation(x, act_type="tanh"))
    relu = staticmethod(lambda x: nd.Activation(x, act_type="relu"))
    sigmoid = staticmethod(lambda x: nd.Activation(x, act_type="sigmoid"))
    softmax = staticmethod(lambda x: nd.softmax(x, axis=-1))
    times = staticmethod(nd.dot)
    products = staticmethod(lambda x, y: nd.batch_dot(x, y, transpose_b=True))
    turned = staticmethod(lambda x: x.transpose((0, 2, 1)))
    expanded = staticmethod(lambda x, axis: x.expand_dims(axis))
    zero = staticmethod(lambda x: x == 0)
    every_dot = staticmethod(_products)

    def every_best(self, query: Texts, document: Texts) -> nd.NDArray:
        (nq, tq, width), (nd_, td, _) = query.vectors.shape, document.vectors.shape
        similar = _products(query.vectors.reshape((-1, width)), document.vectors.reshape((-1, width)))
        absent = (document.weights == 0) * FAR_BELOW
        similar = nd.broadcast_add(similar.reshape((nq * tq, nd_, td)), absent.expand_dims(0))
        if autograd.is_recording() or similar.context.device_type == "gpu":
            best = similar.max(axis=2)
        else:  # oneDNN's maximum, over twice as fast
            best = nd.Pooling(similar.expand_dims(0), kernel=(1, td), stride=(1, td), pool_type="max")
        best = best.reshape((nq, tq, nd_))
        weights = nd.broadcast_div(query.weights, query.weights.sum(axis=1, keepdims=True))
        return nd.broadcast_mul(best, weights.expand_dims(2)).sum(axis=1)

    def every_pair(self, head: Any, query: Texts, document: Texts) -> nd.NDArray:
        nq, nd_ = query.vectors.shape[0], document.vectors.shape[0]
        left = Texts(*(None if x is None else nd.repeat(x, nd_, axis=0) for x in query))
        right = Texts(*(None if x is None else nd.tile(x, (nq, *[1] * (x.ndim - 1))) for x in document))
        return head.pairs(self, left, right).reshape((nq, nd_))


class MxnetSteps(MxnetMaths):
    """`pipeline.config.poolings.StepMaths` over NDArrays.

    Args:
        sizes: (N,) int32 tokens of each text.
    """

    def __init__(self, block: Learning, sizes: nd.NDArray) -> None:
        super().__init__(block, None, None, sizes.context)
        self._sizes = sizes.astype("float32")

    @property
    def lengths(self) -> nd.NDArray:
        return self._sizes.reshape((-1, 1))

    def filled(self, x: nd.NDArray, value: float) -> nd.NDArray:
        return nd.SequenceMask(x, self._sizes, use_sequence_length=True, value=value)

    def at_end(self, x: nd.NDArray) -> nd.NDArray:
        return nd.SequenceLast(x, self._sizes, use_sequence_length=True)

    top = staticmethod(lambda x: x.max(axis=0))
    shares = staticmethod(lambda x: nd.softmax(x, axis=0))
    at_start = staticmethod(lambda x: x[0])
    until = staticmethod(lambda x, end: nd.slice_axis(x, axis=x.ndim - 1, begin=0, end=end))
