"""Networks that write or answer as ONNX graphs: what is read, once, and a decoder's step, which a beam search calls.

A state is (R, H) for each layer and part, a row per text being written: `state_0`, … go in, `new_state_0`, … come out.
What the first graph gives beside them, the memory, goes into every step as it is.
"""

import math
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.config import CaptioningConfig, Config, ModelConfig, TranslationConfig
from pipeline.config.head import FAR_BELOW
from pipeline.config.tasks.visual_question import VisualQuestionConfig
from pipeline.serving.onnx import pictures
from pipeline.serving.onnx.graphs import Arrays, Graph, dense, embed, layers, padding, pooled, recurrent
from pipeline.serving.onnx.written import ANSWERER, DECODER_STEP, IMAGE_ENCODER, SOURCE_ENCODER

Graphs = dict[str, onnx.ModelProto]  # by file
PRODUCTS = ("scaled", "luong")  # attentions that compare by products of a query and a key


# --- what is read -----------------------------------------------------------------------------------------------------
def translator(config: Config, arrays: Arrays) -> Graphs:
    """`pipeline.models.translator.Translator`.

    source_encoder.onnx: ids (N, T) int32, lengths (N,) int32 to values (N, T, W), keys (N, T, H), padding (N, T), 1
    where a text has ended, and the first state.
    """
    graph, model = Graph("source_encoder"), config.model
    ids, lengths = graph.input("ids", np.int32, ("N", "T")), graph.input("lengths", np.int32, ("N",))
    states = layers(graph, embed(graph, ids, arrays, "words.table"), lengths, model, arrays, "encoder")
    ends = model.model_copy(update={"pooling": "last"})
    over, _ = padding(graph, ids, lengths)  # (T, N, 1)
    over = graph.op("Squeeze", graph.op("Cast", over, to=TensorProto.FLOAT), graph.weight(np.array([2])))
    values = graph.op("Transpose", states, perm=[1, 0, 2])
    width = model.hidden * model.directions
    graph.output(values, "values", np.float32, ("N", "T", width))
    kind = config.options(TranslationConfig).attention
    graph.output(_keys(graph, values, arrays, kind), "keys", np.float32, ("N", "T", model.hidden))
    graph.output(graph.op("Transpose", over, perm=[1, 0]), "padding", np.float32, ("N", "T"))
    _first_states(graph, pooled(graph, states, ids, lengths, ends, arrays, ""), model, arrays)
    return {SOURCE_ENCODER: graph.model(), DECODER_STEP: _step(model, arrays, _Condition(kind, width))}


def captioner(config: Config, arrays: Arrays) -> Graphs:
    """`pipeline.models.captioner.Captioner`.

    image_encoder.onnx: images, as ingest leaves them, to the first state and, with inject: attention, values (N, L, W)
    and keys (N, L, H), else vector (N, D). With inject: first the last state is 1 before the first step and then 0.
    """
    graph, model, options = Graph("image_encoder"), config.model, config.options(CaptioningConfig)
    images = pictures.input_of(graph, options, _given_shape(arrays, model))
    seen = pictures.seen(graph, images, options, arrays)
    if options.inject == "attention":
        places, width = arrays["position"].shape[1:]
        values = graph.op("Add", seen, graph.weight(arrays["position"], "position"))
        keys = _keys(graph, values, arrays, "scaled")
        graph.output(values, "values", np.float32, ("N", places, width))
        graph.output(keys, "keys", np.float32, ("N", places, model.hidden))
        summary = graph.op("ReduceMean", values, graph.weight(np.array([1])), keepdims=0)
        _first_states(graph, summary, model, arrays)
        return {IMAGE_ENCODER: graph.model(), DECODER_STEP: _step(model, arrays, _Condition("scaled", width, False))}
    if options.features == "trained":
        flat = graph.op("Reshape", seen, graph.weight(np.array([0, arrays["vector.weight"].shape[1]])))
        seen = dense(graph, flat, arrays, "vector", "Relu")
    width = arrays["decoder.layers.0.f_i2h_weight"].shape[1] - model.embedding
    graph.output(seen, "vector", np.float32, ("N", width))
    _first_states(graph, seen, model, arrays)
    if options.inject == "first":
        fresh = graph.op("Expand", graph.weight(np.float32(1)), _rows_by(graph, seen, 1))
        graph.output(fresh, f"state_{model.steps_by.states * model.layers}", np.float32, ("N", 1))
    return {IMAGE_ENCODER: graph.model(), DECODER_STEP: _step(model, arrays, _Condition(options.inject, width))}


