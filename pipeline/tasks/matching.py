"""Query-document matching: pairs in, a score per pair out, judged as a ranking or as grades."""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mxnet import Context, autograd, nd

from pipeline.config.memory import MAX_SCORES
from pipeline.core import derived_arrays
from pipeline.core.errors import InputError
from pipeline.distributed.world import World, steady
from pipeline.evaluation import confidence, overlap
from pipeline.models.devices import on_device
from pipeline.models.losses import balanced
from pipeline.models.matcher import SIDES, Matcher, Representation
from pipeline.tasks import known_pairs, matching_answers, matching_evaluation, matching_grades, matching_teaching
from pipeline.tasks.base import NOT_HERE, StepLoss, Task
from pipeline.tasks.known_pairs import Known
from pipeline.tasks.length_bucketing import Chunked, chunked, distinct_tokens
from pipeline.tasks.matching_teaching import FURTHER, Taught, Teacher
from pipeline.tasks.mining import NAME as MINED
from pipeline.tasks.update_arrays import arrays_of, both, filled, named, part_of, summed
from pipeline.tokenization import shards

STEPS = 8  # the tokens of documents that workers give each other are filled up to a multiple, for steady shapes


class PairBatch(NamedTuple):
    """n pairs and m documents of one worker, the pairs' own and then listed negatives; N and M over all workers.

    Ids point into `tokens`, are time first, and 0 on padding. In the global order of documents all pairs' own come
    first, worker by worker, then all listed negatives, so that it does not depend on the number of workers. What is
    below `counts` is known when the workers have told each other their documents; see `Matching.joined`.
    """

    tokens: np.ndarray  # (U,) int32, ascending, the texts' token ids and 0
    real: int  # tokens of the texts
    cells: int  # the same with padding
    sides: dict[str, Chunked]
    queries: np.ndarray  # (n,) int32 rows
    documents: np.ndarray  # (m,) int32 rows
    grades: np.ndarray  # (n,) float32 relevance of the pairs
    draws: list[list[int]]  # a seed for each pair's negatives
    counts: list[int]  # pairs of each worker
    first: int  # pairs of the workers before this one
    room: int  # documents of any worker, at most
    height: int = 0  # documents that each worker gives to the others, padding included
    steps: int = 0  # tokens of the longest document of any worker, or some more
    order: np.ndarray | None = None  # (M,) int32: where each document of the global order stands in what is given
    excluded: np.ndarray = np.zeros((2, 0), np.int32)  # (2, k) pair and column that may not be its negative
    negatives: np.ndarray = np.zeros((0, 0), np.int32)  # (n, K) columns of sampled negatives, -1 for none
    known: "Scored | None" = None  # where this is a part of a worker's share: see `Matching.ahead`
    taught: Taught | None = None  # where there is a teacher


class Scored(NamedTuple):
    """What scoring gives for n pairs and m documents of one worker, on the device."""

    value: nd.NDArray  # (1,)
    gradients: list[nd.NDArray]  # of the queries' and of the documents' representations, in this order


