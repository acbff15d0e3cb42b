"""Judging an exported model of the other tasks on a tokenized split, through ONNX Runtime and without the network."""

import math
from pathlib import Path

import numpy as np

from pipeline.config import ClozeConfig, Config, LanguageModelConfig
from pipeline.evaluation import metrics, spans
from pipeline.serving.onnx import session
from pipeline.serving.predict.onnx_tasks import OnnxClassifier, OnnxCloze, OnnxTagger
from pipeline.tasks import decoding
from pipeline.tokenization import shards
from pipeline.tokenization.shards import Split

MAX_LOGITS = 2**24  # computed at once in judging a language model
AT_ONCE = 256  # passages, whose blanks have a chance for each word


def classification(config: Config, folder: Path, graphs: Path, tokenized: Path, split_name: str) -> dict[str, float]:
    split = shards.open_split(tokenized, split_name, config.task)
    model = OnnxClassifier(config, folder, graphs, 1)
    predicted = model.probabilities(_texts(split, "text")).argmax(axis=1)
    labels = decoding.classes_given(split, len(model.names))
    return {"accuracy": metrics.accuracy(labels, predicted), "macro_f1": metrics.macro_f1(labels, predicted)}


def tagging(config: Config, folder: Path, graphs: Path, tokenized: Path, split_name: str) -> dict[str, float]:
    split = shards.open_split(tokenized, split_name, config.task)
    model = OnnxTagger(config, folder, graphs, 1)
    predicted, true_tags = model.tags(_texts(split, "text"), _texts(split, "letters")), decoding.tags_given(split)
    values = {"accuracy": float((np.concatenate(predicted) == np.concatenate(true_tags)).mean())}
    if spans.are_spans(model.names):
        names = [[decoding.named(model.names, tags) for tags in part] for part in (true_tags, predicted)]
        values["span_f1"] = spans.span_f1(*names)
    return values


def cloze(config: Config, folder: Path, graphs: Path, tokenized: Path, split_name: str) -> dict[str, float]:
    """See OnnxSpec.judge; of the same blanks as in validation."""
    split = shards.open_split(tokenized, split_name, config.task)
    model = OnnxCloze(config, folder, graphs, 1)
    rows = split.rows["text"].tolist()
    passages, share = _texts(split, "text"), config.options(ClozeConfig).blank_share
    masks = [
        decoding.drawn_blanks(ids, share, np.random.default_rng([config.seed, row])) for ids, row in zip(passages, rows)
    ]
    right, nats = [], []
    for start in range(0, len(rows), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        for ids, mask, values in zip(passages[some], masks[some], model.filled(passages[some], masks[some])):
            right.append(values.argmax(axis=1) == ids[mask])
            nats.append(-values[np.arange(len(values)), ids[mask]])
    return {"accuracy": float(np.concatenate(right).mean()), "nats": float(np.concatenate(nats).mean())}


def language_model(config: Config, folder: Path, graphs: Path, tokenized: Path, split_name: str) -> dict[str, float]:
    split = shards.open_split(tokenized, split_name, config.task)
    step = session.language_step(graphs)
    text = decoding.running_text(split)
    places, judged = decoding.side_by_side(len(text) - 1, config.options(LanguageModelConfig).streams, decoding.READ_IN)
    ids, targets = text[places].T, text[places + 1].T  # (n, T)
    at_once = max(1, MAX_LOGITS // (len(ids) * shards.vocabulary_size(folder)))
    states, parts = None, []
    for start in range(0, ids.shape[1], at_once):
        piece = slice(start, start + at_once)
        logits, states = step(ids[:, piece], states)
        top = logits.max(axis=2)
        total = np.log(np.exp(logits - top[:, :, None]).sum(axis=2)) + top
        parts.append(total - np.take_along_axis(logits, targets[:, piece, None], axis=2)[:, :, 0])
    losses = np.concatenate(parts, axis=1)
    nats = float(np.concatenate([row[steps] for row, steps in zip(losses, judged)]).mean(dtype=np.float64))
    return {"nats": nats, "perplexity": math.exp(min(nats, 700.0))}


def _texts(split: Split, field: str) -> list[np.ndarray]:
    return [split.fields[field].ids(row) for row in split.rows[field].tolist()]
