"""The other tasks' networks as ONNX graphs: classifier, tagger, cloze, and a language model's step."""

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.config import Config, ModelConfig, TaggingConfig
from pipeline.serving.onnx.graphs import Arrays, Graph, between, dense, embed, layers, padding, pooled, recurrent
from pipeline.tasks.decoding import SPECIAL

Graphs = dict[str, onnx.ModelProto]  # by file
NEVER = -1e30  # of what cannot fill a blank


def classifier(config: Config, arrays: Arrays) -> Graphs:
    """ids (N, T) int32 and lengths (N,) int32 to probabilities (N, C)."""
    graph, ids, lengths = _of_texts("classifier")
    states = layers(graph, embed(graph, ids, arrays), lengths, config.model, arrays, "encoder")
    vectors = pooled(graph, states, ids, lengths, config.model, arrays, "pooling")
    logits = dense(graph, vectors, arrays, "output")
    classes = len(arrays["output.weight"])
    graph.output(graph.op("Softmax", logits, axis=1), "probabilities", np.float32, ("N", classes))
    return {"classifier.onnx": graph.model()}


def tagger(config: Config, arrays: Arrays) -> Graphs:
    """ids (N, T) int32 and lengths (N,) int32 to scores (N, T, G), a tag's score per word; 0 on padding.

    With tagging.characters also letters (W, L) int32 and letter_lengths (W,) int32 of W distinct words, and places
    (N, T) int32: 1 + the word that stands there, 0 on padding. The transitions of tagging.crf are no part of the graph.
    """
    graph, ids, lengths = _of_texts("tagger")
    model, embedded = config.model, embed(graph, ids, arrays)
    if config.options(TaggingConfig).characters:
        vectors, width = _letters(graph, arrays)
        places = graph.op("Transpose", graph.input("places", np.int32, ("N", "T")), perm=[1, 0])
        embedded = graph.op("Concat", embedded, graph.op("Gather", vectors, places), axis=2)
        model = model.model_copy(update={"embedding": model.embedding + width})
    states = layers(graph, embedded, lengths, model, arrays, "encoder")
    scores = dense(graph, states, arrays, "output")
    over, _ = padding(graph, ids, lengths)
    scores = graph.op("Where", over, graph.weight(np.float32(0)), scores)
    tags = len(arrays["output.weight"])
    graph.output(graph.op("Transpose", scores, perm=[1, 0, 2]), "scores", np.float32, ("N", "T", tags))
    return {"tagger.onnx": graph.model()}


def _letters(graph: Graph, arrays: Arrays) -> tuple[str, int]:
    """`pipeline.models.tagger.Letters`: (W + 1, width) vectors of words by their letters, row 0 zeros; and width."""
    table = arrays["letters.letters.weight"]
    hidden = arrays["letters.encoder.layers.0.f_h2h_weight"].shape[1]
    model = ModelConfig(embedding=table.shape[1], hidden=hidden, pooling="last")
    ids = graph.input("letters", np.int32, ("W", "L"))
    lengths = graph.input("letter_lengths", np.int32, ("W",))
    embedded = embed(graph, ids, arrays, "letters.letters.weight")
    states = layers(graph, embedded, lengths, model, arrays, "letters.encoder")
    vectors = pooled(graph, states, ids, lengths, model, arrays, "letters.pooling")
    nothing = graph.weight(np.zeros((1, 2 * hidden), np.float32))
    return graph.op("Concat", nothing, vectors, axis=0), 2 * hidden


