"""Judging an opened matching model on a tokenized split, by either backend and without the training's network."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.config import Config
from pipeline.evaluation import metrics
from pipeline.evaluation.ranking import Judgements, Ranking, evaluate, rank_collection, rank_listed, rows_per_chunk
from pipeline.serving.loading import usable_cores
from pipeline.serving.predict import onnx_matching
from pipeline.serving.predict.scoring import Encoded
from pipeline.serving.predict.text_encoder import TextEncoder
from pipeline.tokenization import shards


def matching(config: Config, folder: Path, graphs: Path, tokenized: Path, split_name: str) -> dict[str, float]:
    return judged(onnx_matching.open_encoder(config, folder, graphs, usable_cores()), tokenized, split_name)


def judged(encoder: TextEncoder, tokenized: Path, split_name: str) -> dict[str, float]:
    """Means of the configured kinds of metrics ("ranking", "graded") on a split, from its token ids."""
    config, split = encoder.config, shards.open_split(tokenized, split_name)
    encoded = {}
    for side in encoder.sides:
        texts = split.fields[side]
        ids = np.concatenate([texts.ids(row) for row in range(len(texts))])
        encoded[side] = encoder.encode_ids(side, ids, np.asarray(texts.lengths))
    query, document = (encoded[side] for side in encoder.sides)
    means: dict[str, float] = {}
    if "graded" in config.evaluate.kinds:
        pairs = query.take(split.rows["query"]), document.take(split.rows["document"])
        chances = encoder.grade_pairs(*pairs)
        expected = chances @ np.arange(chances.shape[1])
        means |= metrics.graded_metrics(split.relevance.astype(int), chances.argmax(axis=1), expected)
    if "ranking" in config.evaluate.kinds:
        judgements = Judgements(
            split.rows["query"], split.rows["document"], split.relevance, query.texts, document.texts, split.missing
        )
        ranking = _ranking(encoder, query, document, judgements)
        means |= {name: float(values.mean()) for name, values in evaluate(ranking, judgements).items()}
    return means


def _ranking(encoder: TextEncoder, query: Encoded, document: Encoded, judgements: Judgements) -> Ranking:
    if encoder.config.evaluate.candidates == "listed":
        listed = query.take(judgements.query_rows), document.take(judgements.document_rows)
        return rank_listed(encoder.score_pairs(*listed), judgements)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rows, step = judgements.answerable, rows_per_chunk(document.texts)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            yield part, encoder.score_all(query.take(part), document)

    return rank_collection(chunks(), judgements, encoder.config.evaluate.depth)
