"""Sentence classification: a text in, a class out, from the pooled states (`pooling: last`: from the ends alone)."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mxnet import Context, nd

from pipeline.core.atomic_files import as_json
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation import metrics, naive_bayes
from pipeline.evaluation.judged import Classes, Judged, shown
from pipeline.models.classifier import Classifier
from pipeline.models.losses import balanced, taught_losses
from pipeline.reporting import system_comparison
from pipeline.tasks import decoding, teaching
from pipeline.tasks.base import StepLoss, Task, texts_of
from pipeline.tasks.length_bucketing import Chunked, chunked, distinct_tokens, like_lengths
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import REMAKE, load_tokenizer


class TextBatch(NamedTuple):
    """The texts and classes of one worker."""

    tokens: np.ndarray  # (U,) int32, ascending, the texts' token ids and 0
    real: int  # tokens of the texts
    cells: int  # the same with padding
    texts: Chunked
    classes: np.ndarray  # (n,) int32, in the order of the chunks
    total: int  # texts of all workers
    teacher: np.ndarray  # (n, C) float32, the teacher's logits of them; (n, 0) where there is none


class Classification(Task):
    """Softmax over the classes that the training split's labels name."""

    @functools.cached_property
    def names(self) -> list[str]:
        """(C,) the labels."""
        return decoding.tokens_by_id(self.folder / "label")[decoding.SPECIAL :]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """(N, 1) int32."""
        return self.train.fields["text"].lengths_of(self.train.rows["text"])[:, None]

    @functools.cached_property
    def _classes(self) -> np.ndarray:
        """(N,) int32 of the training split. Raises InputError where a label has no class of its own."""
        classes = decoding.classes_given(self.train, len(self.names)).astype(np.int32)
        if len(wrong := np.flatnonzero(classes >= len(self.names))):
            record = self.train.ids[int(wrong[0])]
            raise InputError(f"the label of record {record} of the train split is in no vocabulary: {REMAKE}")
        return classes

    @functools.cached_property
    def _weights(self) -> np.ndarray:
        """(C,) float32: how much a class counts in the loss."""
        return balanced(self._classes, len(self.names))

    @functools.cached_property
    def _teacher(self) -> np.ndarray | None:
        """(N, C) float32 logits of the training split."""
        if self.taught is not None:
            return np.asarray(np.load(self.taught / teaching.NAME, mmap_mode="r"))
        if self.config.teach.scores is not None:
            raise InputError("what the teacher said is not at hand: a taught update cannot be computed again by itself")
        return None

    def prepare(self) -> None:
        """See Task: the training texts' classes and what the teacher says of them."""
        _ = self._classes, self._teacher

    def network(self) -> Classifier:
        """One output per class."""
        return Classifier(self.config.model, shards.vocabulary_size(self.folder), len(self.names), prefix="classifier_")

    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> TextBatch:
        """See TextBatch."""
        ids = self.train.fields["text"].read(self.train.rows["text"][shares[rank]])
        tokens = distinct_tokens(ids)
        texts = chunked(ids, tokens, self.rows_per_step)
        own, total = shares[rank][texts.rows], sum(len(share) for share in shares)
        teacher = np.zeros((len(own), 0), np.float32) if self._teacher is None else self._teacher[own]
        return TextBatch(tokens, texts.real, texts.cells, texts, self._classes[own], total, teacher)

    def loss(self, network: Classifier, table: nd.NDArray | None, batch: TextBatch, world: World) -> StepLoss:
        """Mean cross entropy over all workers' texts, mixed with how far they are from a teacher, if there is one."""
        assert table is not None, "the classifier's embedding is updated row by row"
        context, packed = table.context, network.packed(table.context)
        logits = [
            network(table, nd.array(c.ids, context, "int32"), nd.array(c.lengths, context, "int32"), packed)
            for c in batch.texts.chunks
        ]
        together = nd.concat(*logits, dim=0)
        losses = -nd.pick(nd.log_softmax(together), nd.array(batch.classes, context))
        if self.config.train.class_weights == "balanced":
            losses = losses * nd.array(self._weights[batch.classes], context)
        if batch.teacher.shape[1]:
            teach = self.config.teach
            taught = taught_losses(together, nd.array(batch.teacher, context), teach.kind, teach.kl_temperature)
            losses = (1 - teach.weight) * losses + teach.weight * taught
        # the average over workers of these is the mean over all texts, whatever each worker's number of them
        value = losses.sum().reshape(1) * (world.size / batch.total)
        return StepLoss(value, value)

    # --- judging ------------------------------------------------------------------------------------------------------
    def validate(self, network: Classifier, world: World) -> dict[str, float]:
        """accuracy and macro_f1. Raises InputError where the split is empty."""
        split = self._split("valid")
        labels = decoding.classes_given(split, len(self.names))
        predicted = self._probabilities(network, split, world).argmax(axis=1)
        found = {"accuracy": metrics.accuracy(labels, predicted), "macro_f1": metrics.macro_f1(labels, predicted)}
        return world.agree(found, "validation")

    def _split(self, name: str) -> shards.Split:
        """Raises InputError where the split is empty."""
        split = shards.open_split(self.folder, name, self.config.task)
        if not len(split.relevance):
            called = "validation" if name == "valid" else name
            raise InputError(f"the {called} split has no text to judge: raise ingest.split.{name}")
        return split

    def finish(self, network: Classifier, world: World, folder: Path) -> None:
        """Naive Bayes over the training texts, and its weight beside the network, chosen on the validation split."""
        if not self.config.train.join_naive_bayes:
            return
        valid = self._split("valid")
        probabilities = self._probabilities(network, valid, world)
        if world.rank > 0:
            return
        labels, size = decoding.classes_given(valid, len(self.names)), shards.vocabulary_size(self.folder)
        model = naive_bayes.fit(_bags(self.train), self._classes, len(self.names), size)
        metric = metrics.macro_f1 if self.config.train.metric == "macro_f1" else metrics.accuracy
        found, _ = naive_bayes.joined(model, probabilities, _bags(valid), labels, metric)
        naive_bayes.save(folder, found)

    @functools.cached_property
    def _joined(self) -> naive_bayes.Joined | None:
        """What `finish` wrote."""
        return naive_bayes.load(self.trained, len(self.names))

    def evaluate(self, network: Classifier, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        """Beside the majority class, naive Bayes, and both together; also writes predictions.jsonl."""
        split = self._split("test")
        probabilities = self._probabilities(network, split, world)
        if world.rank > 0:
            return {}
        labels, train = (decoding.classes_given(one, len(self.names)) for one in (split, self.train))
        given = texts_of(ingested, split, "label")
        unseen = dict(sorted((int(i), name) for i, name in zip(labels, given) if i >= len(self.names)))
        padded = np.pad(probabilities.astype(np.float64), ((0, 0), (0, len(unseen))))  # never the likeliest
        bayes = naive_bayes.fit(_bags(self.train), train, len(self.names), shards.vocabulary_size(self.folder))
        others = {"naive_bayes": bayes.log_probabilities(_bags(split)).argmax(axis=1)}
        if self._joined is not None:
            said = self._joined.probabilities(probabilities, _bags(split))
            others["fused"] = said.argmax(axis=1)
        else:
            said = probabilities
        others["majority"] = np.full(len(labels), np.bincount(train).argmax())
        values = {("model", "accuracy"): probabilities.argmax(axis=1) == labels}
        values |= {(name, "accuracy"): predicted == labels for name, predicted in others.items()}
        texts = texts_of(ingested, split, "text")
        judged = Judged(
            unit="texts",
            ids=list(split.ids),
            texts=texts,
            groups=None,
            slices={"text length (tokens)": split.fields["text"].lengths[split.rows["text"]].astype(np.float64)},
            values={key: right.astype(np.float64) for key, right in values.items()},
            classes=Classes([*self.names, *unseen.values()], labels, padded),
        )
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for key, text, label, row in zip(split.ids, texts, given, said):
                line = {"id": key, "text": shown(text), "given": label}
                file.write(as_json(line | decoding.label_of(self.names, row), ensure_ascii=False) + "\n")
        settings = self.config.evaluate
        return system_comparison.write(
            folder, self.config.name, {"classes": (judged, "naive_bayes")}, settings.bootstrap_samples, self.config.seed
        )

    def _probabilities(self, network: Classifier, split: shards.Split, world: World) -> np.ndarray:
        """(N, C) float32 for a split's records, the work shared out over the workers."""
        field, rows = split.fields["text"], split.rows["text"]
        found = [(part, self._softmax(network, *field.padded(rows[part]), world.context))
                 for part in like_lengths(field.lengths[rows], world.rank, world.size)]  # fmt: skip
        nothing = np.zeros((0, len(self.names)), np.float32)
        places = world.gather_numpy(np.concatenate([np.zeros(0, np.int32), *(p for p, _ in found)]), "places")
        values = world.gather_numpy(np.concatenate([nothing, *(v for _, v in found)]), "probabilities")
        together = np.empty((len(rows), len(self.names)), np.float32)
        together[places] = values
        return together

    def _softmax(self, network: Classifier, ids: np.ndarray, lengths: np.ndarray, context: Context) -> np.ndarray:
        table = network.embedding.data(context)
        logits = network(table, nd.array(ids.T, context, "int32"), nd.array(lengths, context, "int32"))
        return nd.softmax(logits).asnumpy()

    def predict(self, network: Classifier, rows: Sequence[Mapping[str, Any]], context: Context) -> list[dict[str, Any]]:
        """For each row's `text` its label and all labels' probabilities."""
        tokenizer = load_tokenizer(self.folder)
        encoded = [tokenizer.encode(str(row["text"]), "text") for row in rows]
        lengths = np.array([len(ids) for ids in encoded], np.int32)
        found: list[dict[str, Any]] = [{} for _ in rows]
        for part in like_lengths(lengths):
            ids = np.zeros((len(part), int(lengths[part].max())), np.int32)
            for row, place in zip(ids, part):
                row[: lengths[place]] = encoded[place]
            chances = self._softmax(network, ids, lengths[part], context)
            if self._joined is not None:
                chances = self._joined.probabilities(chances, [encoded[place] for place in part])
            for place, row in zip(part, chances):
                found[place] = decoding.label_of(self.names, row)
        return found


def _bags(split: shards.Split) -> Iterator[np.ndarray]:
    field = split.fields["text"]
    return (field.ids(row) for row in split.rows["text"].tolist())
