"""The matching network as ONNX graphs: an encoder per side, and the whole matcher from two texts to a score."""

import numpy as np
import onnx

from pipeline.config import Config
from pipeline.serving.onnx.graphs import (
    FAR_BELOW,
    Arrays,
    Graph,
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
    """ids (N, T) int32 and lengths (N,) int32 to vectors (N, P); late interaction: (N, T, P), and weights (N, T)."""
    graph, late = Graph(f"{side}_encoder"), config.model.head == "late_interaction"
    ids, lengths = _inputs(graph, "")
    vectors, weights = _represent(graph, config, arrays, side, ids, lengths)
    pooled_width = config.model.hidden * config.model.directions * (2 if config.model.pooling == "max_mean" else 1)
    width = 2 * config.model.embedding if late else pooled_width
    graph.output(vectors, "vectors", np.float32, ("N", "T", width) if late else ("N", width))
    if late:
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
    graph, loss = Graph("matcher"), config.train.loss
    sides = []
    for side, mark in (("query", "q"), ("document", "d")):
        ids, lengths = _inputs(graph, f"{side}_", mark)
        vectors, weights = _represent(graph, config, arrays, side, ids, lengths)
        sides.append(Side(ids, lengths, vectors, weights))
    query, document = sides
    if loss.kind == "pointwise":
        logits = dense(graph, _features(graph, config, arrays, query, document), arrays, "output")
        chances = _probabilities(graph, logits, loss.grades, loss.link)
        graph.output(chances, "probabilities", np.float32, ("N", loss.grades))
        grades = graph.weight(np.arange(loss.grades, dtype=np.float32))
        score = graph.op("MatMul", chances, grades)
    elif config.model.head == "late_interaction":
        score = _best(graph, _similar(graph, query.vectors, document.vectors), query, document)
    else:
        features = _features(graph, config, arrays, query, document)
        if config.model.head == "mlp":
            features = dense(graph, features, arrays, "output")
        score = graph.op("Reshape", features, graph.weight(np.array([-1])))
    graph.output(score, "score", np.float32, ("N",))
    return graph.model()


class Side:
    """One side of the pairs within a graph: names of values."""

    def __init__(self, ids: str, lengths: str, vectors: str, weights: str) -> None:
        self.ids, self.lengths, self.vectors, self.weights = ids, lengths, vectors, weights


def _inputs(graph: Graph, prefix: str, mark: str = "") -> tuple[str, str]:
    ids = graph.input(f"{prefix}ids", np.int32, ("N", f"T{mark}"))
    return ids, graph.input(f"{prefix}lengths", np.int32, ("N",))


def _represent(graph: Graph, config: Config, arrays: Arrays, side: str, ids: str, lengths: str) -> tuple[str, str]:
    """`pipeline.models.matcher.Tower`: vectors, and weights or ""."""
    model, tower = config.model, tower_of(arrays, side)
    embedded = embed(graph, ids, arrays)
    states = layers(graph, embedded, lengths, model, arrays, f"{tower}.encoder")
    if model.head != "late_interaction":
        return pooled(graph, states, ids, lengths, model, arrays, f"{tower}.pooling"), ""
    over, _ = padding(graph, ids, lengths)
    projected = dense(graph, states, arrays, f"{tower}.project")
    halves = graph.op("Concat", unit(graph, projected), unit(graph, embedded), axis=2)
    halves = graph.op("Mul", halves, graph.weight(np.float32(0.5**0.5)))
    importance = dense(graph, states, arrays, f"{tower}.importance", "Sigmoid")
    importance = graph.op("Where", over, graph.weight(np.float32(0)), importance)
    flat = graph.op("Squeeze", importance, graph.weight(np.array([2])))
    return graph.op("Transpose", halves, perm=[1, 0, 2]), graph.op("Transpose", flat, perm=[1, 0])


def _similar(graph: Graph, left: str, right: str) -> str:
    """(N, Tq, P) and (N, Td, P) to (N, Tq, Td)."""
    return graph.op("MatMul", left, graph.op("Transpose", right, perm=[0, 2, 1]))


def _best(graph: Graph, similar: str, side: Side, other: Side) -> str:
    """(N, T, S) to (N,): the mean over T by importance of the maximum over the other side's tokens."""
    over, _ = padding(graph, other.ids, other.lengths)  # (S, N, 1)
    masked = graph.op(
        "Where", graph.op("Transpose", over, perm=[1, 2, 0]), graph.weight(np.float32(FAR_BELOW)), similar
    )
    best = graph.op("ReduceMax", masked, graph.weight(np.array([2])), keepdims=0)
    last = graph.weight(np.array([1]))
    total = graph.op("ReduceSum", graph.op("Mul", best, side.weights), last, keepdims=0)
    return graph.op("Div", total, graph.op("ReduceSum", side.weights, last, keepdims=0))


def _mean(graph: Graph, side: Side) -> str:
    """(N, P) the mean of a side's token vectors by importance."""
    weights = graph.op("Unsqueeze", side.weights, graph.weight(np.array([1])))  # (N, 1, T)
    total = graph.op("Squeeze", graph.op("MatMul", weights, side.vectors), graph.weight(np.array([1])))
    return graph.op("Div", total, graph.op("ReduceSum", side.weights, graph.weight(np.array([1])), keepdims=1))


def _features(graph: Graph, config: Config, arrays: Arrays, query: Side, document: Side) -> str:
    """(N, features), `pipeline.models.matcher.Head.pair_features`."""
    kind, q, d = config.model.head, query.vectors, document.vectors
    if kind == "late_interaction":
        scores, one = [], graph.weight(np.array([1]))
        width = 2 * config.model.embedding
        for begin in (0, width // 2):
            similar = _similar(graph, *(last_axis(graph, x, begin, width) for x in (q, d)))
            turned = graph.op("Transpose", similar, perm=[0, 2, 1])
            scores += [_best(graph, similar, query, document), _best(graph, turned, document, query)]
        together = graph.op("Concat", *(graph.op("Unsqueeze", score, one) for score in scores), axis=1)
        wide = graph.op("Concat", together, *_compared(graph, _mean(graph, query), _mean(graph, document)), axis=1)
        return graph.op("Concat", together, dense(graph, wide, arrays, "head.hidden", "Tanh"), axis=1)
    if kind == "mlp":
        wide = graph.op("Concat", q, d, *_compared(graph, q, d), axis=1)
        return dense(graph, wide, arrays, "head.hidden", "Relu")
    if kind == "cosine":
        q, d = unit(graph, q), unit(graph, d)
    if kind == "bilinear":
        q = graph.op("MatMul", q, graph.weight(arrays["head.form"], "head.form"))
    return graph.op("ReduceSum", graph.op("Mul", q, d), graph.weight(np.array([1])), keepdims=1)


def _compared(graph: Graph, left: str, right: str) -> tuple[str, str]:
    return graph.op("Abs", graph.op("Sub", left, right)), graph.op("Mul", left, right)


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
