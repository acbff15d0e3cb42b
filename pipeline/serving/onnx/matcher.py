"""The matching network as ONNX graphs: an encoder per side, and the whole matcher from two texts to a score."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.config import Config, ModelConfig
from pipeline.config.head import Texts
from pipeline.serving.onnx.graphs import Arrays, Graph, dense, embed, last_axis, layers, padding, pooled, unit
from pipeline.serving.predict.scoring import tower_of


def encoder(config: Config, arrays: Arrays, side: str) -> onnx.ModelProto:
    """ids (N, T) int32 and lengths (N,) int32 to vectors (N, P); by token: (N, T, P), and weights (N, T)."""
    graph, by_token = Graph(f"{side}_encoder"), config.model.scored_by.by_token
    ids, lengths = _inputs(graph, "")
    vectors, weights = _represent(graph, config, arrays, side, ids, lengths)
    width = config.model.vector_width
    graph.output(vectors, "vectors", np.float32, ("N", "T", width) if by_token else ("N", width))
    if by_token:
        graph.output(weights, "weights", np.float32, ("N", "T"))
    return graph.model({"duplet.side": side})


def encoders(config: Config, arrays: Arrays) -> dict[str, onnx.ModelProto]:
    """`encoder.onnx`, or with separate towers one per side."""
    if config.model.towers == "shared":
        return {"encoder.onnx": encoder(config, arrays, "document")}
    return {f"{side}_encoder.onnx": encoder(config, arrays, side) for side in ("query", "document")}


def matchers(config: Config, arrays: Arrays) -> dict[str, onnx.ModelProto]:
    """`matcher.onnx`, which an export has too."""
    return {"matcher.onnx": matcher(config, arrays)}


def matcher(config: Config, arrays: Arrays) -> onnx.ModelProto:
    """query_ids (N, Tq), query_lengths (N,), document_ids (N, Td) and document_lengths (N,), all int32, to score (N,).

    A pointwise model also gives probabilities (N, G) of the grades, and its score is the expected grade.
    """
    graph, loss, head = Graph("matcher"), config.train.loss, config.model.scored_by
    sides = []
    for side, mark in (("query", "q"), ("document", "d")):
        ids, lengths = _inputs(graph, f"{side}_", mark)
        represented = _represent(graph, config, arrays, side, ids, lengths)
        sides.append(Texts(*(Value(graph, name) for name in represented)))
    maths = OnnxMaths(graph, arrays, config.model)
    if loss.kind == "pointwise":
        logits = maths.output(head.features(maths, *sides)).name
        chances = _probabilities(graph, logits, loss.grades, loss.link)
        graph.output(chances, "probabilities", np.float32, ("N", loss.grades))
        grades = graph.weight(np.arange(loss.grades, dtype=np.float32))
        score = graph.op("MatMul", chances, grades)
    else:
        score = head.pairs(maths, *sides).name
    graph.output(score, "score", np.float32, ("N",))
    return graph.model()


class Value:
    """A value within a graph."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def op(self, kind: str, *others: "Value | float | np.ndarray", **attributes: Any) -> "Value":
        """A node of this value and others; arrays and numbers become constants."""
        named = (one.name if isinstance(one, Value) else self.graph.weight(_constant(one)) for one in others)
        return Value(self.graph, self.graph.op(kind, self.name, *named, **attributes))

    __add__ = __radd__ = lambda self, other: self.op("Add", other)
    __mul__ = __rmul__ = lambda self, other: self.op("Mul", other)
    __sub__ = lambda self, other: self.op("Sub", other)
    __truediv__ = lambda self, other: self.op("Div", other)
    __neg__ = lambda self: self.op("Neg")
    __rsub__ = lambda self, other: -self + other
    __rtruediv__ = lambda self, other: self.op("Reciprocal") * other