def cloze(config: Config, arrays: Arrays) -> Graphs:
    """ids (N, T) int32, V where a word is out, lengths (N,) int32 and places (B,) int32, row * T + step of each blank,
    to log_probabilities (B, V) of the reader of both sides."""
    graph, ids, lengths = _of_texts("cloze")
    places = graph.input("places", np.int32, ("B",))
    own = {"embedding": arrays["embedding"][:, : config.model.embedding]}  # the left reader's half stands behind it
    width = config.model.hidden * config.model.directions
    states = _around(graph, embed(graph, ids, own), ids, lengths, config.model, arrays)
    rows = graph.op("Transpose", states, perm=[1, 0, 2])
    chosen = graph.op("Gather", graph.op("Reshape", rows, graph.weight(np.array([-1, width]))), places)
    own |= {"output.weight": own["embedding"][:-1], "output.bias": arrays["both.bias"]}  # without the blank's row
    scores = dense(graph, dense(graph, chosen, arrays, "both.project"), own, "output")
    words = len(arrays["both.bias"])
    barred = np.zeros(words, np.float32)
    barred[:SPECIAL] = NEVER
    log_probabilities = graph.op("LogSoftmax", graph.op("Add", scores, graph.weight(barred)), axis=1)
    graph.output(log_probabilities, "log_probabilities", np.float32, ("B", words))
    return {"cloze.onnx": graph.model()}


def _around(graph: Graph, embedded: str, ids: str, lengths: str, model: ModelConfig, arrays: Arrays) -> str:
    """The states next to each place, as `models.cloze.Reader` has them: (T, N, E) to (T, N, width)."""
    encoder_config = model.model_copy(update={"directions": 1})
    first, second, last = (graph.weight(np.array([at], np.int64)) for at in (0, 1, -1))
    before = layers(graph, embedded, lengths, encoder_config, arrays, "both.forwards")
    shifted = graph.op("Pad", before, graph.weight(np.array([1, 0, 0, 0, 0, 0], np.int64)))
    around = graph.op("Slice", shifted, first, last, first)
    if model.directions == 1:
        return around
    sizes = graph.op("Cast", lengths, to=TensorProto.INT64)
    turned = graph.op("ReverseSequence", embedded, sizes, batch_axis=1, time_axis=0)
    after = layers(graph, turned, lengths, encoder_config, arrays, "both.backwards")
    after = graph.op("ReverseSequence", after, sizes, batch_axis=1, time_axis=0)
    after = graph.op("Where", padding(graph, ids, lengths)[0], graph.weight(np.float32(0)), after)
    shifted = graph.op("Pad", after, graph.weight(np.array([0, 0, 0, 1, 0, 0], np.int64)))
    ends = graph.weight(np.array([np.iinfo(np.int64).max]))
    return graph.op("Concat", around, graph.op("Slice", shifted, second, ends, first), axis=2)


def language_step(config: Config, arrays: Arrays) -> Graphs:
    """A language model's step: ids (N, T) int32 and states to logits (N, T, V) of the next tokens, and new states.

    States go in as h_0, h_1, … (and c_0, … of an LSTM; h1_0, … of a package's cell with more), each (1, N, H), zeros at
    a text's beginning, and come out as new_h_0 and so on. T = 1 steps token by token; feeding a longer beginning at
    once gives the same.
    """
    graph, model = Graph("language_step"), config.model
    ids = graph.input("ids", np.int32, ("N", "T"))
    table = "words.weight" if "words.weight" in arrays else "output.weight"  # tied weights are stored once
    x, width = embed(graph, ids, arrays, table), model.embedding
    kinds = "hc" if model.cell == "lstm" else [f"h{i or ''}" for i in range(model.steps_by.states)]
    shape = (1, "N", model.hidden)
    for i in range(model.layers):
        states = [graph.input(f"{kind}_{i}", np.float32, shape) for kind in kinds]
        y, *new = recurrent(graph, x, "", model.cell, arrays, f"layers.{i}", 1, states)
        for kind, state in zip(kinds, new):
            graph.output(state, f"new_{kind}_{i}", np.float32, shape)
        x, width = between(graph, y, x, width, model, arrays, f"norms.{i}"), model.hidden
    logits = graph.op("Transpose", dense(graph, x, arrays, "output"), perm=[1, 0, 2])
    graph.output(logits, "logits", np.float32, ("N", "T", len(arrays["output.weight"])))
    return {"language_step.onnx": graph.model()}


def _of_texts(name: str) -> tuple[Graph, str, str]:
    graph = Graph(name)
    return graph, graph.input("ids", np.int32, ("N", "T")), graph.input("lengths", np.int32, ("N",))
