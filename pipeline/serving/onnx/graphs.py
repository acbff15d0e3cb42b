"""ONNX graphs written from named parameter arrays: layers, poolings and heads as functions over a graph being built.

Inside, states are time first, (T, N, width), as in `pipeline.models`; ids and what goes out are batch first. Batch and
length are dynamic. `sequence_lens` makes the recurrent nodes stop at each text's end, so padding changes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.config import ModelConfig
from pipeline.config.cells import CELLS, Cell
from pipeline.config.poolings import POOLINGS

OPSET = 18
# What the checker raises for a graph whose parts do not fit each other, as weights of another width than its layers.
REFUSALS = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
LAYER_NORM_EPSILON = 1e-5  # gluon's
# Gates in ONNX's order (input, output, forget, cell; update, reset, new) by their place in MXNet's (input, forget,
# cell, output; reset, update, new).
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}
KINDS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int32): TensorProto.INT32,
         np.dtype(np.int64): TensorProto.INT64, np.dtype(np.bool_): TensorProto.BOOL,
         np.dtype(np.uint8): TensorProto.UINT8}  # fmt: skip

Arrays = Mapping[str, np.ndarray]


class Graph:
    """Nodes and weights gathered in order; every method returns the names of what it made."""

    def __init__(self, name: str, within: str = "") -> None:
        self.name, self._within = name, within
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._made = 0

    def input(self, name: str, kind: type, shape: Sequence[str | int]) -> str:
        """A graph input; names in `shape` are dynamic dimensions."""
        self.inputs.append(helper.make_tensor_value_info(name, KINDS[np.dtype(kind)], list(shape)))
        return name

    def output(self, value: str, name: str, kind: type, shape: Sequence[str | int]) -> None:
        """Makes a value an output of the graph, under a name."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, KINDS[np.dtype(kind)], list(shape)))

    def weight(self, array: Any, name: str | None = None) -> str:
        """A constant; the same name is stored once."""
        name = name or self._fresh("constant")
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One node with one output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """One node with several outputs; "" leaves an input out."""
        names = [self._fresh(kind) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def model(self, about: Mapping[str, str] | None = None) -> onnx.ModelProto:
        """The finished model, checked by onnx.checker with shape inference; `about` becomes its metadata."""
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, list(self.weights.values()))
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="duplet", ir_version=9
        )
        helper.set_model_props(model, dict(about or {}))
        onnx.checker.check_model(model, full_check=True)
        return model

    def _fresh(self, kind: str) -> str:
        self._made += 1
        return f"{self._within}{kind}_{self._made}"


# --- layers -----------------------------------------------------------------------------------------------------------
def dense(graph: Graph, x: str, arrays: Arrays, name: str, activation: str | None = None) -> str:
    """gluon's Dense along the last axis: (…, C) to (…, units). `activation`: an ONNX operator, such as Tanh."""
    y = graph.op("MatMul", x, graph.weight(arrays[f"{name}.weight"].T, f"{name}.weight.T"))
    if f"{name}.bias" in arrays:
        y = graph.op("Add", y, graph.weight(arrays[f"{name}.bias"], f"{name}.bias"))
    return graph.op(activation, y) if activation else y


def embed(graph: Graph, ids: str, arrays: Arrays, name: str = "embedding") -> str:
    """(N, T) int32 ids to (T, N, E)."""
    return graph.op("Gather", graph.weight(arrays[name], name), graph.op("Transpose", ids, perm=[1, 0]))


def padding(graph: Graph, ids: str, lengths: str) -> tuple[str, str]:
    """(T, N, 1) bool: where a text has ended; and (T, 1) int32: the steps' numbers."""
    steps = graph.op("Gather", graph.op("Shape", ids), graph.weight(np.int64(1)))
    count = graph.op("Cast", steps, to=TensorProto.INT32)
    numbers = graph.op("Range", graph.weight(np.int32(0)), count, graph.weight(np.int32(1)))
    numbers = graph.op("Unsqueeze", numbers, graph.weight(np.array([1], np.int64)))
    over = graph.op("GreaterOrEqual", numbers, graph.op("Unsqueeze", lengths, graph.weight(np.array([0], np.int64))))
    return graph.op("Unsqueeze", over, graph.weight(np.array([2], np.int64))), numbers


