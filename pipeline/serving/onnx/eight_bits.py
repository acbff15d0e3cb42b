"""Eight-bit weights for the LSTM nodes of a graph, with activations quantised as they come (dynamic quantisation).

Almost all of an encoder's arithmetic is in these nodes; embedding, attention and heads stay in float32.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

DOMAIN = "com.microsoft"  # of ONNX Runtime's own operators
CELLS = ("lstm",)  # ONNX Runtime has no eight-bit GRU or RNN
INPUTS = 8  # of an LSTM node before the scales


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose LSTM nodes are `DynamicQuantizeLSTM`, checked.

    Weights are symmetric, one scale per gate unit: w = scale * q with q in -127 … 127, so that a unit with small
    weights loses no precision to its neighbours.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    replaced = set()
    for node in proto.graph.node:
        if node.op_type != "LSTM":
            continue
        scales = []
        for place in (1, 2):  # W and R, (D, gates * H, C)
            name = node.input[place]
            if name not in replaced:  # shared towers share their weights
                values, scale = _eight_bits(numpy_helper.to_array(weights[name]).transpose(0, 2, 1))
                for suffix, array in (("", values), (".scale", scale), (".zero", np.zeros(scale.shape, np.int8))):
                    proto.graph.initializer.append(numpy_helper.from_array(array, f"{name}.int8{suffix}"))
            node.input[place] = f"{name}.int8"
            scales += [f"{name}.int8.scale", f"{name}.int8.zero"]
            replaced.add(name)
        node.input.extend([""] * (INPUTS - len(node.input)) + scales)
        node.op_type, node.domain = "DynamicQuantizeLSTM", DOMAIN
    tensors = [tensor for tensor in proto.graph.initializer if tensor.name not in replaced]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(tensors)
    proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    onnx.checker.check_model(proto)
    return proto


def _eight_bits(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D, C, units) float32 to int8 of the same shape and scales (D, units)."""
    scale = np.maximum(np.abs(weights).max(axis=1), 1e-12).astype(np.float32) / 127
    return np.round(weights / scale[:, None, :]).astype(np.int8), scale
