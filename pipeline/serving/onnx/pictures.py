"""What a network sees of an image as ONNX nodes: the small net, AlexNet's features, or the vectors that are given."""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from onnx import TensorProto

from pipeline.config.images import CONVOLUTIONS, EPSILON, ImageConfig
from pipeline.core.errors import InputError
from pipeline.serving.onnx.graphs import Arrays, Graph
from pipeline.tasks.image_reading import DEVIATION, MEAN

# AlexNet's layers in the model zoo, by place: of a convolution the stride and the padding.
ALEXNET = {0: (4, 2), 2: (1, 2), 4: (1, 1), 5: (1, 1), 6: (1, 1)}
POOLED = (0, 2, 6)  # convolutions that a maximum over 3 x 3 places, 2 apart, follows
DENSE = (9, 11)
# --- MXNet's own file of arrays; only its second form says how an array is stored
FILE, FIRST, SECOND = 0x112, 0xF993FAC8, 0xF993FAC9
# How the model zoo's file, older than Gluon's names, calls the layers.
ZOO = {**{f"conv{i}": f"features.{layer}" for i, layer in enumerate(ALEXNET)},
       **{f"dense{i}": f"features.{layer}" for i, layer in enumerate(DENSE)}}  # fmt: skip
KINDS = {0: np.float32, 1: np.float64, 2: np.float16}


def input_of(graph: Graph, options: ImageConfig, shape: tuple[int, ...]) -> str:
    """The graph's input `images`: (N, S, S, 3) uint8 pictures, or float32 vectors of that `shape`."""
    if options.features == "given":
        return graph.input("images", np.float32, ("N", *shape))
    return graph.input("images", np.uint8, ("N", "height", "width", 3))


def seen(graph: Graph, images: str, options: ImageConfig, arrays: Arrays) -> str:
    """(N, L, W) places, or AlexNet's or the given (N, D) vectors. Raises InputError: no AlexNet's parameters."""
    if options.features == "given":
        return images
    pixels = graph.op("Transpose", graph.op("Cast", images, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    if options.features == "alexnet":
        return _alexnet(graph, pixels, alexnet_arrays(Path(str(options.weights))), options.over_places)
    x = graph.op("Div", pixels, graph.weight(np.float32(64)))
    x = graph.op("Sub", x, graph.op("ReduceMean", x, graph.weight(np.array([2, 3])), keepdims=1))
    for i, (_, stride) in enumerate(CONVOLUTIONS[options.net]):
        x = convolution(graph, x, arrays, f"net.layers.{i}", stride, 1)
        x = graph.op("Relu", normalized(graph, x, (1, 2, 3)) if options.net == "light" else x)
    return _places(graph, x)


def convolution(
    graph: Graph, x: str, arrays: Arrays, name: str, stride: int, pad: int, activation: str | None = None
) -> str:
    """gluon's Conv2D. `activation`: an ONNX operator, such as Relu."""
    weights = [graph.weight(arrays[f"{name}.{part}"], f"{name}.{part}") for part in ("weight", "bias")]
    y = graph.op("Conv", x, *weights, strides=[stride] * 2, pads=[pad] * 4)
    return graph.op(activation, y) if activation else y


def normalized(graph: Graph, x: str, axes: tuple[int, ...]) -> str:
    """`pipeline.models.captioner.normalized`."""
    over = graph.weight(np.array(axes))
    x = graph.op("Sub", x, graph.op("ReduceMean", x, over, keepdims=1))
    variance = graph.op("ReduceMean", graph.op("Mul", x, x), over, keepdims=1)
    return graph.op("Div", x, graph.op("Sqrt", graph.op("Add", variance, graph.weight(np.float32(EPSILON)))))


def _places(graph: Graph, x: str) -> str:
    """(N, W, h, w) to (N, h * w, W), row by row."""
    return graph.op("Transpose", graph.op("Reshape", x, graph.weight(np.array([0, 0, -1]))), perm=[0, 2, 1])


def _alexnet(graph: Graph, pixels: str, arrays: Arrays, over_places: bool) -> str:
    for name, value in (("mean", 255 * MEAN), ("deviation", 255 * DEVIATION)):
        amount = graph.weight(value.reshape(1, 3, 1, 1).astype(np.float32), f"pixels.{name}")
        pixels = graph.op("Sub" if name == "mean" else "Div", pixels, amount)
    x = pixels
    for layer, (stride, pad) in ALEXNET.items():
        x = convolution(graph, x, arrays, f"features.{layer}", stride, pad, "Relu")
        if layer in POOLED:
            x = graph.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    if over_places:
        return _places(graph, x)
    x = graph.op("Flatten", x, axis=1)
    for layer in DENSE:
        weight, bias = (graph.weight(arrays[f"features.{layer}.{part}"], f"features.{layer}.{part}")
                        for part in ("weight", "bias"))  # fmt: skip
        x = graph.op("Relu", graph.op("Gemm", x, weight, bias, transB=1))
    return x


def alexnet_arrays(path: Path) -> dict[str, np.ndarray]:
    """By name, the arrays of the model zoo's AlexNet from the file that Gluon's `save_parameters` wrote.

    Raises:
        InputError: it cannot be read, or does not hold them.
    """
    try:
        with path.open("rb") as file:
            arrays = _arrays(file)
    except (OSError, ValueError, struct.error, MemoryError, OverflowError) as error:
        raise InputError(f"{path} holds no parameters of the model zoo's AlexNet ({str(error)[:150]})") from None
    wanted = [f"features.{layer}.{part}" for layer in (*ALEXNET, *DENSE) for part in ("weight", "bias")]
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise InputError(f"{path} holds no parameters of the model zoo's AlexNet ({missing[0]} is missing)")
    return arrays


def _arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    """MXNet's NDArray file: its number, arrays, names; each array its number, kind of storage, shape, device, kind of
    numbers, values; the oldest files have neither number nor storage, and shapes of 32 bits (src/ndarray/ndarray.cc).
    Raises ValueError, struct.error."""
    if _numbers(file, "QQ")[0] != FILE:
        raise ValueError("it is not a file of MXNet's arrays")
    arrays = []
    for _ in range(_numbers(file, "Q")[0]):
        number = _numbers(file, "I")[0]
        storage = _numbers(file, "i")[0] if number == SECOND else 0
        axes, form = (_numbers(file, "I")[0], "q") if number in (FIRST, SECOND) else (number, "I")
        if storage != 0 or axes > 8:
            raise ValueError("its arrays are of another form")
        shape = _numbers(file, f"{axes}{form}")
        _, _, kind = _numbers(file, "iii")
        if kind not in KINDS:
            raise ValueError("its numbers are not floats")
        size = int(np.prod(shape))
        values = np.frombuffer(file.read(size * np.dtype(KINDS[kind]).itemsize), KINDS[kind])
        arrays.append(values.reshape(shape).astype(np.float32))
    names = []
    for _ in range(_numbers(file, "Q")[0]):
        names.append(file.read(_numbers(file, "Q")[0]).decode("utf-8"))
    return {_layer(name.removeprefix("arg:")): array for name, array in zip(names, arrays)}


def _layer(name: str) -> str:
    """As Gluon calls it.

    >>> _layer("alexnet0_conv1_weight"), _layer("dense0_bias"), _layer("features.4.bias")
    ('features.2.weight', 'features.9.bias', 'features.4.bias')
    """
    layer, _, part = name.rpartition("_")
    layer = layer.rpartition("_")[2]
    return f"{ZOO[layer]}.{part}" if layer in ZOO else name


def _numbers(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))
