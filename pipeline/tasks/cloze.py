"""Cloze: words taken out of a passage and filled in from both sides; beside it, from the left alone."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mxnet import Context, nd

from pipeline.config import ClozeConfig
from pipeline.core.atomic_files import as_json
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation.judged import Judged, shown
from pipeline.models.cloze import Cloze
from pipeline.models.sampled import Sampler, chances_of
from pipeline.tasks import decoding
from pipeline.tasks.base import StepLoss, Task, texts_of
from pipeline.tasks.decoding import BEST, SPECIAL
from pipeline.tasks.length_bucketing import Chunked, chunked, distinct_tokens, like_lengths
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import UNKNOWN_ID, load_tokenizer


class ClozeBatch(NamedTuple):
    """The passages of one worker, with blanks."""

    tokens: np.ndarray  # (U,) int32, ascending, the passages' token ids, 0 and the blank
    real: int  # tokens of the passages
    cells: int  # the same with padding
    texts: Chunked  # ids with blanks in them
    places: list[np.ndarray]  # for each chunk (B,) int32: step * texts + text of each word to say
    words: list[np.ndarray]  # for each chunk (B,) int32: these words
    total: int  # words to say, of all workers
    candidates: np.ndarray  # (S,) int32 drawn for a sampled softmax, the same for all workers; else empty


class FillIn(Task):
    """Cross entropy of all known words, whether they were taken out or not: see models.cloze.Reader.

    Some are taken out in training as well, for the other words to be said beside blanks.
    """

    @property
    def options(self) -> ClozeConfig:
        """The task's own settings."""
        return self.config.options(ClozeConfig)

    @functools.cached_property
    def vocabulary(self) -> int:
        """V; the blank's id."""
        return shards.vocabulary_size(self.folder)

    @functools.cached_property
    def _sampler(self) -> Sampler:
        return Sampler(chances_of(decoding.running_text(self.train), self.vocabulary), self.options.sampled)

    def network(self) -> Cloze:
        if self.options.sampled >= self.vocabulary:
            raise decoding.too_many_sampled("cloze", self.options.sampled, self.vocabulary)
        return Cloze(self.config.model, self.vocabulary, self.options.compare_left, prefix="cloze_")

    def _blanks(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return decoding.drawn_blanks(ids, self.options.blank_share, rng)

    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> ClozeBatch:
        """See ClozeBatch. A passage's blanks depend on the update and on its number, not on the worker."""
        rows = self.train.rows["text"][shares[rank]]
        read = self.train.fields["text"].read(rows)
        candidates = np.zeros(0, np.int32)
        if self.options.sampled:
            candidates = self._sampler.draw(np.random.default_rng([*seed, self.vocabulary]))
            tokens = np.append(distinct_tokens(read), candidates)
            tokens = np.unique(np.append(tokens, self.vocabulary)).astype(np.int32)
        else:
            tokens = np.arange(self.vocabulary + 1, dtype=np.int32)
        texts = chunked(read, rows_per_step=self.rows_per_step)
        masks = [self._blanks(read[i], np.random.default_rng([*seed, int(rows[i])])) for i in texts.rows.tolist()]
        chunks, places, words, start = [], [], [], 0
        for chunk in texts.chunks:
            ends = start + len(chunk.lengths)
            known = [ids[:length] != UNKNOWN_ID for ids, length in zip(chunk.ids.T, chunk.lengths.tolist())]
            place, word = _at(chunk.ids, known)
            places.append(place)
            words.append(word)
            hidden = _hidden(chunk.ids, masks[start:ends], self.vocabulary)
            chunks.append(chunk._replace(ids=np.searchsorted(tokens, hidden).astype(np.int32)))
            start = ends
        total = sum(int((ids != UNKNOWN_ID).sum()) for ids in read)
        return ClozeBatch(
            tokens, texts.real, texts.cells, texts._replace(chunks=chunks), places, words, total, candidates
        )

    def told(self, batch: ClozeBatch) -> np.ndarray:
        """See Task: how many words are learned from."""
        return np.array([batch.total], np.int32)

    def joined(self, batch: ClozeBatch, told: np.ndarray, rank: int) -> ClozeBatch:
        return batch._replace(total=max(1, int(told.sum())))

    def loss(self, network: Cloze, table: nd.NDArray | None, batch: ClozeBatch, world: World) -> StepLoss:
        """The mean over all workers' words; the readers' losses are added, and so learn apart from each other."""
        assert table is not None, "the embedding is updated row by row"
        context = table.context
        total, own = nd.zeros(1, ctx=context), nd.zeros(1, ctx=context)
        for chunk, places, words in zip(batch.texts.chunks, batch.places, batch.words):
            if not len(words):
                continue
            expected = network(
                table,
                nd.array(chunk.ids, context, "int32"),
                nd.array(chunk.lengths, context, "int32"),
                nd.array(places, context, "int32"),
            )
            if len(batch.candidates):
                candidates = self._sampler.candidates(batch.candidates, words)
                losses = network.sampled_losses(expected, words, candidates, batch.tokens)
            else:
                losses = network.losses(expected, words)
            sums = {name: values.sum() for name, values in losses.items()}
            total = total + sum(sums.values())
            own = own + sums["both"]
        # the average over workers of these is the mean over all words, whatever each worker's number of them
        share = world.size / batch.total
        return StepLoss(total * share, own * share)

    # --- judging ------------------------------------------------------------------------------------------------------
    def _filled(self, network: Cloze, passages: list[np.ndarray], masks: list[np.ndarray], context: Context) -> Any:
        """For each passage each reader's log probabilities at its blanks: lists of {reader: (B, V)}."""
        lengths = np.array([len(ids) for ids in passages], np.int32)
        table = network.embedding.data(context)
        log_probabilities: list[dict[str, np.ndarray]] = [{} for _ in passages]
        for part in like_lengths(lengths, cells=4096):
            ids = shards.padded([passages[place] for place in part])[0].T
            taken = [masks[place] for place in part]
            places, _ = _at(ids, taken)
            ids = _hidden(ids, taken, self.vocabulary)
            if not len(places):
                continue
            sizes = nd.array(lengths[part], context, "int32")
            expected = network(table, nd.array(ids, context, "int32"), sizes, nd.array(places, context, "int32"))
            ends = np.cumsum([masks[place].sum() for place in part])[:-1]
            for name, values in network.scores(expected).items():
                values = nd.log_softmax(_possible(values)).asnumpy()
                for place, rows in zip(part, np.split(values, ends)):
                    log_probabilities[place][name] = rows
        return log_probabilities

    def _judged(self, network: Cloze, name: str, world: World) -> tuple[shards.Split, np.ndarray, np.ndarray]:
        """A split; per record and reader (N, R, 3) blanks, right ones and nats; (N, BEST) words of the first blank."""
        split = self.judged(name)
        field = split.fields["text"]
        own_records = np.arange(world.rank, len(split.relevance), world.size, dtype=np.int32)
        rows = split.rows["text"][own_records].tolist()
        passages = [field.ids(row) for row in rows]
        masks = [self._blanks(ids, np.random.default_rng([self.config.seed, row])) for ids, row in zip(passages, rows)]
        sums = np.zeros((len(own_records), len(network.readers()), 3), np.float32)
        best = np.zeros((len(own_records), BEST), np.int32)
        for start in range(0, len(own_records), step := 256):
            some = slice(start, start + step)
            log_probabilities = self._filled(network, passages[some], masks[some], world.context)
            for i, (ids, mask, by_reader) in enumerate(zip(passages[some], masks[some], log_probabilities), start):
                for reader, values in enumerate(by_reader.values()):
                    right = values.argmax(axis=1) == ids[mask]
                    nats = -values[np.arange(len(values)), ids[mask]]
                    sums[i, reader] = mask.sum(), right.sum(), nats.sum()
                    if not reader and len(values):
                        best[i] = np.argsort(-values[0], kind="stable")[:BEST]
        order = np.argsort(world.gather_numpy(own_records, "places"), kind="stable")
        sums, best = world.gather_numpy(sums, "sums")[order], world.gather_numpy(best, "best")[order]
        if not sums[:, 0, 0].any():
            raise InputError(
                f"the {name} split has no word of the training vocabulary, so no word can be hidden: give more text"
            )
        return split, sums, best

    def validate(self, network: Cloze, world: World) -> dict[str, float]:
        """accuracy and nats per blank, and those of the left-only reader as left_accuracy and left_nats."""
        _, sums, _ = self._judged(network, "valid", world)
        blanks, right, nats = np.moveaxis(sums.sum(axis=0), -1, 0)
        values: dict[str, float] = {}
        for i, prefix in enumerate(["", "left_"][: len(blanks)]):
            values |= {f"{prefix}accuracy": float(right[i] / blanks[i]), f"{prefix}nats": float(nats[i] / blanks[i])}
        return world.agree(values, "validation")

    def evaluate(self, network: Cloze, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        """Beside the left-only reader and the most frequent word; also writes predictions.jsonl."""
        split, sums, best = self._judged(network, "test", world)
        if world.rank > 0:
            return {}
        blanks = sums[:, 0, 0].astype(np.float64)
        values, weights = {}, {}
        for i, system in enumerate(["model", "left"][: sums.shape[1]]):
            for column, metric in ((1, "accuracy"), (2, "nats")):
                values[system, metric] = sums[:, i, column].astype(np.float64) / np.maximum(blanks, 1)
                weights[system, metric] = blanks
        frequent, chances = self._frequencies()
        field, rows = split.fields["text"], split.rows["text"].tolist()
        taken = [ids[self._blanks(ids, np.random.default_rng([self.config.seed, row]))]
                 for row, ids in ((row, field.ids(row)) for row in rows)]  # fmt: skip
        values["frequency", "accuracy"] = np.array([(words == frequent).mean() if len(words) else 0 for words in taken])
        values["frequency", "nats"] = np.array([-np.log(chances[words]).mean() if len(words) else 0 for words in taken])
        weights |= {("frequency", metric): blanks for metric in ("accuracy", "nats")}
        texts = texts_of(ingested, split, "text")
        names = self._names
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for key, text, words, best_words in zip(split.ids, texts, taken, best.tolist()):
                line = {"id": key, "text": shown(text), "taken_out": [names[word] for word in words.tolist()]}
                line["first_blank"] = [names[word] for word in best_words] if len(words) else []
                file.write(as_json(line, ensure_ascii=False) + "\n")
        judged = Judged("passages", list(split.ids), texts, None, {"blanks": blanks}, values, weights)
        return self.write_tables(folder, {"blanks": (judged, "left" if sums.shape[1] > 1 else "frequency")})

    def _frequencies(self) -> tuple[int, np.ndarray]:
        """The training split's most frequent word and (V,) the chance of each."""
        field = self.train.fields["text"]
        counts = np.ones(self.vocabulary)
        for row in self.train.rows["text"].tolist():
            np.add.at(counts, field.ids(row), 1)
        counts[:SPECIAL] = 1e-9
        return int(counts.argmax()), counts / counts.sum()

    @functools.cached_property
    def _names(self) -> list[str]:
        return decoding.tokens_by_id(self.folder)

    def predict(self, network: Cloze, rows: Sequence[Mapping[str, Any]], context: Context) -> list[dict[str, Any]]:
        """For each `___` in a row's `text` the likeliest words with their probabilities, by the reader of both sides.

        Raises:
            InputError: a text has no blank.
        """
        tokenizer = load_tokenizer(self.folder)
        passages, masks = [], []
        for row in rows:
            ids, mask = decoding.read_blanks(str(row["text"]), tokenizer)
            passages.append(ids)
            masks.append(mask)
        return [
            {"fillings": decoding.fillings(self._names, by_reader["both"])}
            for by_reader in self._filled(network, passages, masks, context)
        ]


def _hidden(ids: np.ndarray, masks: list[np.ndarray], blank: int) -> np.ndarray:
    """(T, n) ids with blanks where the masks of the n texts say so."""
    hidden = ids.copy()
    for column, mask in enumerate(masks):
        hidden[: len(mask), column][mask] = blank
    return hidden


def _at(ids: np.ndarray, masks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(B,) places of (T, n) ids, step * n + text, text by text, where the masks say so; and what stands there."""
    places = [np.flatnonzero(mask) * ids.shape[1] + column for column, mask in enumerate(masks)]
    flat_places = np.concatenate([np.zeros(0, np.int64), *places]).astype(np.int32)
    return flat_places, ids.reshape(-1)[flat_places]


def _possible(scores: nd.NDArray) -> nd.NDArray:
    """Scores in which padding and the unknown word cannot fill a blank."""
    barred = nd.full((scores.shape[0], SPECIAL), -1e30, ctx=scores.context)
    return nd.concat(barred, nd.slice_axis(scores, axis=1, begin=SPECIAL, end=None), dim=1)
