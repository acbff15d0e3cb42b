"""A task and a source of another package: how many stars a text gives, from 1 to 5, by least squares.

The declarations at the end are what Duplet reads; heavy modules are imported where they are used, so that commands that
train nothing answer at once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipeline.config import Settings
from pipeline.config.source_spec import SourceSpec
from pipeline.config.task_spec import Metric, OnnxSpec, TaskSpec
from pipeline.core.record_schema import Field as Text

WORDS = ("awful", "poor", "fair", "good", "superb")  # worth 1 to 5 stars


# --- the source: made up, no download ---------------------------------------------------------------------------------
class MadeRatings(Settings):
    """Texts of three judging words among others; the stars are their mean, rounded."""

    format: Literal["made_ratings"] = Field(description="Format of the source.")
    count: int = Field(default=300, gt=0, description="Texts that are made.")


def read_ratings(source: MadeRatings, config: Any, limit_bytes: int, folder: Path) -> Iterator[tuple[None, Any]]:
    """See SourceSpec.rows."""
    from pipeline.ingest.rows import Row

    def rows() -> Iterator[Row]:
        rng = np.random.default_rng(7)
        for number in range(1, source.count + 1):
            marks = rng.integers(0, len(WORDS), 3)
            words = [*(WORDS[mark] for mark in marks), *rng.choice(["room", "view", "meal", "staff"], 3)]
            text = " ".join(rng.permutation(words))
            yield Row("made_ratings", number, {"text": text, "stars": str(round(float(marks.mean())) + 1)}, text)

    yield None, rows()


# --- the options ------------------------------------------------------------------------------------------------------
class RatingOptions(Settings):
    """Ratings by stars."""

    scale: float = Field(default=1.0, gt=0, description="Divides the squared error of a text.")


# --- ONNX -------------------------------------------------------------------------------------------------------------
def graphs(config: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """ids (N, T) int32 and lengths (N,) int32 to stars (N,)."""
    from pipeline.serving.onnx.graphs import Graph, dense, embed, layers, pooled

    graph = Graph("rating")
    ids, lengths = graph.input("ids", np.int32, ("N", "T")), graph.input("lengths", np.int32, ("N",))
    states = layers(graph, embed(graph, ids, arrays), lengths, config.model, arrays, "encoder")
    stars = dense(graph, pooled(graph, states, ids, lengths, config.model, arrays, "pooling"), arrays, "output")
    graph.output(graph.op("Reshape", stars, graph.weight(np.array([-1]))), "stars", np.float32, ("N",))
    return {"rating.onnx": graph.model()}


def open_rating(config: Any, folder: Path, graphs: Path, threads: int) -> Any:
    """{"stars"} of each row's text, by ONNX Runtime."""
    from pipeline.serving.predict.onnx_tasks import OnnxTask

    class OnnxRating(OnnxTask):
        graph = "rating.onnx"

        def stars(self, texts: list[np.ndarray]) -> np.ndarray:
            values = np.empty(len(texts), np.float32)
            run = lambda batch: self._run((len(batch.ids),), batch.ids, batch.lengths)
            for batch, part in self._each(run, texts):
                values[batch.rows] = part
            return values

        def predict(self, rows: Any) -> list[dict[str, Any]]:
            texts = [self._tokenizer.encode(row["text"], "text") for row in self.named(rows)]
            return [{"stars": float(value)} for value in self.stars(texts)]

    return OnnxRating(config, folder, graphs, threads)


def judge(config: Any, folder: Path, graphs: Path, tokenized: Path, split_name: str) -> dict[str, float]:
    """The validation's metrics, by ONNX Runtime."""
    from pipeline.tokenization import shards

    split = shards.open_split(tokenized, split_name, "rating")
    texts = [split.fields["text"].ids(row) for row in split.rows["text"].tolist()]
    names = stars_of(tokenized)
    given = names[np.concatenate([split.fields["stars"].ids(row) for row in split.rows["stars"].tolist()])]
    error = open_rating(config, folder, graphs, 1).stars(texts) - given
    return {"squared_error": float((error**2).mean())}


def stars_of(folder: Path) -> np.ndarray:
    """(V,) the number of stars that each id of the vocabulary `stars` stands for."""
    from pipeline.tasks import decoding

    names = decoding.tokens_by_id(folder / "stars")
    return np.array([float(name) if name.isdigit() else np.nan for name in names], np.float32)


# --- the report -------------------------------------------------------------------------------------------------------
def report(folder: Path) -> tuple[str, list[list[str]]]:
    """How far off the model is, by stars."""
    from pipeline.evaluation import judged

    rows = judged.read(folder / "judged-ratings.parquet")
    stars, error = rows.slices["stars"], rows.values["model", "squared_error"]
    lines = [[f"{star:.0f}", f"{error[stars == star].mean():.3f}"] for star in np.unique(stars)]
    return "Squared error by stars", [["stars", "squared error"], *lines]


# --- what Duplet reads ------------------------------------------------------------------------------------------------
TASK = TaskSpec(
    name="rating",
    fields={"text": Text(64), "stars": Text(1, "stars", "whole", names=True)},
    task="duplet_rating_network:Rating",
    metrics=(Metric("squared_error", smaller_is_better=True, scale="stars squared"),),
    options=RatingOptions,
    columns={"text": ("text",), "stars": ("stars", "rating")},
    pooled=True,
    report="duplet_rating:report",
    onnx=OnnxSpec(
        graphs="duplet_rating:graphs",
        judge="duplet_rating:judge",
        card=("| `rating.onnx` | ids (N, T) int32 and lengths (N,) int32; stars (N,) |",),
        open="duplet_rating:open_rating",
        example=(("a superb view",), ("an awful meal",)),
    ),
)
SOURCE = SourceSpec(
    name="made_ratings",
    options=MadeRatings,
    rows="duplet_rating:read_ratings",
    tasks=("rating",),
    columns={"text": "text", "stars": "stars"},
)