def answerer(config: Config, arrays: Arrays) -> Graphs:
    """`pipeline.models.question_answerer.QuestionAnswerer`: ids (N, T) int32, lengths (N,) int32 and images, as ingest
    leaves them, to probabilities (N, A), and with fusion: attention weights (N, L) of the places."""
    graph, model, options = Graph("answerer"), config.model, config.options(VisualQuestionConfig)
    ids, lengths = graph.input("ids", np.int32, ("N", "T")), graph.input("lengths", np.int32, ("N",))
    attends = options.fusion == "attention"
    shape = arrays["position"].shape[1:] if attends else (arrays["vector.weight"].shape[1],)
    seen = pictures.seen(graph, pictures.input_of(graph, options, shape), options, arrays)
    states = layers(graph, embed(graph, ids, arrays), lengths, model, arrays, "encoder")
    question = pooled(graph, states, ids, lengths, model, arrays, "pooling")
    axis_1 = graph.weight(np.array([1]))
    if attends:
        places = shape[0]
        added = graph.op("Add", seen, graph.weight(arrays["position"], "position"))
        if options.blocks:
            compared = _steered(graph, added, question, options.blocks, arrays)  # (N, L, H)
        else:
            turned = graph.op("Add", dense(graph, question, arrays, "question"), graph.weight(np.float32(1)))
            product = graph.op("Mul", dense(graph, added, arrays, "place"), graph.op("Unsqueeze", turned, axis_1))
            compared = graph.op("Relu", product)
        weights = graph.op("Softmax", dense(graph, compared, arrays, "score"), axis=1)  # (N, L, 1)
        chosen = graph.op("ReduceSum", graph.op("Mul", compared, weights), axis_1, keepdims=0)
        total = graph.op("ReduceSum", compared, axis_1, keepdims=0)
        share = graph.op("Mul", total, graph.weight(np.float32(places**-0.5)))
        largest = [graph.op("ReduceMax", compared, axis_1, keepdims=0)] if options.blocks else []
        joined = graph.op("Concat", chosen, share, *largest, question, axis=1)
    else:
        flat = graph.op("Reshape", seen, graph.weight(np.array([0, shape[0]])))
        vector = dense(graph, flat, arrays, "vector", "Tanh" if options.fusion == "product" else "Relu")
        if options.fusion == "product":
            joined = graph.op("Mul", dense(graph, question, arrays, "question", "Tanh"), vector)
        else:
            joined = graph.op("Concat", question, vector, axis=1)
    logits = dense(graph, dense(graph, joined, arrays, "between", "Relu"), arrays, "output")
    graph.output(graph.op("Softmax", logits, axis=1), "probabilities", np.float32,
                 ("N", len(arrays["output.weight"])))  # fmt: skip
    if attends:
        graph.output(graph.op("Squeeze", weights, graph.weight(np.array([2]))), "weights", np.float32, ("N", places))
    return {ANSWERER: graph.model()}


