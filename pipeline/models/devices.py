"""Arrays that the host has made, on the network's device, and two that are made once."""

import functools
import math

import numpy as np
from mxnet import Context, autograd, nd

ALIGNED = 64  # numbers: CUDA's own arrays begin at multiples of 256 bytes
LEAST = 2**16  # numbers of what is made once; larger ones are made by powers of two


def on_device(context: Context, *arrays: np.ndarray, together: bool | None = None) -> list[nd.NDArray]:
    """Copies of float32 and int32 arrays, none of them empty, in their order.

    MXNet waits for each copy to a GPU. So there, all of a type go as one, and what is returned are its parts.

    Args:
        together: whether they go so; None: to a GPU.
    """
    if not (context.device_type == "gpu" if together is None else together):
        return [nd.array(array, context, array.dtype) for array in arrays]
    found: dict[int, nd.NDArray] = {}
    for dtype in {array.dtype for array in arrays}:
        places = [place for place, array in enumerate(arrays) if array.dtype == dtype]
        room = [-(-arrays[place].size // ALIGNED) * ALIGNED for place in places]
        starts = np.cumsum([0, *room]).tolist()
        whole = np.zeros(starts[-1], dtype)
        for place, start in zip(places, starts):
            whole[start : start + arrays[place].size] = arrays[place].ravel()
        with autograd.pause():  # else the parts would be operators' results
            copied = nd.array(whole, context, dtype)
            for place, start in zip(places, starts):
                found[place] = copied[start : start + arrays[place].size].reshape(arrays[place].shape)
    return [found[place] for place in range(len(arrays))]


def put(table: nd.NDArray, index: nd.NDArray, rows: nd.NDArray) -> None:
    """table[index] = rows, of (V, E), (U,) int32 and (U, E), without what MXNet does for other kinds of index."""
    table._scatter_set_nd(rows, index.reshape((1, -1)))


def zeros(shape: tuple[int, ...], context: Context) -> nd.NDArray:
    """Zeros that nobody may write to: a part of one array, so that they cost no operator."""
    return _part("zeros", math.prod(shape), context).reshape(shape)


def positions(count: int, context: Context) -> nd.NDArray:
    """0, 1, … count - 1, float32, which nobody may write to, likewise."""
    return _part("arange", count, context)


def _part(kind: str, count: int, context: Context) -> nd.NDArray:
    with autograd.pause():
        return _whole(kind, max(LEAST, 1 << (count - 1).bit_length()), context)[:count]


@functools.cache
def _whole(kind: str, size: int, context: Context) -> nd.NDArray:
    return nd.zeros(size, ctx=context) if kind == "zeros" else nd.arange(size, ctx=context)
