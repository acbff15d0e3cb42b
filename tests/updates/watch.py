"""Watches MXNet's operators: none may be given, or give, an array of another device than the network's.

MXNet lets arrays of cpu(0) and cpu(1) meet, and refuses those of a CPU and a GPU. So cpu(1) stands in for a GPU, and
the default device is a third one while it is watched, so that an array that names no device is seen.
"""

import collections
import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import mxnet as mx
import pytest
from mxnet.ndarray import NDArray, _internal, register

from pipeline.models.kernel import operator

DEVICE, NOWHERE = mx.cpu(1), mx.cpu(9)
BLOCKING = ("asnumpy", "wait_to_read", "_sync_copyfrom")  # asscalar calls asnumpy


@dataclass
class Seen:
    """What was invoked since the last `take`, and all that lay elsewhere."""

    operators: int = 0
    blocking: collections.Counter[str] = field(default_factory=collections.Counter)
    elsewhere: collections.Counter[str] = field(default_factory=collections.Counter)

    def take(self) -> tuple[int, dict[str, int]]:
        """Operators and blocking copies by kind since the call before."""
        found = self.operators, dict(self.blocking)
        self.operators, self.blocking = 0, collections.Counter()
        return found


@contextlib.contextmanager
def watched() -> Iterator[Seen]:
    """While entered, all operators are seen."""
    seen, real = Seen(), register._imperative_invoke
    methods = {name: getattr(NDArray, name) for name in BLOCKING}

    def check(arrays: list[Any], what: str) -> None:
        for context in {array.context for array in arrays} - {DEVICE}:
            seen.elsewhere[f"{what} on {context} at {_place()}"] += 1

    def invoke(handle: Any, inputs: Any, keys: Any, values: Any, out: Any, *rest: Any) -> Any:
        given = [] if out is None else [out] if isinstance(out, NDArray) else list(out)
        found = real(handle, inputs, keys, values, out, *rest)
        made = [found] if isinstance(found, NDArray) else list(found or ())
        seen.operators += 1
        check([*inputs, *given, *made], "an operator's array")
        return found

    def noted(name: str) -> Any:
        def call(self: NDArray, *arguments: Any) -> Any:
            seen.blocking[name] += 1
            check([self], name)
            return methods[name](self, *arguments)

        return call

    with pytest.MonkeyPatch.context() as patch, NOWHERE:
        for module in (register, _internal, operator):
            patch.setattr(module, "_imperative_invoke", invoke)
        for name in BLOCKING:
            patch.setattr(NDArray, name, noted(name))
        yield seen


def _place() -> str:
    """The nearest line of the package that was running."""
    frames = [frame for frame in traceback.extract_stack() if "/pipeline/" in frame.filename]
    return f"{frames[-1].filename.rpartition('/pipeline/')[2]}:{frames[-1].lineno}" if frames else "no line of pipeline"
