"""Judging exported models that write texts or answer questions, through ONNX Runtime and without the network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.config import Config, TranslationConfig
from pipeline.evaluation import captions, metrics
from pipeline.evaluation import translation as scores
from pipeline.serving.onnx.written import Feeds, Writer
from pipeline.serving.predict.onnx_writing import OnnxAnswerer, OnnxCaptioner, OnnxTranslator
from pipeline.tasks import decoding
from pipeline.tasks.image_reading import ImageReader
from pipeline.tokenization import shards
from pipeline.tokenization.joining import joined

AT_ONCE = 128  # texts that are read with their sources at once


def translation(config: Config, folder: Path, graphs: Path, tokenized: Path, split_name: str) -> dict[str, float]:
    split = shards.open_split(tokenized, split_name, config.task)
    model, options = OnnxTranslator(config, folder, graphs, 1), config.options(TranslationConfig)
    fields = [split.fields[side] for side in ("source", "target")]
    sources, targets = ([field.ids(row) for row in range(len(field))] for field in fields)
    rows, target_rows = (split.rows[side] for side in ("source", "target"))
    hypotheses = model.write(sources, 1, 0.0)
    text = lambda ids: joined(config.tokenize.kind, [model.names[i] for i in ids])
    texts = [text(hypotheses[row].ids) for row in rows.tolist()]
    references = [[text(targets[row])] for row in target_rows.tolist()]
    losses = []
    for start in range(0, len(rows), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        ids, lengths = fields[0].padded(rows[some])
        losses.append(_nats(model.writer, {"ids": ids, "lengths": lengths}, *fields[1].padded(target_rows[some])))
    return scores.scored(texts, references, _mean(losses), config.tokenize.lowercase, options.bleu_tokenizer)


def captioning(config: Config, folder: Path, graphs: Path, tokenized: Path, split_name: str) -> dict[str, float]:
    split = shards.open_split(tokenized, split_name, config.task)
    model = OnnxCaptioner(config, folder, graphs, 1)
    images, raw = _images(config, tokenized, split)
    parts = [np.arange(start, min(start + AT_ONCE, images)) for start in range(0, images, AT_ONCE)]
    tokens = [[model.names[i] for i in hypothesis.ids] for part in parts for hypothesis in model.write(raw(part), 1)]
    field, references = split.fields["caption"], decoding.captions_given(split, model.names)
    losses = []
    for start in range(0, len(split.relevance), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        feeds = {"images": raw(split.rows["image"][some])}
        losses.append(_nats(model.writer, feeds, *field.padded(split.rows["caption"][some])))
    return captions.scores(tokens, references) | {"nats": _mean(losses)}


def visual_question(config: Config, folder: Path, graphs: Path, tokenized: Path, split_name: str) -> dict[str, float]:
    split = shards.open_split(tokenized, split_name, config.task)
    model = OnnxAnswerer(config, folder, graphs, 1)
    _, raw = _images(config, tokenized, split)
    questions = [split.fields["question"].ids(row) for row in split.rows["question"].tolist()]
    chances = model.probabilities(questions, lambda rows: raw(split.rows["image"][rows]))
    return metrics.answered(decoding.classes_given(split, len(model.names), "answer"), chances)


def _images(config: Config, tokenized: Path, split: shards.Split) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    """How many distinct images a split has, and what gives those of (n,) of their rows."""
    images = ImageReader(config, tokenized)
    rows = images.rows_of(split.fields["image"])
    return len(rows), lambda chosen: np.asarray(images.raw[rows[chosen]])


def _nats(writer: Writer, feeds: Feeds, ids: np.ndarray, lengths: np.ndarray) -> tuple[float, int]:
    """The sum over all tokens of (N, T) texts, and how many there are, the border behind each text included."""
    return float(writer.nats(feeds, ids, lengths).sum(dtype=np.float64)), int(lengths.sum()) + len(lengths)


def _mean(losses: list[tuple[float, int]]) -> float:
    total, count = (sum(part) for part in zip(*losses))
    return float(total / count)