def recurrent_weights(cell: str, arrays: Arrays, name: str, directions: int) -> tuple[np.ndarray, ...]:
    """W (D, gates * H, C), R (D, gates * H, H) and B (D, 2 * gates * H) of an ONNX node from a RecurrentLayer."""

    def reordered(array: np.ndarray) -> np.ndarray:
        gates = np.split(array, len(GATES[cell]))
        return np.concatenate([gates[i] for i in GATES[cell]]).astype(np.float32)

    w, r, b = [], [], []
    for d in "fb"[:directions]:
        w.append(reordered(arrays[f"{name}.{d}_i2h_weight"]))
        r.append(reordered(arrays[f"{name}.{d}_h2h_weight"]))
        b.append(np.concatenate([reordered(arrays[f"{name}.{d}_{side}_bias"]) for side in ("i2h", "h2h")]))
    return np.stack(w), np.stack(r), np.stack(b)


def recurrent(
    graph: Graph, x: str, lengths: str, cell: str, arrays: Arrays, name: str, directions: int,
    states: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """One recurrent layer: (T, N, C) to (T, N, D * H), zeros on padding, then its last states, each (D, N, H).

    Args:
        lengths: (N,) int32, or "" where all texts fill their steps.
        name: of the layer in `arrays`, whose names are `NAME.f_i2h_weight` and so on.
        states: initial h, and c of an LSTM, each (D, N, H); none: zeros.
    """
    if not CELLS.named(cell).kernel:
        return _by_formula(graph, x, lengths, cell, arrays, name, directions, states)
    w, r, b = recurrent_weights(cell, arrays, name, directions)
    hidden = r.shape[2]
    attributes: dict[str, Any] = {
        "hidden_size": hidden, "direction": "bidirectional" if directions == 2 else "forward"
    }  # fmt: skip
    if cell == "gru":
        attributes["linear_before_reset"] = 1  # cuDNN's and MXNet's form of the reset gate
    if cell.startswith("rnn"):
        attributes["activations"] = [{"rnn_tanh": "Tanh", "rnn_relu": "Relu"}[cell]] * directions
    node = {"lstm": "LSTM", "gru": "GRU"}.get(cell, "RNN")
    inputs = [x, *(graph.weight(array, f"{name}.{part}") for array, part in ((w, "W"), (r, "R"), (b, "B"))), lengths]
    y, *last = graph.ops(node, 3 if cell == "lstm" else 2, *inputs, *states, **attributes)  # y: (T, D, N, H)
    shape = graph.weight(np.array([0, 0, directions * hidden], np.int64))
    return [graph.op("Reshape", graph.op("Transpose", y, perm=[0, 2, 1, 3]), shape), *last]


def _by_formula(
    graph: Graph, x: str, lengths: str, cell: str, arrays: Arrays, name: str, directions: int, states: Sequence[str]
) -> list[str]:
    """As `recurrent`, of a cell whose formula is the body of a loop over the steps."""
    kind, zero, outputs, last = CELLS.named(cell), graph.weight(np.array([0])), [], []
    hidden = arrays[f"{name}.f_h2h_weight"].shape[1]
    sizes = [graph.op("Shape", x, start=axis, end=axis + 1) for axis in (0, 1)]
    over = []
    if lengths:
        steps = graph.op("Cast", graph.op("Squeeze", sizes[0]), to=TensorProto.INT32)
        numbers = graph.op("Range", graph.weight(np.int32(0)), steps, graph.weight(np.int32(1)))
        numbers = graph.op("Unsqueeze", numbers, graph.weight(np.array([1, 2])))
        ends = graph.op("Unsqueeze", lengths, graph.weight(np.array([0, 2])))
        over = [graph.op("GreaterOrEqual", numbers, ends)]  # (T, N, 1)
    nothing = graph.op(
        "Expand", graph.weight(np.float32(0)), graph.op("Concat", sizes[1], graph.weight(np.array([hidden])), axis=0)
    )
    for d, side in enumerate("fb"[:directions]):
        read = graph.op("MatMul", x, graph.weight(arrays[f"{name}.{side}_i2h_weight"].T, f"{name}.{side}_i2h.T"))
        read = graph.op("Add", read, graph.weight(arrays[f"{name}.{side}_i2h_bias"], f"{name}.{side}_i2h_bias"))
        begun = [graph.op("Gather", state, graph.weight(np.int64(d)), axis=0) for state in states]
        body = _body(kind, arrays, f"{name}.{side}", hidden, bool(over))
        count = kind.states
        *after, y = graph.ops(
            "Scan", count + 1, *(begun or [nothing] * count), read, *over, body=body, num_scan_inputs=1 + len(over),
            scan_input_directions=[d] * (1 + len(over)), scan_output_directions=[d],
        )  # fmt: skip
        if over:
            y = graph.op("Where", over[0], graph.weight(np.float32(0)), y)
        outputs.append(y)
        last.append([graph.op("Unsqueeze", state, zero) for state in after])
    together = [graph.op("Concat", *parts, axis=0) for parts in zip(*last)]
    return [graph.op("Concat", *outputs, axis=2), *together]


def _body(cell: Cell, arrays: Arrays, name: str, hidden: int, padded: bool) -> onnx.GraphProto:
    """One step: states (N, H) each, the inputs' product (N, gates * H) and, if padded, (N, 1) whether a text has ended,
    to the states after it and the first of them once more."""
    graph = Graph(f"{name}.step", within=f"{name}/")
    before = [graph.input(f"{name}/state_{i}", np.float32, ("N", hidden)) for i in range(cell.states)]
    read = graph.input(f"{name}/read", np.float32, ("N", cell.gates * hidden))
    carried = graph.op("MatMul", before[0], graph.weight(arrays[f"{name}_h2h_weight"].T, f"{name}/h2h.T"))
    carried = graph.op("Add", carried, graph.weight(arrays[f"{name}_h2h_bias"], f"{name}/h2h_bias"))
    parts = lambda x: [Value(graph, last_axis(graph, x, i * hidden, (i + 1) * hidden)) for i in range(cell.gates)]
    maths = OnnxMaths(graph, {}, "", hidden)
    after = [value.name for value in cell.step(maths, parts(read), parts(carried), [Value(graph, x) for x in before])]
    if padded:
        over = graph.input(f"{name}/over", np.bool_, ("N", 1))
        after = [graph.op("Where", over, old, new) for old, new in zip(before, after)]
    for i, state in enumerate([*after, after[0]]):
        graph.output(state, f"{name}/out_{i}", np.float32, ("N", hidden))
    return helper.make_graph(graph.nodes, graph.name, graph.inputs, graph.outputs, list(graph.weights.values()))


def layers(graph: Graph, embedded: str, lengths: str, model: ModelConfig, arrays: Arrays, name: str) -> str:
    """`pipeline.models.encoder.Encoder`, under NAME in `arrays`: (T, N, E) to (T, N, width)."""
    x, width = embedded, model.embedding
    for i in range(model.layers):
        y = recurrent(graph, x, lengths, model.cell, arrays, f"{name}.layers.{i}", model.directions)[0]
        x = between(graph, y, x, width, model, arrays, f"{name}.norms.{i}")
        width = model.hidden * model.directions
    return x


def between(graph: Graph, y: str, x: str, width: int, model: ModelConfig, arrays: Arrays, norm: str) -> str:
    """What stands between two layers: the norm, and the layer's input `x` of this width added to its output `y`."""
    if model.layer_norm:
        scale, shift = (graph.weight(arrays[f"{norm}.{part}"], f"{norm}.{part}") for part in ("gamma", "beta"))
        y = graph.op("LayerNormalization", y, scale, shift, axis=-1, epsilon=LAYER_NORM_EPSILON)
    return graph.op("Add", y, x) if model.residual and width == model.hidden * model.directions else y


def pooled(graph: Graph, states: str, ids: str, lengths: str, model: ModelConfig, arrays: Arrays, name: str) -> str:
    """`pipeline.config.poolings`, under NAME in `arrays`: (T, N, W) to (N, W), or wider."""
    maths = OnnxSteps(graph, arrays, name, model.hidden * model.directions, ids, lengths)
    vectors: str = POOLINGS.named(model.pooling).pooled(maths, Value(graph, states), model.hidden).name
    return vectors


def last_axis(graph: Graph, x: str, begin: int, end: int) -> str:
    """Entries begin … end - 1 of the last axis."""
    bounds = (graph.weight(np.array([at], np.int64)) for at in (begin, end, -1))
    return graph.op("Slice", x, *bounds)


def unit(graph: Graph, x: str) -> str:
    """Vectors of length 1 along the last axis, with the matcher's guard against zero vectors."""
    squares = graph.op("ReduceSum", graph.op("Mul", x, x), graph.weight(np.array([-1])), keepdims=1)
    return graph.op("Div", x, graph.op("Sqrt", graph.op("Add", squares, graph.weight(np.float32(1e-12)))))


# --- formulas of heads and poolings ----------------------------------------------------------------------------------
class Value:
    """A value within a graph."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def op(self, kind: str, *others: "Value | float | np.ndarray", **attributes: Any) -> "Value":
        """A node of this value and others; arrays and numbers become constants."""
        named = (other.name if isinstance(other, Value) else self.graph.weight(_constant(other)) for other in others)
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
    """`pipeline.config.head.Maths` over values of a graph; a graph scores pairs, so `every_…` has no part in it.

    Args:
        name: under which its arrays are; width: of the vectors that its formula takes.
    """

    def __init__(self, graph: Graph, arrays: Arrays, name: str, width: int, options: Any = None) -> None:
        self._graph, self._arrays, self._name, self._width, self.options = graph, arrays, name, width, options

    def array(self, name: str) -> Value:
        return Value(self._graph, self._graph.weight(self._arrays[f"{self._name}.{name}"], f"{self._name}.{name}"))

    def dense(self, x: Value, name: str) -> Value:
        return Value(self._graph, dense(self._graph, x.name, self._arrays, f"{self._name}.{name}"))

    def output(self, features: Value) -> Value:
        return Value(self._graph, dense(self._graph, features.name, self._arrays, "output"))

    def width(self, x: Value) -> int:
        return self._width

    def since(self, x: Value, begin: int) -> Value:
        return Value(self._graph, last_axis(self._graph, x.name, begin, np.iinfo(np.int64).max))

    def unit(self, x: Value) -> Value:
        return Value(self._graph, unit(self._graph, x.name))

    @staticmethod
    def neighbours(x: Value) -> Value:
        longer = x.op("Pad", np.array([0, 1, 0, 0, 1, 0]))
        before = longer.op("Slice", np.array([0]), np.array([-2]), np.array([1]))
        after = longer.op("Slice", np.array([2]), np.array([np.iinfo(np.int64).max]), np.array([1]))
        return OnnxMaths.concat(before, x, after)

    dropped = staticmethod(lambda x: x)
    expanded = staticmethod(lambda x, axis: x.op("Unsqueeze", np.array([axis])))
    turned = staticmethod(lambda x: x.op("Transpose", perm=[0, 2, 1]))
    concat = staticmethod(lambda *values: values[0].op("Concat", *values[1:], axis=-1))
    stack = staticmethod(lambda *values: OnnxMaths.concat(*(OnnxMaths.expanded(value, 1) for value in values)))
    first = staticmethod(lambda x: x.op("Gather", np.array(0), axis=1))
    sum = staticmethod(lambda x, axis, keep=False: x.op("ReduceSum", np.array([axis]), keepdims=int(keep)))
    largest = staticmethod(lambda x: x.op("ReduceMax", np.array([-1]), keepdims=0))
    absolute = staticmethod(lambda x: x.op("Abs"))
    root = staticmethod(lambda x: x.op("Max", 1e-12).op("Sqrt"))
    tanh = staticmethod(lambda x: x.op("Tanh"))
    relu = staticmethod(lambda x: x.op("Relu"))
    sigmoid = staticmethod(lambda x: x.op("Sigmoid"))
    softmax = staticmethod(lambda x: x.op("Softmax", axis=-1))
    times = staticmethod(lambda x, matrix: x.op("MatMul", matrix))
    products = staticmethod(lambda x, y: x.op("MatMul", OnnxMaths.turned(y)))
    zero = staticmethod(lambda x: x.op("Equal", 0.0).op("Cast", to=TensorProto.FLOAT))


class OnnxSteps(OnnxMaths):
    """`pipeline.config.poolings.StepMaths` over values of a graph."""

    def __init__(self, graph: Graph, arrays: Arrays, name: str, width: int, ids: str, lengths: str) -> None:
        super().__init__(graph, arrays, name, width)
        over, numbers = padding(graph, ids, lengths)
        self._over, self._numbers, self._sizes = Value(graph, over), Value(graph, numbers), Value(graph, lengths)

    @property
    def lengths(self) -> Value:
        return self._sizes.op("Cast", to=TensorProto.FLOAT).op("Unsqueeze", np.array([1]))

    def filled(self, x: Value, value: float) -> Value:
        return self._over.op("Where", value, x)

    def at_end(self, x: Value) -> Value:
        last = self._sizes.op("Unsqueeze", np.array([0])).op("Sub", np.array(1, np.int32))
        here = self._numbers.op("Equal", last).op("Unsqueeze", np.array([2]))  # (T, N, 1)
        return here.op("Where", x, 0.0).op("ReduceSum", np.array([0]), keepdims=0)

    def until(self, x: Value, end: int) -> Value:
        return Value(self._graph, last_axis(self._graph, x.name, 0, end))

    top = staticmethod(lambda x: x.op("ReduceMax", np.array([0]), keepdims=0))
    shares = staticmethod(lambda x: x.op("Softmax", axis=0))
    at_start = staticmethod(lambda x: x.op("Gather", np.array(0), axis=0))
