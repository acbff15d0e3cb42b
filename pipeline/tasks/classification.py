"""Sentence classification: a text in, a class out, from the pooled states (`pooling: last`: from the ends alone)."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mxnet import Context, nd

from pipeline.core.atomic_files import as_json
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation import joining, metrics, naive_bayes
from pipeline.evaluation.judged import Classes, Judged, Said, shown
from pipeline.models.classifier import Classifier
from pipeline.models.losses import balanced, taught_losses
from pipeline.tasks import decoding, teaching
from pipeline.tasks.base import NOT_HERE, StepLoss, texts_of
from pipeline.tasks.labels import LabelTask, gathered
from pipeline.tasks.length_bucketing import Chunked, chunked, distinct_tokens, like_lengths
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import load_tokenizer


class TextBatch(NamedTuple):
    """The texts and classes of one worker."""

    tokens: np.ndarray  # (U,) int32, ascending, the texts' token ids and 0
    real: int  # tokens of the texts
    cells: int  # the same with padding
    texts: Chunked
    classes: np.ndarray  # (n,) int32, in the order of the chunks
    total: int  # texts of all workers
    teacher: np.ndarray  # (n, C) float32, the teacher's logits of them; (n, 0) where there is none


class Classification(LabelTask):
    """Softmax over the classes that the training split's labels name."""

    text, label = "text", "label"

    @functools.cached_property
    def _weights(self) -> np.ndarray:
        """(C,) float32: how much a class counts in the loss."""
        return balanced(self.classes, len(self.names))

    @functools.cached_property
    def _teacher(self) -> np.ndarray | None:
        """(N, C) float32 logits of the training split."""
        if self.taught is not None:
            return np.asarray(np.load(self.taught / teaching.NAME, mmap_mode="r"))
        if self.config.teach.scores is not None:
            raise InputError(NOT_HERE)
        return None

    def prepare(self) -> None:
        """See Task: the training texts' classes and what the teacher says of them."""
        _ = self.classes, self._teacher

    def network(self) -> Classifier:
        """One output per class."""
        return Classifier(self.config.model, shards.vocabulary_size(self.folder), len(self.names), prefix="classifier_")

    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> TextBatch:
        ids = self.read("text", self.train.rows["text"][shares[rank]], seed)
        tokens = distinct_tokens(ids)
        texts = chunked(ids, tokens, self.rows_per_step)
        own, total = shares[rank][texts.rows], sum(len(share) for share in shares)
        teacher = np.zeros((len(own), 0), np.float32) if self._teacher is None else self._teacher[own]
        return TextBatch(tokens, texts.real, texts.cells, texts, self.classes[own], total, teacher)

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
        split = self.judged("valid")
        labels = self.classes_of(split)
        predicted = self._probabilities(network, split, world).argmax(axis=1)
        values = {"accuracy": metrics.accuracy(labels, predicted), "macro_f1": metrics.macro_f1(labels, predicted)}
        return world.agree(values, "validation")

    def _naive_bayes(self) -> naive_bayes.NaiveBayes:
        """Over the training texts."""
        size = shards.vocabulary_size(self.folder)
        return naive_bayes.fit(self.texts_read(self.train), self.classes, len(self.names), size)

    def finish(self, network: Classifier, world: World, folder: Path) -> None:
        """Chosen on the validation split: the weight of naive Bayes beside the network, and which answers are sure."""
        train = self.config.train
        if not train.join_naive_bayes and train.sure_precision is None:
            return
        valid = self.judged("valid")
        probabilities = self._probabilities(network, valid, world)
        if world.rank > 0:
            return
        if train.join_naive_bayes:
            mixture = self._mixture(probabilities, valid)
            joining.save(folder / naive_bayes.NAME, mixture)
            probabilities = mixture.probabilities(probabilities, self.texts_read(valid))
        self.choose_confidence(folder, probabilities, valid)

    def _mixture(self, probabilities: np.ndarray, valid: shards.Split) -> joining.Joined[naive_bayes.NaiveBayes]:
        """From the network's (N, C) probabilities of the validation split."""
        by = joining.judged_by(self.config.train.metric, self.classes, len(self.names))
        texts, labels = (self.texts_read(valid),), self.classes_of(valid)
        return joining.joined(self._naive_bayes(), probabilities, texts, labels, *by)[0]

    @functools.cached_property
    def _joined(self) -> joining.Joined[naive_bayes.NaiveBayes] | None:
        """What `finish` wrote."""
        return naive_bayes.load(self.trained, len(self.names))

    def evaluate(self, network: Classifier, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        """Beside the majority class, naive Bayes, and both together; also writes predictions.jsonl."""
        split = self.judged("test")
        probabilities = self._probabilities(network, split, world)
        if world.rank > 0:
            return {}
        labels = self.classes_of(split)
        label_names = texts_of(ingested, split, "label")
        unseen = self.unseen(labels, label_names)
        padded = np.pad(probabilities.astype(np.float64), ((0, 0), (0, len(unseen))))  # never the likeliest
        bayes = self._joined.model if self._joined is not None else self._naive_bayes()
        scores = bayes.scores(self.texts_read(split))
        others = {"naive_bayes": scores.argmax(axis=1)}
        if self._joined is not None:
            chances = self._joined.mixed(probabilities, joining.log_softmax(scores))
            others["fused"] = chances.argmax(axis=1)
        else:
            chances = probabilities
        chances = self.calibrated(chances)
        others["majority"] = np.full(len(labels), np.bincount(self.classes).argmax())
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
            classes=Classes([*self.names, *unseen], labels, padded),
            others={name: Said.of(predicted) for name, predicted in others.items()},
        )
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for key, text, label, row in zip(split.ids, texts, label_names, chances):
                line = {"id": key, "text": shown(text), "given": label}
                answer = decoding.label_of(self.names, row, confidence=self.confidence)
                file.write(as_json(line | answer, ensure_ascii=False) + "\n")
        note, more = ("", {}) if self.confidence is None else self.confidence.told(chances, labels)
        return self.write_tables(folder, {"classes": (judged, "naive_bayes")}, note) | more

    def _probabilities(self, network: Classifier, split: shards.Split, world: World) -> np.ndarray:
        """(N, C) float32 for a split's records, the work shared out over the workers."""
        field, rows = split.fields["text"], split.rows["text"]
        chunks = [(part, self._softmax(network, *field.padded(rows[part]), world.context))
                 for part in like_lengths(field.lengths[rows], world.rank, world.size)]  # fmt: skip
        return gathered(chunks, len(rows), len(self.names), world, "probabilities")

    def _softmax(self, network: Classifier, ids: np.ndarray, lengths: np.ndarray, context: Context) -> np.ndarray:
        table = network.embedding.data(context)
        logits = network(table, nd.array(ids.T, context, "int32"), nd.array(lengths, context, "int32"))
        return nd.softmax(logits).asnumpy()

    def predict(self, network: Classifier, rows: Sequence[Mapping[str, Any]], context: Context) -> list[dict[str, Any]]:
        """For each row's `text` its label and all labels' probabilities."""
        tokenizer = load_tokenizer(self.folder)
        encoded = [tokenizer.encode(str(row["text"]), "text") for row in rows]
        lengths = np.array([len(ids) for ids in encoded], np.int32)
        predictions: list[dict[str, Any]] = [{} for _ in rows]
        for part in like_lengths(lengths):
            texts = [encoded[place] for place in part]
            chances = self._softmax(network, *shards.padded(texts), context)
            if self._joined is not None:
                chances = self._joined.probabilities(chances, texts)
            for place, answer in zip(part, decoding.labels_of(self.names, chances, "label", self.confidence)):
                predictions[place] = answer
        return predictions
