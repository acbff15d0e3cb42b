"""The part of the task that needs MXNet: network, batch, loss and judging."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duplet_rating
import numpy as np
from mxnet import Context, gluon, init, nd

from pipeline.distributed.world import World
from pipeline.evaluation.judged import Judged
from pipeline.models.encoder import Encoder, Pooling, padding_of
from pipeline.tasks.base import StepLoss, Task, texts_of
from pipeline.tasks.length_bucketing import Chunked, chunked, distinct_tokens
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import load_tokenizer


class Network(gluon.Block):
    """A text to a number."""

    def __init__(self, config: Any, vocabulary: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.embedding = self.params.get(
                "embedding", shape=(vocabulary, config.embedding), init=init.Uniform(0.1), grad_req="null"
            )
            self.encoder = Encoder(config)
            self.pooling = Pooling(config.pooling, config.hidden, config.directions)
            self.output = gluon.nn.Dense(1, in_units=self.encoder.width, weight_initializer=init.Xavier())

    def forward(self, table: nd.NDArray, ids: nd.NDArray, lengths: nd.NDArray) -> nd.NDArray:
        """(N,) stars, from ids (T, N) that index the rows of `table` and lengths (N,)."""
        embedded = nd.Embedding(ids, table, input_dim=table.shape[0], output_dim=table.shape[1])
        padding = padding_of(lengths, ids.shape[0])
        return self.output(self.pooling(self.encoder(embedded, padding), lengths, padding)).reshape(-1)


class Batch(NamedTuple):
    """The texts and stars of one worker."""

    tokens: np.ndarray
    real: int
    cells: int
    texts: Chunked
    stars: np.ndarray
    total: int  # texts of all workers


class Rating(Task):
    """Least squares over the stars."""

    def stars(self, split: shards.Split) -> np.ndarray:
        """(N,) of a split's records."""
        ids = np.concatenate([split.fields["stars"].ids(row) for row in split.rows["stars"].tolist()])
        return duplet_rating.stars_of(self.folder)[ids]

    @functools.cached_property
    def _stars(self) -> np.ndarray:
        return self.stars(self.train)

    def network(self) -> Network:
        return Network(self.config.model, shards.vocabulary_size(self.folder), prefix="rating_")

    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> Batch:
        ids = self.train.fields["text"].read(self.train.rows["text"][shares[rank]])
        tokens = distinct_tokens(ids)
        texts, total = chunked(ids, tokens), sum(len(share) for share in shares)
        return Batch(tokens, texts.real, texts.cells, texts, self._stars[shares[rank]][texts.rows], total)

    def loss(self, network: Network, table: nd.NDArray | None, batch: Batch, world: World) -> StepLoss:
        assert table is not None
        context = table.context
        given = [
            network(table, nd.array(c.ids, context, "int32"), nd.array(c.lengths, context, "int32"))
            for c in batch.texts.chunks
        ]
        error = (nd.concat(*given, dim=0) - nd.array(batch.stars, context)) ** 2
        scale = self.config.options(duplet_rating.RatingOptions).scale
        value = error.sum().reshape(1) * (world.size / batch.total / scale)
        return StepLoss(value, value)

    def _predicted(self, network: Network, texts: list[np.ndarray], context: Context) -> np.ndarray:
        table, found = network.embedding.data(context), []
        for ids in texts:
            row, length = nd.array(ids[:, None], context, "int32"), nd.array([len(ids)], context, "int32")
            found.append(float(network(table, row, length).asscalar()))
        return np.array(found)

    def _of_split(self, network: Network, name: str, world: World) -> tuple[shards.Split, np.ndarray]:
        split = shards.open_split(self.folder, name, "rating")
        texts = [split.fields["text"].ids(row) for row in split.rows["text"].tolist()]
        return split, self._predicted(network, texts, world.context)

    def validate(self, network: Network, world: World) -> dict[str, float]:
        split, predicted = self._of_split(network, "valid", world)
        error = predicted - self.stars(split)
        return world.agree({"squared_error": float((error**2).mean())}, "validation")

    def evaluate(self, network: Network, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        split, predicted = self._of_split(network, "test", world)
        if world.rank > 0:
            return {}
        stars, mean = self.stars(split).astype(np.float64), float(self._stars.mean())
        judged = Judged(
            unit="texts",
            ids=list(split.ids),
            texts=texts_of(ingested, split, "text"),
            groups=None,
            slices={"stars": stars},
            values={
                ("model", "squared_error"): (predicted - stars) ** 2,
                ("mean", "squared_error"): (mean - stars) ** 2,
            },
        )
        return self.write_tables(folder, {"ratings": (judged, "mean")})

    def predict(self, network: Network, rows: Sequence[Mapping[str, Any]], context: Context) -> list[dict[str, Any]]:
        tokenizer = load_tokenizer(self.folder)
        texts = [tokenizer.encode(str(row["text"]), "text") for row in rows]
        return [{"stars": float(value)} for value in self._predicted(network, texts, context)]
