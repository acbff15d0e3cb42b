"""The arrays of an update of pairs: filling them up, cutting them, and adding up what their parts give."""

from collections.abc import Callable

from mxnet import autograd, gluon, nd

from pipeline.models.matcher import Representation


def filled(array: nd.NDArray, axis: int, length: int) -> nd.NDArray:
    """The array lengthened by zeros along an axis."""
    if array.shape[axis] == length:
        return array
    shape = list(array.shape)
    shape[axis] = length - shape[axis]
    return nd.concat(array, nd.zeros(tuple(shape), ctx=array.context), dim=axis)


def part_of(array: nd.NDArray, axis: int, begin: int, end: int) -> nd.NDArray:
    """What of the array lies between two places along an axis."""
    return array if array.shape[axis] == end - begin else nd.slice_axis(array, axis=axis, begin=begin, end=end)


def arrays_of(texts: Representation) -> list[nd.NDArray]:
    """Those that there are."""
    return [x for x in texts if x is not None]


def both(arrays: list[nd.NDArray]) -> list[nd.NDArray | None]:
    """What a Representation is made of, None for what is not there."""
    return [*arrays, *[None] * (len(Representation._fields) - len(arrays))]


def named(name: str, arrays: list[nd.NDArray]) -> str:
    """Shapes that come again have names of their own, so that Horovod knows them again."""
    return " ".join([name, *("x".join(map(str, array.shape)) for array in arrays)])


def summed(pieces: list[Callable[[], nd.NDArray]], parameters: list[gluon.Parameter]) -> nd.NDArray:
    """The sum of values, (1,), each taken back by itself; so gradients that are not added up are added up here."""
    values: list[nd.NDArray] = []
    sums: list[nd.NDArray] = []
    written = [parameter for parameter in parameters if parameter.grad_req == "write"]
    for piece in pieces:
        with autograd.record():
            value = piece()
        value.backward()
        values.append(value.detach())
        if len(pieces) > 1:
            with autograd.pause():
                gradients = [parameter.grad(value.context) for parameter in written]
                sums = [old + new for old, new in zip(sums, gradients)] if sums else [g.copy() for g in gradients]
    with autograd.pause():
        for parameter, total in zip(written, sums):
            parameter.grad(total.context)[:] = total
    return nd.add_n(*values) if len(values) > 1 else values[0]