def _constant(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else np.array(value, np.float32)


class OnnxMaths:
    """`pipeline.config.head.Maths` over values of a graph; a graph scores pairs, so `every_…` has no part in it."""

    def __init__(self, graph: Graph, arrays: Arrays, model: ModelConfig) -> None:
        self._graph, self._arrays, self._width, self.options = graph, arrays, model.vector_width, model.head_options

    def array(self, name: str) -> Value:
        return Value(self._graph, self._graph.weight(self._arrays[f"head.{name}"], f"head.{name}"))

    def dense(self, x: Value, name: str) -> Value:
        return Value(self._graph, dense(self._graph, x.name, self._arrays, f"head.{name}"))

    def output(self, features: Value) -> Value:
        return Value(self._graph, dense(self._graph, features.name, self._arrays, "output"))

    def width(self, x: Value) -> int:
        return self._width

    def since(self, x: Value, begin: int) -> Value:
        return Value(self._graph, last_axis(self._graph, x.name, begin, np.iinfo(np.int64).max))

    def unit(self, x: Value) -> Value:
        return Value(self._graph, unit(self._graph, x.name))

    concat = staticmethod(lambda *values: values[0].op("Concat", *values[1:], axis=-1))
    stack = staticmethod(lambda *values: OnnxMaths.concat(*(OnnxMaths.expanded(value, 1) for value in values)))
    first = staticmethod(lambda x: x.op("Gather", np.array(0), axis=1))
    sum = staticmethod(lambda x, axis, keep=False: x.op("ReduceSum", np.array([axis]), keepdims=int(keep)))
    largest = staticmethod(lambda x: x.op("ReduceMax", np.array([-1]), keepdims=0))
    absolute = staticmethod(lambda x: x.op("Abs"))
    tanh = staticmethod(lambda x: x.op("Tanh"))
    relu = staticmethod(lambda x: x.op("Relu"))
    sigmoid = staticmethod(lambda x: x.op("Sigmoid"))
    softmax = staticmethod(lambda x: x.op("Softmax", axis=-1))
    times = staticmethod(lambda x, matrix: x.op("MatMul", matrix))
    products = staticmethod(lambda x, y: x.op("MatMul", OnnxMaths.turned(y)))
    turned = staticmethod(lambda x: x.op("Transpose", perm=[0, 2, 1]))
    expanded = staticmethod(lambda x, axis: x.op("Unsqueeze", np.array([axis])))
    zero = staticmethod(lambda x: x.op("Equal", 0.0).op("Cast", to=TensorProto.FLOAT))


def _inputs(graph: Graph, prefix: str, mark: str = "") -> tuple[str, str]:
    ids = graph.input(f"{prefix}ids", np.int32, ("N", f"T{mark}"))
    return ids, graph.input(f"{prefix}lengths", np.int32, ("N",))


def _represent(graph: Graph, config: Config, arrays: Arrays, side: str, ids: str, lengths: str) -> tuple[str, str]:
    """`pipeline.models.matcher.Tower`: vectors, and weights or ""."""
    model, tower = config.model, tower_of(arrays, side)
    embedded = embed(graph, ids, arrays)
    states = layers(graph, embedded, lengths, model, arrays, f"{tower}.encoder")
    if not model.scored_by.by_token:
        return pooled(graph, states, ids, lengths, model, arrays, f"{tower}.pooling"), ""
    over, _ = padding(graph, ids, lengths)
    projected = dense(graph, states, arrays, f"{tower}.project")
    halves = graph.op("Concat", unit(graph, projected), unit(graph, embedded), axis=2)
    halves = graph.op("Mul", halves, graph.weight(np.float32(0.5**0.5)))
    importance = dense(graph, states, arrays, f"{tower}.importance", "Sigmoid")
    importance = graph.op("Where", over, graph.weight(np.float32(0)), importance)
    flat = graph.op("Squeeze", importance, graph.weight(np.array([2])))
    return graph.op("Transpose", halves, perm=[1, 0, 2]), graph.op("Transpose", flat, perm=[1, 0])


def _probabilities(graph: Graph, logits: str, grades: int, link: str) -> str:
    """(N, outputs) logits to (N, grades), as `pipeline.evaluation.grades.grade_probabilities`."""
    if link == "softmax":
        return graph.op("Softmax", logits, axis=1)
    above = graph.op("Sigmoid", logits)
    edges = [last_axis(graph, above, 0, 1)]
    for grade in range(1, grades - 1):  # "above 1" can't be likelier than "above 0"
        edges.append(graph.op("Min", edges[-1], last_axis(graph, above, grade, grade + 1)))
    ones = graph.op("Add", graph.op("Mul", edges[0], graph.weight(np.float32(0))), graph.weight(np.float32(1)))
    zeros = graph.op("Mul", edges[0], graph.weight(np.float32(0)))
    left, right = [ones, *edges], [*edges, zeros]
    return graph.op("Sub", graph.op("Concat", *left, axis=1), graph.op("Concat", *right, axis=1))
