"""Arrays go to a device one by one, or together: what arrives is the same."""

import mxnet as mx
import numpy as np
from mxnet import autograd, nd

from pipeline.models.devices import LEAST, on_device, positions, put, zeros


def test_what_goes_together_is_what_goes_alone() -> None:
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 9, (5, 3)).astype(np.int32),
        rng.normal(size=(2, 70)).astype(np.float32),
        rng.integers(0, 9, (3, 5)).T.astype(np.int32),  # not in C's order
        np.array([7], np.int32),
        rng.normal(size=64).astype(np.float32),
    ]
    for together in (False, True):
        found = on_device(mx.cpu(1), *arrays, together=together)
        assert {array.context for array in found} == {mx.cpu(1)}
        for array, given in zip(found, arrays):
            assert array.dtype == given.dtype
            np.testing.assert_array_equal(array.asnumpy(), given)


def test_gradients_are_taken_past_arrays_that_went_together() -> None:
    table = nd.array(np.arange(12).reshape(4, 3))
    table.attach_grad()
    with autograd.record():
        rows, weights = on_device(
            mx.cpu(), np.array([2, 2, 0], np.int32), np.array([1, 2, 4], np.float32), together=True
        )
        value = (nd.take(table, rows).sum(axis=1) * weights).sum()
    value.backward()
    assert table.grad.asnumpy()[:, 0].tolist() == [4, 0, 3, 0]


def test_rows_are_put_into_a_table() -> None:
    table = nd.zeros((5, 2))
    put(table, nd.array([3, 0], dtype="int32"), nd.array([[1, 2], [3, 4]]))
    assert table.asnumpy().tolist() == [[3, 4], [0, 0], [0, 0], [1, 2], [0, 0]]


def test_what_is_made_once_is_right_at_any_size() -> None:
    for size in (1, 7, LEAST, LEAST + 1):
        np.testing.assert_array_equal(positions(size, mx.cpu(1)).asnumpy(), np.arange(size, dtype=np.float32))
        assert not zeros((size, 2), mx.cpu(1)).asnumpy().any() and zeros((size, 2), mx.cpu()).shape == (size, 2)
    with autograd.record():  # made while recording, it is no part of what is recorded
        x = nd.ones(3)
        x.attach_grad()
        ((x + positions(3, mx.cpu())) ** 2).sum().backward()
    assert x.grad.asnumpy().tolist() == [2, 4, 6]