def _steered(graph: Graph, places: str, question: str, blocks: int, arrays: Arrays) -> str:
    """(N, L, W) places through `pipeline.models.question_answerer.SteeredBlock`s, each steered by (N, Q)."""
    count = arrays["position"].shape[1]
    side = math.isqrt(count)
    question = pictures.normalized(graph, question, (1,))
    x = graph.op("Transpose", places, perm=[0, 2, 1])
    x = graph.op("Reshape", x, graph.weight(np.array([0, 0, side, side])))
    axes, line = graph.weight(np.array([2, 3])), np.linspace(-1, 1, side, dtype=np.float32)
    where = graph.weight(np.stack(np.meshgrid(line, line))[None], "coordinates")
    rows = graph.op("Concat", graph.op("Shape", x, start=0, end=1), graph.weight(np.array([2, side, side])), axis=0)
    where = graph.op("Expand", where, rows)
    for i in range(blocks):
        x = pictures.convolution(graph, graph.op("Concat", x, where, axis=1), arrays, f"blocks.{i}.alone", 1, 0, "Relu")
        z = pictures.normalized(graph, pictures.convolution(graph, x, arrays, f"blocks.{i}.around", 1, 1), (1,))
        steer = graph.op("Unsqueeze", dense(graph, question, arrays, f"blocks.{i}.steer"), axes)  # (N, 2 W, 1, 1)
        scale, shift = graph.ops("Split", 2, steer, axis=1, num_outputs=2)
        z = graph.op("Mul", z, graph.op("Add", scale, graph.weight(np.float32(1))))
        x = graph.op("Add", x, graph.op("Relu", graph.op("Add", z, shift)))
    x = graph.op("Reshape", x, graph.weight(np.array([0, 0, count])))
    return graph.op("Transpose", x, perm=[0, 2, 1])


def _given_shape(arrays: Arrays, model: ModelConfig) -> tuple[int, ...]:
    """Of an image that is given as vectors: the grid with its places, else one."""
    if "position" in arrays:
        return tuple(arrays["position"].shape[1:])
    return (arrays["decoder.layers.0.f_i2h_weight"].shape[1] - model.embedding,)


def _first_states(graph: Graph, summary: str, model: ModelConfig, arrays: Arrays) -> None:
    """`Decoder.start`, as outputs: of (N, S), or zeros without a bridge."""
    count = model.steps_by.states * model.layers
    if "decoder.bridge.weight" in arrays:
        states = graph.ops("Split", count, dense(graph, summary, arrays, "decoder.bridge", "Tanh"), axis=1,
                           num_outputs=count)  # fmt: skip
    else:
        zeros = graph.op("Expand", graph.weight(np.float32(0)), _rows_by(graph, summary, model.hidden))
        states = [zeros] * count
    for i, state in enumerate(states):
        graph.output(state, f"state_{i}", np.float32, ("N", model.hidden))


def _rows_by(graph: Graph, x: str, width: int) -> str:
    """The shape (N, width) of x (N, …)."""
    rows = graph.op("Shape", x, start=0, end=1)
    return graph.op("Concat", rows, graph.weight(np.array([width])), axis=0)


def _keys(graph: Graph, values: str, arrays: Arrays, kind: str) -> str:
    """What queries are compared with: (N, L, H)."""
    return dense(graph, values, arrays, f"decoder.attention.{'places' if kind == 'scaled' else 'keys'}")


# --- a step -----------------------------------------------------------------------------------------------------------
class _Condition(NamedTuple):
    """What a step is given beside the last token: an attention over places by its name, or a vector at "first" or at
    "every" step; its width, and whether some places are padding."""

    how: str
    width: int
    padded: bool = True


