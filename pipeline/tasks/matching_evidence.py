"""What a matching evaluation leaves beside its tables: a row per query or pair, histograms, and who looks at what.

The files' formats are in docs/report.md; reports, comparisons and promotions read nothing else.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mxnet import nd

from pipeline.config import Config
from pipeline.core.atomic_files import as_json
from pipeline.distributed.world import World
from pipeline.evaluation import judged
from pipeline.evaluation.grades import expected_grade
from pipeline.evaluation.judged import Classes, Judged, Said
from pipeline.evaluation.ranking import Judgements, Ranking, evaluate
from pipeline.models.encoder import padding_of
from pipeline.models.matcher import SIDES, Matcher
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import UNKNOWN, UNKNOWN_ID

RARE_BELOW = 5  # occurrences in the training split, queries and documents together
ALIGNED_DOCUMENT_TOKENS = 60  # of an example; a heat map of more cannot be read
HISTOGRAM_BINS = 40


class Evidence:
    """Rank 0's collector: takes rankings and grades as they are judged, and writes what reports are made from.

    Args:
        split: the test split; texts: side -> the texts of its tables, row by row.
        folder: the evaluation's, being written.
    """

    def __init__(
        self,
        config: Config,
        tokenized: Path,
        split: shards.Split,
        texts: dict[str, list[str]],
        folder: Path,
        network: Matcher,
        world: World,
    ) -> None:
        self.config, self.split, self.texts, self.folder = config, split, texts, folder
        self.tokenizer = shards.load_tokenizer(tokenized)
        self.train = shards.open_split(tokenized, "train")
        self._network, self._world = network, world
        self._rare = _rare_tokens(self.train, shards.vocabulary_size(tokenized))
        self._histograms = [
            histogram(
                "Lengths of the test split's texts",
                "length (tokens)",
                {side: split.fields[side].lengths[np.unique(split.rows[side])] for side in SIDES},
                whole=True,
            )
        ]
        self._alignments: list[dict[str, Any]] = []

    def rankings(self, systems: dict[str, Ranking], judgements: Judgements) -> None:
        """judged-ranking.parquet: a row per query with a relevant document, all metrics of all systems.

        And the scores' histogram, and alignments of queries that the model won and lost against BM25.
        """
        queries = judgements.answerable
        values = {
            name: evaluate(ranking, judgements, queries, self.config.evaluate.depth)
            for name, ranking in systems.items()
        }
        relevant = judgements.relevance > 0
        owners = judgements.query_rows[relevant]
        lengths = self.split.fields["document"].lengths[judgements.document_rows[relevant]]
        counts = np.bincount(owners, minlength=judgements.queries)[queries]  # 0: all its relevant ones are missing
        rows = Judged(
            unit="queries",
            ids=[self.split.fields["query"].keys[int(row)] for row in queries],
            texts=[self.texts["query"][row] for row in queries],
            groups=None,
            slices={
                "query length (tokens)": self.split.fields["query"].lengths[queries].astype(float),
                "relevant documents' length (tokens, mean)": (
                    np.bincount(owners, lengths, minlength=judgements.queries)[queries]
                    / np.where(counts, counts, np.nan)
                ),
                "rare words in the query (%)": self._rare_share("query", queries),
                "relevant documents": counts.astype(float),
            },
            values={(name, metric): values[name][metric] for name in systems for metric in values[name]},
        )
        judged.write(self.folder / "judged-ranking.parquet", rows)
        model = systems["model"]
        at, places = np.nonzero((model.documents >= 0) & np.isfinite(model.scores))
        good = judgements.lookup(at, model.documents[at, places]) > 0
        scores = model.scores[at, places]
        series = {"relevant documents": scores[good], "others, ranks 1 to 10": scores[~good & (places < 10)]}
        self._histograms.append(histogram("Scores of the documents found", "score of the model", series))
        gained = values["model"]["mrr@10"] - values["bm25"]["mrr@10"]
        order = np.argsort(-gained, kind="stable")
        for kind, place in zip(("won", "won", "lost", "lost"), (*order[:2], *order[::-1][:2])):
            if (gained[place] > 0) == (kind == "won") and gained[place]:
                judged_documents, grades = judgements.of(int(queries[place]))
                self._align(f"query {kind} against BM25", int(queries[place]), int(judged_documents[grades.argmax()]))

    def grades(
        self, labels: np.ndarray, probabilities: np.ndarray, others: Mapping[str, np.ndarray], majority: int
    ) -> None:
        """judged-graded.parquet: a row per pair with its grade and the grades' probabilities (N, G).

        Args:
            others: the probabilities of other systems, by name.
        """
        query_rows, document_rows = (self.split.rows[side] for side in SIDES)
        queries, documents = (self.split.fields[side] for side in SIDES)
        texts = zip(query_rows, document_rows)
        right = probabilities.argmax(axis=1) == labels
        systems = {name: those.argmax(axis=1) == labels for name, those in others.items()}
        systems = {"model": right, **systems, "majority": labels == majority}
        names = [str(grade) for grade in range(probabilities.shape[1])]
        rows = Judged(
            unit="pairs",
            ids=list(self.split.ids),
            texts=[f"{self.texts['query'][q]} — {self.texts['document'][d]}" for q, d in texts],
            groups=[queries.keys[int(row)] for row in query_rows],
            slices={
                "query length (tokens)": queries.lengths[query_rows].astype(float),
                "document length (tokens)": documents.lengths[document_rows].astype(float),
                "rare words in the query (%)": self._rare_share("query", query_rows),
            },
            values={(name, "accuracy"): each.astype(float) for name, each in systems.items()},
            classes=Classes(names, labels, probabilities, ordered=True),
            others={
                **{name: Said.of(those.argmax(axis=1), expected_grade(those)) for name, those in others.items()},
                "majority": Said.of(np.full(len(labels), majority)),
            },
        )
        judged.write(self.folder / "judged-graded.parquet", rows)
        expected = rows.classes.scores if rows.classes else probabilities
        series = {f"pairs of grade {name}": expected[labels == grade] for grade, name in enumerate(names)}
        self._histograms.append(histogram("Expected grades of the pairs", "expected grade", series))
        sure = probabilities.max(axis=1)
        for name, among in (("right", right), ("wrong", ~right)):
            for pair in np.argsort(np.where(among, -sure, 1), kind="stable")[:2]:
                if among[pair]:
                    chosen, chance = probabilities[pair].argmax(), 100 * sure[pair]
                    description = f"grade {labels[pair]}, given {chosen} ({chance:.0f} %)"
                    self._align(f"{name}: {description}", int(query_rows[pair]), int(document_rows[pair]))

    def finish(self) -> None:
        """histograms.json and alignments.json."""
        for name, content in (("histograms", self._histograms), ("alignments", self._alignments)):
            (self.folder / f"{name}.json").write_text(as_json(content, ensure_ascii=False), encoding="utf-8")

    def _rare_share(self, side: str, rows: np.ndarray) -> np.ndarray:
        """(n,) per cent of each text's tokens that are rare."""
        texts = self.split.fields[side]
        return np.array([100 * self._rare[texts.ids(int(row))].mean() for row in rows])

    def _align(self, title: str, query: int, document: int) -> None:
        tokens = {
            side: self.tokenizer.tokens(self.texts[side][row])[: self.tokenizer.max_tokens[side]] or [UNKNOWN]
            for side, row in zip(SIDES, (query, document))
        }
        heat_map = alignment(self._network, self.split, query, document, tokens, self._world)
        self._alignments.append({"title": title, **heat_map})


