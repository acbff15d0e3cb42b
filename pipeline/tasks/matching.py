"""Query-document matching: pairs in, a score per pair out, judged as a ranking or as grades."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mxnet import Context, autograd, nd

from pipeline.config import Config
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.models import losses
from pipeline.models.matcher import SIDES, Matcher, Representation
from pipeline.tasks import matching_evaluation
from pipeline.tasks.base import StepLoss, Task
from pipeline.tasks.length_bucketing import Chunked, chunked, distinct_tokens
from pipeline.tokenization import shards


class PairBatch(NamedTuple):
    """n pairs and m listed negatives of one worker; N pairs and M documents over all workers.

    Ids point into `tokens`, are time first, and 0 on padding. In the global order of documents all pairs' own documents
    come first, worker by worker, then all listed negatives, so that it does not depend on the number of workers.
    """

    tokens: np.ndarray  # (U,) int32, ascending, all workers' token ids and 0
    real: int  # tokens of all workers' texts
    cells: int  # the same with padding
    sides: dict[str, Chunked]  # side -> the worker's texts
    order: np.ndarray  # (M,) int32: where each document of the global order stands in the workers' concatenation
    excluded: np.ndarray  # (N, M) float32: 1 where a document may not count as the query's negative
    negatives: np.ndarray  # (N, K) int32 columns of sampled negatives, -1 for none; (N, 0) where the loss needs none
    grades: np.ndarray  # (n,) float32 relevance of this worker's pairs


class Known:
    """Which documents are known to be relevant or irrelevant for a query, in five bytes per pair."""

    def __init__(self, queries: np.ndarray, documents: np.ndarray, relevant: np.ndarray, size: int) -> None:
        """(P,) rows of queries and of documents and whether they belong together; `size` queries."""
        order = np.argsort(queries, kind="stable")
        self._documents, self._relevant = documents[order], relevant[order]
        self._ends = np.cumsum(np.bincount(queries, minlength=size), dtype=np.int32)

    def relevant(self, query: int) -> np.ndarray:
        """(n,) int32 ascending documents that a pair says to be relevant."""
        part = self._part(query)
        return np.unique(self._documents[part][self._relevant[part]])

    def irrelevant(self, query: int) -> np.ndarray:
        """(n,) int32 ascending documents that pairs say to be irrelevant, and none to be relevant."""
        part = self._part(query)
        return np.setdiff1d(self._documents[part][~self._relevant[part]], self.relevant(query))

    def _part(self, query: int) -> slice:
        return slice(int(self._ends[query - 1]) if query else 0, int(self._ends[query]))


class Matching(Task):
    """The task. Ranking losses learn from the relevant pairs alone, the pointwise loss from all."""

    sides = SIDES

    def __init__(self, config: Config, folder: Path) -> None:
        super().__init__(config, folder)
        self.pointwise = config.train.loss.kind == "pointwise"

    @functools.cached_property
    def examples(self) -> np.ndarray:
        """(N,) int32: the records to learn from."""
        relevance = self.train.relevance
        if self.pointwise:
            matching_evaluation.check_grades(relevance, self.config.train.loss.grades, "train")
            return np.arange(len(relevance), dtype=np.int32)
        relevant = np.flatnonzero(relevance > 0).astype(np.int32)
        if not len(relevant):
            raise InputError(f"the training split under {self.folder} has no relevant pair: check ingest.source")
        return relevant

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """(N, 2), two bytes each if they fit: together with an epoch's order they are most of what grows with N."""
        fits = all(self.config.tokenize.limit(side) <= np.iinfo(np.uint16).max for side in SIDES)
        found = np.empty((len(self.examples), len(SIDES)), np.uint16 if fits else np.int32)
        for column, side in enumerate(SIDES):
            found[:, column] = self.train.fields[side].lengths_of(self.train.rows[side][self.examples])
        self.train.release()
        return found

    @functools.cached_property
    def _known(self) -> Known:
        rows = self.train.rows
        return Known(rows["query"], rows["document"], self.train.relevance > 0, len(self.train.fields["query"]))

    def prepare(self) -> None:
        """See Task: what is known of the training pairs."""
        _ = self._known

    def network(self) -> Matcher:
        """Towers and head, with one output per logit of the loss."""
        loss = self.config.train.loss
        outputs = loss.grades - (loss.link == "ordinal") if self.pointwise else 0
        return Matcher(self.config.model, shards.vocabulary_size(self.folder), outputs, prefix="matcher_")

    # --- batches ------------------------------------------------------------------------------------------------------
    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> PairBatch:
        """See PairBatch. Every worker draws the same listed and sampled negatives from `seed`."""
        rng = np.random.default_rng(seed)
        pairs = [self.examples[share] for share in shares]
        listed = [self._listed_negatives(self.train.rows["query"][rows], rng) for rows in pairs]
        texts = {
            "query": [self.train.rows["query"][rows] for rows in pairs],
            "document": [np.concatenate([self.train.rows["document"][r], m]) for r, m in zip(pairs, listed)],
        }
        fields = self.train.fields
        tokens = distinct_tokens([(fields[side], rows) for side in SIDES for rows in texts[side]])
        sides = {side: chunked(fields[side], texts[side], rank, tokens) for side in SIDES}
        order = _global_order([len(rows) for rows in pairs], [len(rows) for rows in listed])
        queries, documents = np.concatenate(texts["query"]), np.concatenate(texts["document"])[order]
        excluded = np.zeros((0, 0), np.float32) if self.pointwise else self._excluded(queries, documents)
        return PairBatch(
            tokens=tokens,
            real=sum(side.real for side in sides.values()),
            cells=sum(side.cells for side in sides.values()),
            sides=sides,
            order=order,
            excluded=excluded,
            negatives=self._sampled_negatives(excluded, rng),
            grades=self.train.relevance[pairs[rank]].astype(np.float32),
        )

    def _listed_negatives(self, queries: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Document rows judged irrelevant for these queries, up to `listed_negatives` for each."""
        wanted = self.config.train.loss.listed_negatives
        chosen: list[np.ndarray] = []
        for query in queries.tolist() if wanted and not self.pointwise else ():
            chosen.append(rng.permutation(self._known.irrelevant(query))[:wanted])
        return np.concatenate(chosen).astype(np.int32) if chosen else np.zeros(0, np.int32)

    def _excluded(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """(N, M): documents known to be relevant for a query too (its own column excepted), the same text included."""
        relevant = [np.isin(documents, self._known.relevant(query)) for query in queries.tolist()]
        excluded = np.array(relevant, np.float32).reshape(len(queries), len(documents))
        np.fill_diagonal(excluded, 0)
        return excluded

    def _sampled_negatives(self, excluded: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        loss = self.config.train.loss
        if loss.kind != "hinge":
            return np.zeros((len(excluded), 0), np.int32)
        chosen = np.full((len(excluded), loss.negatives), -1, np.int32)
        for row, barred in enumerate(excluded):
            allowed = np.flatnonzero(barred == 0)
            allowed = rng.permutation(allowed[allowed != row])[: loss.negatives]
            chosen[row, : len(allowed)] = allowed
        return chosen

    # --- loss ---------------------------------------------------------------------------------------------------------
    def loss(self, network: Matcher, table: nd.NDArray | None, batch: PairBatch, world: World) -> StepLoss:
        """Graded: each worker's pairs by themselves. Ranking: each worker's queries against all workers' documents."""
        assert table is not None, "the matcher's embedding is updated row by row"
        context = table.context
        packed = {side: network.packed(side, table.context) for side in SIDES[: len(network.towers)]}
        own = {side: self._represent(network, side, table, batch, packed.get(side, packed["query"])) for side in SIDES}
        if not self.pointwise:
            return self._ranking_loss(network, own, batch, world)
        logits = network.pair_outputs(own["query"], own["document"])
        grades = nd.array(batch.grades, context)
        link = losses.graded_softmax if self.config.train.loss.link == "softmax" else losses.ordinal
        # workers may hold different numbers of pairs: weigh their means so that the average over workers is the mean
        # of all
        weight = len(batch.grades) * world.size / sum(batch.sides["query"].counts)
        value = link(logits, grades, self._weights(batch.grades, context)) * weight
        return StepLoss(value, value)

    @functools.cached_property
    def _class_weights(self) -> np.ndarray:
        return losses.balanced(self.train.relevance, self.config.train.loss.grades)

    def _weights(self, grades: np.ndarray, context: Context) -> nd.NDArray | None:
        """(n,) how much each pair of a worker counts; None: all alike."""
        if self.config.train.class_weights == "none":
            return None
        return nd.array(self._class_weights[grades.astype(np.int64)], context)

    def _represent(
        self, network: Matcher, side: str, table: nd.NDArray, batch: PairBatch, packed: list[nd.NDArray]
    ) -> Representation:
        """The worker's texts of one side, chunk by chunk, put back in the order of its pairs."""
        context, late = table.context, self.config.model.head == "late_interaction"
        parts = [
            network.represent(
                side, table, nd.array(c.ids, context, "int32"), nd.array(c.lengths, context, "int32"), packed
            )
            for c in batch.sides[side].chunks
        ]
        if len(parts) == 1 and not late:
            together = list(parts[0])
        else:
            steps = max(c.ids.shape[0] for c in batch.sides[side].chunks)
            together = [
                nd.concat(*(_with_steps(part[i], steps) if late else part[i] for part in parts), dim=0)
                for i in range(len(Representation._fields))
            ]
        back = nd.array(batch.sides[side].back, context, "int32")
        return Representation(*(nd.take(array, back) for array in together))

    def _ranking_loss(
        self, network: Matcher, own: dict[str, Representation], batch: PairBatch, world: World
    ) -> StepLoss:
        """The loss over all workers' representations, computed whole on every worker from gathered copies.

        Its gradient with respect to the copies is taken at once; the objective returned is the inner product of this
        worker's own representations with their part of that gradient, times the number of workers (the workers'
        gradients are averaged later). So no gradient has to travel back through an exchange, and N workers of B pairs
        get exactly what one worker of N B pairs gets. The representations are detached as in Gao et al., "Scaling
        deep contrastive learning batch size under memory limited setup", 2021.
        """
        with autograd.pause():
            everyone = {side: self._gather(side, own[side], batch, world) for side in SIDES}
            leaves = [array for side in SIDES for array in everyone[side]]
            for leaf in leaves:
                leaf.attach_grad()
        with autograd.record():
            documents = Representation(*(nd.take(x, nd.array(batch.order, x.context)) for x in everyone["document"]))
            value = self._loss_of(network.score_all(everyone["query"], documents), batch)
        value.backward()
        objective = nd.zeros(1, ctx=value.context)
        for side in SIDES:
            for mine, everyones in zip(own[side], everyone[side]):
                start = sum(batch.sides[side].counts[: world.rank])
                part = everyones.grad[start : start + mine.shape[0]]
                if mine.ndim > 1 and mine.shape[1] != part.shape[1]:
                    part = nd.slice_axis(part, axis=1, begin=0, end=mine.shape[1])
                objective = objective + (mine * part).sum()
        return StepLoss(objective * world.size, value.detach())

    def _loss_of(self, pair_scores: nd.NDArray, batch: PairBatch) -> nd.NDArray:
        config, context = self.config.train.loss, pair_scores.context
        positives = nd.arange(pair_scores.shape[0], ctx=context)
        if config.kind == "hinge":
            return losses.hinge(pair_scores, positives, nd.array(batch.negatives, context), config.margin)
        return losses.in_batch_softmax(pair_scores, positives, nd.array(batch.excluded, context), config.temperature)

    def _gather(self, side: str, own: Representation, batch: PairBatch, world: World) -> Representation:
        """Copies of all workers' representations, in rank order, padded to the longest text of any."""
        gathered = []
        for name, array in zip(Representation._fields, own):
            array = array.detach()
            steps = batch.sides[side].steps
            if self.config.model.head == "late_interaction":
                array = _with_steps(array, steps)
            gathered.append(world.gather(array, f"{side}.{name}") if world.size > 1 else array.copy())
        return Representation(*gathered)

    # --- judging ------------------------------------------------------------------------------------------------------
    def validate(self, network: Matcher, world: World) -> dict[str, float]:
        """Means of the configured kinds of metrics on the validation split."""
        return matching_evaluation.validate(self.config, self.folder, network, world)

    def evaluate(self, network: Matcher, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        """Tables against the baselines, and the queries won and lost; see matching_evaluation."""
        return matching_evaluation.evaluate(self.config, self.folder, network, world, ingested, folder)


def _with_steps(array: nd.NDArray, steps: int) -> nd.NDArray:
    """(N, T, …) lengthened by zeros to (N, steps, …)."""
    if array.shape[1] == steps:
        return array
    filler = nd.zeros((array.shape[0], steps - array.shape[1], *array.shape[2:]), ctx=array.context)
    return nd.concat(array, filler, dim=1)


def _global_order(pairs: list[int], listed: list[int]) -> np.ndarray:
    """Rows of the workers' concatenated documents: all pairs' own first, then all listed negatives."""
    starts = np.cumsum([0, *(p + m for p, m in zip(pairs, listed))])
    own = [np.arange(start, start + p) for start, p in zip(starts, pairs)]
    rest = [np.arange(start + p, start + p + m) for start, p, m in zip(starts, pairs, listed)]
    return np.concatenate(own + rest).astype(np.int32)


TASK = Matching
