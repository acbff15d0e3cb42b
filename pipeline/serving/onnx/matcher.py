"""The matching network as ONNX graphs: an encoder per side, and the whole matcher from two texts to a score."""

import numpy as np
import onnx

from pipeline.config import Config
from pipeline.config.head import Texts
from pipeline.serving.onnx.graphs import (
    Arrays,
    Graph,
    OnnxMaths,
    Value,
    dense,
    embed,
    last_axis,
    layers,
    padding,
    pooled,
    unit,
)
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
    maths = OnnxMaths(graph, arrays, "head", config.model.vector_width, config.model.head_options)
    if loss.grade_link:
        logits = maths.output(head.features(maths, *sides)).name
        chances = _probabilities(graph, logits, loss.grades, loss.grade_link)
        graph.output(chances, "probabilities", np.float32, ("N", loss.grades))
        grades = graph.weight(np.arange(loss.grades, dtype=np.float32))
        score = graph.op("MatMul", chances, grades)
    else:
        score = head.pairs(maths, *sides).name
    graph.output(score, "score", np.float32, ("N",))
    return graph.model()


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