def _rare_tokens(train: shards.Split, vocabulary: int) -> np.ndarray:
    """(V,) bool: ids that stand fewer than RARE_BELOW times in the training split, the unknown token among them."""
    rare = sum(train.fields[side].token_counts(vocabulary) for side in SIDES) < np.array(RARE_BELOW)
    rare[UNKNOWN_ID] = True
    return rare


def histogram(title: str, x: str, series: dict[str, np.ndarray], whole: bool = False) -> dict[str, Any]:
    """Counts of several series over common bins; `whole`: bins of whole numbers."""
    everything = np.concatenate([np.asarray(values, float) for values in series.values()])
    low, high = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
    if whole:
        width = max(1, -(-int(high - low + 1) // HISTOGRAM_BINS))
        edges = np.arange(low, high + width + 1, width) - 0.5
    else:
        edges = np.linspace(low, high if high > low else low + 1, HISTOGRAM_BINS + 1)
    return {
        "title": title,
        "x": x,
        "edges": edges.tolist(),
        "series": [
            {"name": name, "counts": np.histogram(values, edges)[0].tolist()} for name, values in series.items()
        ],
    }


# --- alignments -------------------------------------------------------------------------------------------------------
def alignment(
    network: Matcher, split: shards.Split, query: int, document: int, tokens: dict[str, list[str]], world: World
) -> dict[str, Any]:
    """How much each token of a query has to do with each of a document, and how much each token weighs.

    Late interaction: the similarities whose maxima make the score, and the learned importance. Else: the cosine of the
    encoder's states, which the score is not made of, and what the pooling takes from each token (attention: its
    weight; max: the share of the vector's places where it is the maximum).

    Args:
        query, document: rows of the split's tables; tokens: side -> the texts' tokens.
    """
    table = network.embedding.data(world.context)
    vectors, weights = {}, []
    for side, row in zip(SIDES, (query, document)):
        ids, lengths = split.fields[side].padded(np.array([row]))
        inputs = nd.array(ids.T, world.context, "int32"), nd.array(lengths, world.context, "int32")
        if network.by_token:
            representation = network.represent(side, table, *inputs)
            vectors[side], share = representation.vectors[0].asnumpy(), representation.weights[0].asnumpy()
            what = "importance"
        else:
            tower = network.query_tower if side == "query" else network.document_tower
            embedded = nd.Embedding(inputs[0], table, input_dim=table.shape[0], output_dim=table.shape[1])
            padding = padding_of(inputs[1], ids.shape[1])
            states = tower.encoder(embedded, padding)  # (T, 1, W)
            vectors[side] = states[:, 0].asnumpy()
            what, share = _pooled_share(tower, states, inputs[1])
        if share is not None:
            share = share / max(float(share.sum()), 1e-12)
            cut = tokens[side][:ALIGNED_DOCUMENT_TOKENS]
            weights.append(
                {"text": side, "what": what, "tokens": cut, "values": np.round(share[: len(cut)], 4).tolist()}
            )
    q, d = (array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12) for array in vectors.values())
    similar = (q @ d.T)[:, :ALIGNED_DOCUMENT_TOKENS]
    return {
        "rows": tokens["query"][: similar.shape[0]],
        "columns": tokens["document"][: similar.shape[1]],
        "values": np.round(similar, 3).tolist(),
        "label": network.config.scored_by.map_label,
        "maxima": network.config.scored_by.index == "tokens",
        "weights": weights,
        "cut": max(0, d.shape[0] - ALIGNED_DOCUMENT_TOKENS),
    }


def _pooled_share(tower: Any, states: nd.NDArray, lengths: nd.NDArray) -> tuple[str, np.ndarray | None]:
    """What the pooling takes from each of T tokens; None where all or the ends count alike."""
    kind = tower.pooling.kind
    if kind == "max":
        array = states[:, 0].asnumpy()
        return "places of the vector won", np.bincount(array.argmax(axis=0), minlength=len(array)).astype(float)
    weights = tower.pooling.weights(states, lengths)
    return kind, None if weights is None else weights[:, 0, 0].asnumpy()
