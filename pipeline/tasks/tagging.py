"""Tagging: a sentence of words in, a tag per word out."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mxnet import Context, nd

from pipeline.config import TaggingConfig
from pipeline.core.atomic_files import as_json
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation import spans
from pipeline.evaluation.judged import Judged
from pipeline.models.tagger import Tagger, crf_loss
from pipeline.tasks import decoding
from pipeline.tasks.base import StepLoss, Task, texts_of
from pipeline.tasks.decoding import SPECIAL, Spelling, spelled, viterbi
from pipeline.tasks.length_bucketing import Chunk, Chunked, chunked, distinct_tokens, like_lengths
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import REMAKE, UNKNOWN_ID, load_tokenizer, load_vocabulary


class TagBatch(NamedTuple):
    """The sentences of one worker, words and tags."""

    tokens: np.ndarray  # (U,) int32, ascending, the sentences' token ids and 0
    real: int  # words of the sentences
    cells: int  # the same with padding
    texts: Chunked
    tags: list[np.ndarray]  # for each chunk (T, c) int32: positions in the task's names, -1 on padding or unknown
    spelling: Spelling | None
    total: int  # words of all workers' sentences


class Tagging(Task):
    """Cross entropy at every word, or a conditional random field over the sentence's tags."""

    @property
    def options(self) -> TaggingConfig:
        """The task's own settings."""
        return self.config.options(TaggingConfig)

    @functools.cached_property
    def names(self) -> list[str]:
        """(G,) the tags."""
        return decoding.tokens_by_id(self.folder / "tags")[SPECIAL:]

    @functools.cached_property
    def space(self) -> int:
        return decoding.space_of(self.folder)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """See Task. Raises InputError where a text has not a tag for each word."""
        _check(self.train, "train")
        return super().lengths

    def network(self) -> Tagger:
        settings = self.options
        letters = len(load_vocabulary(self.folder / "letters")) if settings.characters else 0
        vocabulary = shards.vocabulary_size(self.folder)
        return Tagger(self.config.model, vocabulary, len(self.names), letters, settings.crf, prefix="tagger_")

    # --- batches ------------------------------------------------------------------------------------------------------
    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> TagBatch:
        ids = self.train.fields["text"].read(self.train.rows["text"][shares[rank]])
        tokens = distinct_tokens(ids)
        texts = chunked(ids, tokens, self.rows_per_step)
        records = shares[rank][texts.rows]
        tags, start = [], 0
        for chunk in texts.chunks:
            part = records[start : start + len(chunk.lengths)]
            tags.append(_tags(self.train, part, chunk.ids.shape[0]))
            wrong = ((tags[-1] < 0) & (np.arange(len(chunk.ids))[:, None] < chunk.lengths)).any(axis=0)
            if wrong.any():
                record = self.train.ids[int(part[wrong][0])]
                raise InputError(f"a tag of record {record} of the train split is in no vocabulary: {REMAKE}")
            start += len(part)
        spelling = None
        if self.options.characters:
            letters = self.train.fields["letters"].read(self.train.rows["letters"][records])
            spelling = self._spelled(letters, texts.chunks)
        total = sum(int(self.lengths[share].sum()) for share in shares)
        return TagBatch(tokens, texts.real, texts.cells, texts, tags, spelling, total)

    def _spelled(self, sentences: list[np.ndarray], chunks: list[Chunk]) -> Spelling:
        """The words of sentences, given as letters in the order of the chunks."""
        return spelled(sentences, [(len(chunk.ids), chunk.lengths) for chunk in chunks], self.space)

    # --- loss ---------------------------------------------------------------------------------------------------------
    def loss(self, network: Tagger, table: nd.NDArray | None, batch: TagBatch, world: World) -> StepLoss:
        """The mean over all workers' words of their tags' negative log probability."""
        assert table is not None, "the tagger's embedding is updated row by row"
        context = table.context
        total = nd.zeros(1, ctx=context)
        for chunk, tags, scores in zip(batch.texts.chunks, batch.tags, self._scores(network, table, batch)):
            targets = nd.array(np.maximum(tags, 0), context, "int32")
            if self.options.crf:
                lengths = nd.array(chunk.lengths, context, "int32")
                losses = crf_loss(scores, targets, lengths, network.transitions.data(context))
            else:
                losses = -nd.pick(nd.log_softmax(scores, axis=2), targets, axis=2) * nd.array(tags >= 0, context)
            total = total + losses.sum()
        # the average over workers of these is the mean over all words, whatever each worker's number of them
        value = total * (world.size / batch.total)
        return StepLoss(value, value)

    def _scores(self, network: Tagger, table: nd.NDArray, batch: TagBatch) -> list[nd.NDArray]:
        context, spelling = table.context, batch.spelling
        packed, spelled = network.packed(context), None
        if spelling:
            assert network.letters is not None
            spelled = network.letters(
                nd.array(spelling.letters, context, "int32"), nd.array(spelling.lengths, context, "int32")
            )
        return [
            network(
                table,
                nd.array(chunk.ids, context, "int32"),
                nd.array(chunk.lengths, context, "int32"),
                spelled,
                nd.array(spelling.places[i], context, "int32") if spelling else None,
                packed,
            )
            for i, chunk in enumerate(batch.texts.chunks)
        ]

    # --- judging ------------------------------------------------------------------------------------------------------
    def _said(
        self, network: Tagger, words: list[np.ndarray], letters: list[np.ndarray], context: Context
    ) -> list[np.ndarray]:
        """The tags' positions of each sentence, (T,) int."""
        lengths = np.array([len(ids) for ids in words], np.int32)
        table = network.embedding.data(context)
        predicted: list[np.ndarray] = [np.zeros(0, int)] * len(words)
        transitions = network.transitions.data(context).asnumpy() if self.options.crf else None
        for part in like_lengths(lengths):
            ids = shards.padded([words[place] for place in part])[0].T
            chunk = Chunk(ids, lengths[part])
            spelling = self._spelled([letters[p] for p in part], [chunk]) if self.options.characters else None
            texts = Chunked([chunk], np.arange(len(part), dtype=np.int32), len(ids), 0, 0)
            [scores] = self._scores(network, table, TagBatch(np.zeros(0, np.int32), 0, 0, texts, [], spelling, 0))
            for place, sentence_scores in zip(part, scores.asnumpy().transpose(1, 0, 2)):
                sentence_scores = sentence_scores[: lengths[place]]
                predicted[place] = (
                    sentence_scores.argmax(axis=1) if transitions is None else viterbi(sentence_scores, transitions)
                )
        return predicted

    def _tagged(self, network: Tagger, name: str, world: World) -> tuple[shards.Split, list[np.ndarray]]:
        """A split and the tags said of its records, the work shared out over the workers."""
        split = self.judged(name)
        _check(split, name)
        own_records = np.arange(world.rank, len(split.relevance), world.size)
        words, letters = (
            [split.fields[field].ids(row) for row in split.rows[field][own_records].tolist()]
            for field in ("text", "letters")
        )
        predicted = self._said(network, words, letters, world.context)
        flat = world.gather_numpy(np.concatenate([np.zeros(0, int), *predicted]).astype(np.int32), "tags")
        places = world.gather_numpy(own_records.astype(np.int32), "places")
        lengths = split.fields["text"].lengths[split.rows["text"]]
        parts = np.split(flat, np.cumsum(lengths[places])[:-1])
        together: list[np.ndarray] = [np.zeros(0, int)] * len(places)
        for place, part in zip(places.tolist(), parts):
            together[place] = part
        return split, together

    def validate(self, network: Tagger, world: World) -> dict[str, float]:
        """accuracy of words, and span_f1 where the tags mark spans."""
        split, predicted = self._tagged(network, "valid", world)
        true_tags = decoding.tags_given(split)
        right = sum(int((a == b).sum()) for a, b in zip(predicted, true_tags))
        values = {"accuracy": right / sum(len(tags) for tags in true_tags)}
        if spans.are_spans(self.names):
            values["span_f1"] = spans.span_f1(self._named(true_tags), self._named(predicted))
        if self.config.train.metric not in values:
            raise InputError(
                f"train.metric={self.config.train.metric} needs tags that mark spans (B-, I-, O): "
                "set train.metric=accuracy"
            )
        return world.agree(values, "validation")

    def evaluate(self, network: Tagger, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        """Beside each word's most frequent tag; also writes predictions.jsonl.

        All words of the file count: those past `tokenize.max_tokens` get no tag, which is wrong.
        """
        split, predicted = self._tagged(network, "test", world)
        if world.rank > 0:
            return {}
        true_tags, words = (
            decoding.tags_given(split),
            [split.fields["text"].ids(row) for row in split.rows["text"].tolist()],
        )
        systems = {"model": predicted, "word_tags": self._most_frequent(words)}
        whole = [tags.split() for tags in texts_of(ingested, split, "tags")]
        count = np.array([len(tags) for tags in whole], np.float64)
        rare = np.array([(ids == UNKNOWN_ID).sum() for ids in words], np.float64)
        values, weights = {}, {}
        for system, tags in systems.items():
            right = [a == b for a, b in zip(tags, true_tags)]
            values[system, "accuracy"] = np.array([r.sum() for r in right]) / count
            weights[system, "accuracy"] = count
            hits = np.array([(r & (ids == UNKNOWN_ID)).sum() for r, ids in zip(right, words)], np.float64)
            values[system, "unknown_words"] = hits / np.maximum(rare, 1)
            weights[system, "unknown_words"] = rare
        texts = texts_of(ingested, split, "text")
        ours = [tags + [""] * (len(part) - len(tags)) for tags, part in zip(self._named(predicted), whole)]
        judged = Judged("sentences", list(split.ids), texts, None, {"words": count}, values, weights)
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for key, text, names, theirs in zip(split.ids, texts, ours, whole):
                line = {"id": key, "words": text.split(), "tags": names, "given": theirs}
                file.write(as_json(line, ensure_ascii=False) + "\n")
        flat = self.write_tables(folder, {"tags": (judged, "word_tags")})
        if spans.are_spans(self.names):
            flat["test/span_f1"] = spans.span_f1(whole, [[tag or "O" for tag in tags] for tags in ours])
            with (folder / "table.txt").open("a", encoding="utf-8") as file:
                file.write(f"span F1 {flat['test/span_f1']:.3f}\n")
        return flat

    def _most_frequent(self, words: list[np.ndarray]) -> list[np.ndarray]:
        """Each word's most frequent tag in the training split; of unknown words, the most frequent of rare words."""
        counts = np.zeros((shards.vocabulary_size(self.folder), len(self.names)))
        field = self.train.fields["text"]
        for row, tags in zip(self.train.rows["text"].tolist(), decoding.tags_given(self.train)):
            np.add.at(counts, (field.ids(row), np.maximum(tags, 0)), 1)
        counts[counts.sum(axis=1) == 0] = counts.sum(axis=0)
        best = counts.argmax(axis=1)
        return [best[ids] for ids in words]

    def _named(self, tags: list[np.ndarray]) -> list[list[str]]:
        return [decoding.named(self.names, part) for part in tags]

    def predict(self, network: Tagger, rows: Sequence[Mapping[str, Any]], context: Context) -> list[dict[str, Any]]:
        """For each row's `text` its words, at blanks, and their tags."""
        texts = [" ".join(str(row["text"]).split()) for row in rows]
        tokenizer, speller = load_tokenizer(self.folder), load_tokenizer(self.folder / "letters")
        words = [tokenizer.encode(text, "text") for text in texts]
        letters = [speller.encode(text, "letters") for text in texts]
        tags = self._named(self._said(network, words, letters, context))
        return [{"words": text.split()[: len(part)], "tags": part} for text, part in zip(texts, tags)]


def _tags(split: shards.Split, records: np.ndarray, steps: int) -> np.ndarray:
    """(T, n) int32 of these records, -1 on padding."""
    ids, _ = split.fields["tags"].padded(split.rows["tags"][records])
    wide = np.zeros((len(records), steps), np.int32)
    wide[:, : ids.shape[1]] = ids[:, :steps]
    return np.maximum(wide - SPECIAL, -1).T.copy()


def _check(split: shards.Split, name: str) -> None:
    """Raises InputError where a sentence has not as many tags as words."""
    counts = [split.fields[field].lengths[split.rows[field]] for field in ("text", "tags")]
    wrong = np.flatnonzero(counts[0] != counts[1])
    if len(wrong):
        first = wrong[0]
        raise InputError(
            f"record {split.ids[int(first)]} of the {name} split has {counts[0][first]} words and {counts[1][first]} "
            "tags: give one tag per word, both separated by blanks"
        )