def _step(model: ModelConfig, arrays: Arrays, condition: _Condition) -> onnx.ModelProto:
    """decoder_step.onnx: last (R,) int32, the token before, the border at first; states and the memory's rows, to
    log_probabilities (R, V + 1) of the next token, the border behind the V others; new states; and, with attention,
    weights (R, L) of the places."""
    graph, attends = Graph("decoder_step"), condition.how in (*PRODUCTS, "bahdanau")
    last = graph.input("last", np.int32, ("R",))
    count = model.steps_by.states * model.layers
    states = [graph.input(f"state_{i}", np.float32, ("R", model.hidden)) for i in range(count)]
    table = graph.weight(arrays["words.table"], "words.table")
    x = graph.op("Gather", table, last)  # (R, E)
    if attends:
        places = _memory(graph, model, condition)
    else:
        vector = graph.input("vector", np.float32, ("R", condition.width))
        if condition.how == "first":
            fresh = graph.input(f"state_{count}", np.float32, ("R", 1))
            vector = graph.op("Mul", vector, fresh)
            no = graph.op("Mul", fresh, graph.weight(np.float32(0)))
            graph.output(no, f"new_state_{count}", np.float32, ("R", 1))
        x = graph.op("Concat", x, vector, axis=1)
    if condition.how == "bahdanau":
        context, weights = _attended(graph, states[-model.steps_by.states], places, arrays, condition.how)
        x = graph.op("Concat", x, context, axis=1)
    top, new = _layers(graph, x, states, model, arrays)
    if condition.how in PRODUCTS:
        context, weights = _attended(graph, top, places, arrays, condition.how)
        top = graph.op("Concat", top, context, axis=1)
    elif condition.how == "bahdanau":
        top = graph.op("Concat", top, x, axis=1)
    features = dense(graph, top, arrays, "decoder.features", "Tanh")
    logits = graph.op("Gemm", features, table, graph.weight(arrays["words.bias"], "words.bias"), transB=1)
    tokens = len(arrays["words.bias"])
    graph.output(graph.op("LogSoftmax", logits, axis=1), "log_probabilities", np.float32, ("R", tokens))
    for i, state in enumerate(new):
        graph.output(state, f"new_state_{i}", np.float32, ("R", model.hidden))
    if attends:
        graph.output(weights, "weights", np.float32, ("R", "L"))
    return graph.model()


def _memory(graph: Graph, model: ModelConfig, condition: _Condition) -> tuple[str, str, str | None]:
    values = graph.input("values", np.float32, ("R", "L", condition.width))
    keys = graph.input("keys", np.float32, ("R", "L", model.hidden))
    return values, keys, graph.input("padding", np.float32, ("R", "L")) if condition.padded else None


def _attended(
    graph: Graph, query: str, memory: tuple[str, str, str | None], arrays: Arrays, kind: str
) -> tuple[str, str]:
    """`pipeline.models.attention`: (R, H) queries to (R, W) contexts and (R, L) weights."""
    values, keys, over = memory
    axis_1, axis_2 = graph.weight(np.array([1])), graph.weight(np.array([2]))
    if kind in PRODUCTS:
        column = graph.op("Unsqueeze", query, axis_2)  # (R, H, 1)
        scores = graph.op("Squeeze", graph.op("MatMul", keys, column), axis_2)
        if kind == "scaled":
            root = np.float32(arrays["decoder.attention.places.weight"].shape[0] ** 0.5)
            scores = graph.op("Div", scores, graph.weight(root))
    else:
        projected = graph.op("Unsqueeze", dense(graph, query, arrays, "decoder.attention.project"), axis_1)
        compared = graph.op("Tanh", graph.op("Add", projected, keys))  # (R, L, H)
        scores = graph.op("Squeeze", dense(graph, compared, arrays, "decoder.attention.score"), axis_2)
    if over is not None:
        scores = graph.op("Add", scores, graph.op("Mul", over, graph.weight(np.float32(FAR_BELOW))))
    weights = graph.op("Softmax", scores, axis=1)
    context = graph.op("MatMul", graph.op("Unsqueeze", weights, axis_1), values)  # (R, 1, W)
    return graph.op("Squeeze", context, axis_1), weights


def _layers(graph: Graph, x: str, states: list[str], model: ModelConfig, arrays: Arrays) -> tuple[str, list[str]]:
    """(R, C) through all recurrent layers, one step: the top one's (R, H), and the new states."""
    zero, parts, new = graph.weight(np.array([0])), model.steps_by.states, []
    x = graph.op("Unsqueeze", x, zero)
    for i in range(model.layers):
        before = [graph.op("Unsqueeze", state, zero) for state in states[i * parts : (i + 1) * parts]]
        x, *after = recurrent(graph, x, "", model.cell, arrays, f"decoder.layers.{i}", 1, before)
        new += [graph.op("Squeeze", state, zero) for state in after]
    return graph.op("Squeeze", x, zero), new