class Matching(Task):
    """The task. Ranking losses learn from the relevant pairs alone, graded ones from all."""

    sides = SIDES

    @functools.cached_property
    def examples(self) -> np.ndarray:
        """See Task: of a ranking loss the relevant ones."""
        relevance = self.train.relevance
        if self.config.train.loss.graded:
            matching_grades.check(relevance, self.config.train.loss.grades, "train")
            return super().examples
        relevant = self.derived("relevant", functools.partial(derived_arrays.selected, self._relevant, len(relevance)))
        if not len(relevant):
            raise InputError(f"the training split under {self.folder} has no relevant pair: check ingest.source")
        return relevant

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """See Task: where sides may be exchanged, each is as long as the longer one, for batches to be planned by."""
        lengths = super().lengths
        return np.repeat(lengths.max(axis=1, keepdims=True), 2, axis=1) if self.config.train.swap_share else lengths

    def _relevant(self, records: slice) -> np.ndarray:
        return self.train.relevance[records] > 0

    @functools.cached_property
    def _known(self) -> Known:
        return known_pairs.of(self.train, self.derived)

    @functools.cached_property
    def _teacher(self) -> Teacher | None:
        if self.taught is None and self.config.teach.who:
            raise InputError(NOT_HERE)
        return Teacher(self.taught, self.config.teach) if self.taught else None

    @functools.cached_property
    def _mined(self) -> np.ndarray | None:
        """(queries, k) int32 rows of documents, -1 behind them; a file that is mapped."""
        if "mine" not in self.others:
            if self.config.mine.by:
                raise InputError("the mined negatives are not here: put the folder of the stage mine back")
            return None
        return np.asarray(np.load(self.others["mine"] / MINED, mmap_mode="r"))

    def prepare(self) -> None:
        """See Task: what is known of the training pairs, what the teacher says, and what was mined."""
        _ = self._known, self._teacher, self._mined

    def network(self) -> Matcher:
        """Towers and head, with one output per logit of the loss; while it is taught, also the map to the teacher."""
        vocabulary, outputs = shards.vocabulary_size(self.folder), self.config.train.loss.outputs
        width = self._teacher.width if self.taught and self._teacher else 0
        return Matcher(self.config.model, vocabulary, outputs, width, prefix="matcher_")

    # --- batches ------------------------------------------------------------------------------------------------------
    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> PairBatch:
        """See PairBatch. A pair's listed and sampled negatives are drawn from `seed` and its number."""
        records = self.examples[shares[rank]]
        queries, draws = self.train.rows["query"][records], [[*seed, record] for record in records.tolist()]
        listed = self._listed_negatives(queries, draws)
        documents = np.concatenate([self.train.rows["document"][records], listed])
        texts = {side: self.read(side, r, seed) for side, r in zip(SIDES, (queries, documents))}
        self._exchange_some(texts, draws)
        counts, more = [len(share) for share in shares], 0
        further = np.zeros(0, np.int64)
        if self._teacher:
            further, more = self._teacher.drawn(len(shares), rank, seed)
            texts |= {FURTHER: self._teacher.texts(further)} if len(further) else {}
        tokens = distinct_tokens(text for several in texts.values() for text in several)
        sides = {side: chunked(several, tokens, self.rows_per_step) for side, several in texts.items()}
        taught = None
        if self._teacher:
            rows = {"query": queries, "document": documents, FURTHER: further}
            taught = self._teacher.batch(rows, sides.get(FURTHER), 2 * sum(counts) + more)
        wanted = 0 if self.config.train.loss.graded else self.config.train.loss.listed_negatives
        return PairBatch(
            tokens=tokens,
            real=sum(side.real for side in sides.values()),
            cells=sum(side.cells for side in sides.values()),
            sides=sides,
            queries=queries,
            documents=documents,
            grades=self.train.relevance[records].astype(np.float32),
            draws=draws,
            counts=counts,
            first=sum(counts[:rank]),
            room=max(counts) * (1 + wanted),
            taught=taught,
        )

    def _exchange_some(self, texts: dict[str, list[np.ndarray]], draws: list[list[int]]) -> None:
        """Exchanges both texts of the pairs that are drawn by train.swap_share."""
        share, (queries, documents) = self.config.train.swap_share, (texts[side] for side in SIDES)
        for pair, seed in enumerate(draws if share else ()):
            if np.random.default_rng([*seed, 4]).random() < share:
                queries[pair], documents[pair] = documents[pair], queries[pair]

    def _listed_negatives(self, queries: np.ndarray, draws: list[list[int]]) -> np.ndarray:
        """Document rows judged irrelevant for these queries, or mined, up to `listed_negatives` for each."""
        wanted = self.config.train.loss.listed_negatives
        chosen = [np.zeros(0, np.int32)]
        for query, seed in zip(queries.tolist(), draws) if wanted and not self.config.train.loss.graded else ():
            listed = self._known.irrelevant(query)
            if self._mined is not None:
                mined = self._mined[query]
                listed = np.union1d(listed, mined[mined >= 0])
            chosen.append(np.random.default_rng(seed).permutation(listed)[:wanted])
        return np.concatenate(chosen).astype(np.int32)

    def told(self, batch: PairBatch) -> np.ndarray:
        """See Task: how many documents there are, their tokens at most, and their rows."""
        if self.config.train.loss.graded:
            return np.zeros(0, np.int32)
        told = np.zeros(2 + steady(batch.room), np.int32)
        told[:2] = len(batch.documents), batch.sides["document"].steps
        told[2 : 2 + len(batch.documents)] = batch.documents
        return told

    def joined(self, batch: PairBatch, told: np.ndarray, rank: int) -> PairBatch:
        """See Task: the columns of the documents and which of them are no negatives of this worker's queries."""
        if self.config.train.loss.graded:
            return batch
        several, counts = len(told) > 1, np.array(batch.counts)
        height = steady(int(told[:, 0].max())) if several else len(batch.documents)
        pairs = [(worker, start, count) for worker, (start, count) in enumerate(zip(0 * counts, counts))]
        listed = [(worker, count, told[worker, 0] - count) for worker, count in enumerate(counts)]
        order = np.concatenate([worker * height + start + np.arange(n) for worker, start, n in [*pairs, *listed]])
        documents = told[:, 2:][np.divmod(order, height)]
        excluded = self._known.relevant_among(batch.queries, documents)
        excluded = excluded[:, excluded[1] != batch.first + excluded[0]]
        steps, taught = int(told[:, 1].max()), batch.taught
        if self._teacher and taught:
            more = len(documents) - int(counts.sum())
            taught = self._teacher.joined(taught, batch.queries, documents, batch.first, more)
        return batch._replace(
            height=height,
            steps=min(-(-steps // STEPS) * STEPS, self.config.tokenize.limit("document")) if several else steps,
            order=order.astype(np.int32) if several else None,
            excluded=excluded,
            negatives=self._sampled_negatives(excluded, len(documents), batch.first, batch.draws),
            taught=taught,
        )

    def _sampled_negatives(self, excluded: np.ndarray, columns: int, first: int, draws: list[list[int]]) -> np.ndarray:
        """(n, K) distinct columns for each pair, neither its own (`first` + its number) nor excluded; -1 for none."""
        drawn = self.config.train.loss.drawn
        chosen = np.full((len(draws), drawn), -1, np.int32)
        for row, seed in enumerate(draws if drawn else ()):
            barred = np.append(excluded[1][excluded[0] == row], first + row)
            barred.sort()
            allowed = columns - len(barred)
            places = np.random.default_rng([*seed, 1]).choice(max(allowed, 0), min(allowed, drawn), replace=False)
            # the p-th column that is not barred: as many barred ones are before it as stand at p or before, counted so
            chosen[row, : len(places)] = places + np.searchsorted(barred - np.arange(len(barred)), places, side="right")
        return chosen

    # --- loss ---------------------------------------------------------------------------------------------------------
    def loss(self, network: Matcher, table: nd.NDArray | None, batch: PairBatch, world: World) -> StepLoss:
        """Graded: each worker's pairs by themselves. Ranking: each worker's queries against all workers' documents."""
        assert table is not None, "the matcher's embedding is updated row by row"
        own = self._own(network, table, batch, (*SIDES, FURTHER))
        graded, taught, teach = self.config.train.loss.graded, batch.taught, self.config.teach
        found = (self._graded_loss if graded else self._ranking_loss)(network, own, batch, world)
        if taught is None:
            return found
        if graded:  # of a ranking loss, `_piece` has mixed it
            found = StepLoss(*((1 - teach.weight) * x for x in found))
        if not taught.vectors:
            return found
        distance = matching_teaching.regression(network, own, taught, world.size) * (
            teach.weight * teach.embedding_weight
        )
        return StepLoss(*(x + distance for x in found))

    def _graded_loss(
        self, network: Matcher, own: dict[str, Representation], batch: PairBatch, world: World
    ) -> StepLoss:
        context = own["query"].vectors.context
        logits = network.pair_outputs(own["query"], own["document"])
        grades = nd.array(batch.grades, context)
        loss, weights = self.config.train.loss, self._weights(batch.grades, context)
        values = loss.formula.values(nd, logits, grades, loss.formula_options)
        values = loss.checked(values, grades.shape)
        # workers may hold different numbers of pairs: weigh their means so that the average over workers is the mean
        # of all
        weight = len(batch.grades) * world.size / sum(batch.counts)
        value = (values if weights is None else values * weights).mean().reshape(1) * weight
        return StepLoss(value, value)

    def ahead(
        self,
        network: Matcher,
        tables: Sequence[nd.NDArray | None],
        batches: list[PairBatch],
        world: World,
        draw: Callable[[int], None],
    ) -> list[PairBatch]:
        """See Task. A ranking loss is over the documents of all parts: all texts are encoded once, without keeping how,
        to know the gradient of each; `loss` then encodes a part's texts again, to take the gradient further back."""
        if self.config.train.loss.graded:
            return batches
        owns = []
        for part, (table, batch) in enumerate(zip(tables, batches)):
            assert table is not None, "the matcher's embedding is updated row by row"
            draw(part)
            owns.append(self._own(network, table, batch))
        scored = self._scored(network, owns, batches, world)
        return [batch._replace(known=known) for batch, known in zip(batches, scored)]

    @functools.cached_property
    def _class_weights(self) -> np.ndarray:
        return balanced(self.train.relevance, self.config.train.loss.grades)

    def _weights(self, grades: np.ndarray, context: Context) -> nd.NDArray | None:
        """(n,) how much each pair of a worker counts; None: all alike."""
        if self.config.train.class_weights == "none":
            return None
        return nd.array(self._class_weights[grades.astype(np.int64)], context)

    def _own(
        self, network: Matcher, table: nd.NDArray, batch: PairBatch, names: tuple[str, ...] = SIDES
    ) -> dict[str, Representation]:
        """Both sides of a batch, encoded, and a teacher's further texts as documents are, if there are any."""
        packed = {side: network.packed(side, table.context) for side in SIDES[: len(network.towers)]}
        arrays = {name: batch.sides[name].arrays for name in names if name in batch.sides}
        given = iter(on_device(table.context, *itertools.chain(*arrays.values())))
        own = {}
        for name, parts in arrays.items():
            side = "query" if name == "query" else "document"
            texts, steps = list(itertools.islice(given, len(parts))), batch.sides[name].steps
            own[name] = self._represent(network, side, table, texts, steps, packed.get(side, packed["query"]))
        return own

    def _represent(
        self, network: Matcher, side: str, table: nd.NDArray, texts: list[nd.NDArray], steps: int,
        packed: list[nd.NDArray],
    ) -> Representation:  # fmt: skip
        """The worker's texts of one side, chunk by chunk, put back in the order of its pairs.

        Args:
            texts: what `Chunked.arrays` gives; steps: tokens of the longest.
        """
        *chunks, back = texts
        parts = [
            network.represent(side, table, ids, lengths, packed) for ids, lengths in zip(chunks[::2], chunks[1::2])
        ]
        if not network.by_token:
            vectors = [part.vectors for part in parts]
            return Representation(nd.take(nd.concat(*vectors, dim=0) if len(parts) > 1 else vectors[0], back), None)
        return Representation(
            *(nd.take(nd.concat(*(filled(x, 1, steps) for x in xs), dim=0), back) for xs in zip(*parts))
        )

    def _ranking_loss(
        self, network: Matcher, own: dict[str, Representation], batch: PairBatch, world: World
    ) -> StepLoss:
        """The loss of this worker's queries over all workers' documents, of which copies are gathered.

        Its gradient with respect to queries and copies is taken at once, and each worker gets the sum of all workers'
        gradients of its own documents. The objective returned is the inner product of the worker's representations
        with those gradients. So no gradient has to travel back through an exchange, and N workers of B pairs get what
        one worker of N B pairs gets, each at an N-th of the work. The representations are detached as in Gao et al.,
        "Scaling deep contrastive learning batch size under memory limited setup", 2021.
        """
        known = batch.known or self._scored(network, [own], [batch], world)[0]
        products = []
        for x, gradient in zip([x for side in SIDES for x in arrays_of(own[side])], known.gradients):
            for axis, length in enumerate(x.shape[:2]):
                gradient = part_of(gradient, axis, 0, length)
            products.append((x * gradient).sum())
        return StepLoss(functools.reduce(operator.add, products), known.value)

    def _scored(
        self, network: Matcher, owns: list[dict[str, Representation]], batches: list[PairBatch], world: World
    ) -> list[Scored]:
        """The values and gradients of all of this worker's parts; see `_ranking_loss`."""
        with autograd.pause():
            queries = [[x.detach() for x in arrays_of(own["query"])] for own in owns]
            documents, share = self._everyones([arrays_of(own["document"]) for own in owns], batches, world)
            pieces = [self._pieces(network, mine, documents, batch) for mine, batch in zip(queries, batches)]
            for leaf in [*(x for mine in queries for x in mine), *documents]:
                leaf.attach_grad("add" if len(pieces) > 1 or len(pieces[0]) > 1 else "write")
        values = [
            summed(
                [functools.partial(self._piece, network, mine, documents, batch, p, share, world.size) for p in these],
                network.scoring_parameters,
            )
            for mine, batch, these in zip(queries, batches, pieces)
        ]
        gradients = [x.grad for x in documents]
        if world.size > 1:
            gradients = world.sum_parts(gradients, named("gradient of documents", gradients))
        heights = [batch.height * part for part, batch in enumerate(batches)]
        return [
            Scored(value, [*(x.grad for x in mine), *(part_of(g, 0, at, at + batch.height) for g in gradients)])
            for value, mine, batch, at in zip(values, queries, batches, heights)
        ]

    def _everyones(
        self, owns: list[list[nd.NDArray]], batches: list[PairBatch], world: World
    ) -> tuple[list[nd.NDArray], nd.NDArray | float]:
        """Copies of all workers' documents, and the number of workers by what the global mean is a mean over.

        Each part gives as many documents of as many tokens as the others, zeros behind its own.
        """
        sampled = float(sum((batch.negatives >= 0).sum() for batch in batches))
        drawn, pairs = self.config.train.loss.drawn, sum(batches[0].counts)
        if world.size == len(owns) == 1:
            return [x.detach() for x in owns[0]], 1 / max(sampled if drawn else pairs, 1)
        parts = [[filled(x.detach(), 0, batch.height) for x in own] for own, batch in zip(owns, batches)]
        if self.config.model.scored_by.by_token:
            parts = [[filled(x, 1, batch.steps) for x in part] for part, batch in zip(parts, batches)]
        arrays = [nd.concat(*several, dim=0) if len(several) > 1 else several[0] for several in zip(*parts)]
        if world.size == 1:
            return arrays, 1 / max(sampled if drawn else pairs, 1)
        if drawn:  # a mean over negatives, of which a pair has fewer where there are few documents
            arrays.append(nd.full(1, sampled, ctx=arrays[0].context))
        copies = world.gather_equal(arrays, named("documents", arrays))
        if not drawn:
            return copies, world.size / pairs
        return copies[:-1], world.size / nd.maximum(copies[-1].sum(), 1)

    def _pieces(
        self, network: Matcher, queries: list[nd.NDArray], documents: list[nd.NDArray], batch: PairBatch
    ) -> list[slice]:
        """Cuts a part's queries so that what scoring each piece needs stays below MAX_SCORES numbers."""
        count = len(batch.queries)
        each = network.numbers_per_score(queries[0], documents[0]) * len(documents[0])
        step = max(1, min(count, MAX_SCORES // each))
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def _piece(
        self,
        network: Matcher,
        queries: list[nd.NDArray],
        documents: list[nd.NDArray],
        batch: PairBatch,
        piece: slice,
        share: nd.NDArray | float,
        workers: int,
    ) -> nd.NDArray:
        """What a piece of these queries adds to the worker's value, (1,)."""
        loss, context, rows = self.config.train.loss, queries[0].context, piece.stop - piece.start
        if rows < len(batch.queries):
            queries = [nd.slice_axis(x, axis=0, begin=piece.start, end=piece.stop) for x in queries]
        if batch.order is not None:
            order = nd.array(batch.order, context, "int32")
            documents = [nd.take(x, order) for x in documents]
        scores = network.score_all(Representation(*both(queries)), Representation(*both(documents)))
        positives = nd.arange(rows, ctx=context) + (batch.first + piece.start)
        excluded = negatives = None
        places = batch.excluded[:, (batch.excluded[0] >= piece.start) & (batch.excluded[0] < piece.stop)]
        if loss.drawn:
            negatives = nd.array(batch.negatives[piece], context)
        elif places.shape[1]:
            places = nd.array(places - [[piece.start], [0]], context, "int32")
            excluded = nd.scatter_nd(nd.ones(places.shape[1], ctx=context), places, shape=scores.shape)
        over = float((batch.negatives[piece] >= 0).sum()) if loss.drawn else rows
        value = loss.formula.value(nd, scores, positives, excluded, negatives, loss.formula_options)
        value = loss.checked(value, (1,)) * (share * over)
        if batch.taught is None:
            return value
        each = workers / sum(batch.counts)
        return matching_teaching.mixed(value, scores, positives, batch.taught, piece, self.config, each)

    # --- judging ------------------------------------------------------------------------------------------------------
    def validate(self, network: Matcher, world: World) -> dict[str, float]:
        """Means of the configured kinds of metrics on the validation split."""
        return matching_evaluation.validate(self.config, self.folder, network, world)

    def evaluate(self, network: Matcher, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        """Tables against the baselines, and the queries won and lost; see matching_evaluation."""
        answering = confidence.load_answering(self.trained)
        joined = overlap.load(self.trained, self.config.train.loss.grades)
        return matching_evaluation.evaluate(
            self.config, self.folder, network, world, ingested, folder, answering, joined
        )

    def finish(self, network: Matcher, world: World, folder: Path) -> None:
        """Chosen on the validation split: what the grades of pairs are joined with, and which answers are sure."""
        if self.config.joins_overlap:
            matching_grades.choose(self.config, self.folder, network, world, folder)
        if self.config.train.sure_precision is not None:
            matching_answers.choose(self.config, self.folder, network, world, folder)
