"""Judging an opened matching model on a tokenized split, by either backend and without the training's network."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.config import Config
from pipeline.evaluation import metrics
from pipeline.evaluation.grades import expected_grade
from pipeline.evaluation.ranking import Judgements, Ranking, evaluate, rank_collection, rank_listed, rows_per_chunk
from pipeline.serving.loading import usable_cores
from pipeline.serving.predict import onnx_matching
from pipeline.serving.predict.scoring import Encoded
from pipeline.serving.predict.text_encoder import TextEncoder
from pipeline.tasks.collection import Collection
from pipeline.tokenization import shards
from pipeline.tokenization.passages import best_of


def matching(config: Config, folder: Path, graphs: Path, tokenized: Path, split_name: str) -> dict[str, float]:
    return judged(onnx_matching.open_encoder(config, folder, graphs, usable_cores()), tokenized, split_name)


def judged(encoder: TextEncoder, tokenized: Path, split_name: str) -> dict[str, float]:
    """Means of the configured kinds of metrics ("ranking", "graded") on a split, from its token ids."""
    config, split = encoder.config, shards.open_split(tokenized, split_name)
    queries, collection = split.fields["query"], Collection([split.fields["document"]])
    query = _encoded(encoder, "query", [queries.ids(row) for row in range(len(queries))])
    passages = [ids for row in range(len(collection)) for ids in collection.passages(row)]
    document = _encoded(encoder, "document", passages)
    means: dict[str, float] = {}
    if "graded" in config.evaluate.kinds:
        pairs = query.take(split.rows["query"]), document.take(split.rows["document"])
        chances = encoder.grade_pairs(*pairs)
        means |= metrics.graded_metrics(split.relevance.astype(int), chances.argmax(axis=1), expected_grade(chances))
    if "ranking" in config.evaluate.kinds:
        judgements = Judgements(
            split.rows["query"], split.rows["document"], split.relevance, query.texts, len(collection), split.missing
        )
        ranking, depth = _ranking(encoder, query, document, collection.parts, judgements), config.evaluate.depth
        means |= {name: float(values.mean()) for name, values in evaluate(ranking, judgements, depth=depth).items()}
    return means


def _encoded(encoder: TextEncoder, side: str, texts: list[np.ndarray]) -> Encoded:
    return encoder.encode_ids(side, np.concatenate(texts), np.array([len(ids) for ids in texts]))


def _ranking(
    encoder: TextEncoder, query: Encoded, passages: Encoded, parts: np.ndarray, judgements: Judgements
) -> Ranking:
    """By the best of each document's passages, of which it has `parts`."""
    if encoder.config.evaluate.candidates == "listed":
        counts = parts[judgements.document_rows]
        first = (np.cumsum(parts) - parts)[judgements.document_rows]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        listed = query.take(np.repeat(judgements.query_rows, counts)), passages.take(np.repeat(first, counts) + within)
        return rank_listed(best_of(encoder.score_pairs(*listed), counts), judgements)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rows, step = judgements.answerable, rows_per_chunk(passages.texts)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            yield part, best_of(encoder.score_all(query.take(part), passages), parts)

    return rank_collection(chunks(), judgements, encoder.config.evaluate.depth)
