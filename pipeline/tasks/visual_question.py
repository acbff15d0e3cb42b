"""Questions about images: an image and a question in, one of the training split's answers out."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from mxnet import Context, nd

from pipeline.config.tasks.visual_question import VisualQuestionConfig
from pipeline.core.atomic_files import as_json
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation import captions, metrics, naive_bayes
from pipeline.evaluation.judged import Classes, Judged, Said
from pipeline.models.question_answerer import QuestionAnswerer
from pipeline.reporting import captions_page
from pipeline.tasks import decoding
from pipeline.tasks.base import StepLoss, texts_of
from pipeline.tasks.images import ImageTask
from pipeline.tasks.labels import LabelTask, gathered
from pipeline.tasks.length_bucketing import Chunked, chunked, distinct_tokens, like_lengths
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import load_tokenizer

SHOWN = 120  # questions on the page


class QuestionBatch(NamedTuple):
    """The questions, images and answers of one worker, in the order of the chunks."""

    tokens: np.ndarray  # (U,) int32, ascending, the questions' token ids and 0
    real: int  # tokens of the questions
    cells: int  # the same with padding
    texts: Chunked
    images: np.ndarray  # (n, *shape)
    answers: np.ndarray  # (n,) int32
    total: int  # questions of all workers


class Answered(NamedTuple):
    """What the network says of N questions."""

    probabilities: np.ndarray  # (N, A) float32
    weights: np.ndarray  # (N, L) float32 of the image's places; L is 0 without attention


class VisualQuestion(LabelTask, ImageTask):
    """Softmax over the answers that the training split names."""

    @property
    def options(self) -> VisualQuestionConfig:
        """The task's own settings."""
        return self.config.options(VisualQuestionConfig)

    sides = ("question",)
    text, label = "question", "answer"

    def prepare(self) -> None:
        """See Task: the training answers' classes and the images."""
        _ = self.classes, self.seen

    def network(self) -> QuestionAnswerer:
        """One output per answer. Raises InputError: blocks of convolutions over places that are no square's."""
        shape, blocks = self.images.shape, self.options.blocks
        if blocks and len(shape) == 2 and math.isqrt(shape[0]) ** 2 != shape[0]:
            raise InputError(
                f"visual_question.blocks={blocks} needs a square grid, and the images have {shape[0]} places: set "
                "visual_question.blocks=0"
            )
        return QuestionAnswerer(
            self.config.model, shards.vocabulary_size(self.folder), len(self.names),
            self.options.fusion, shape, blocks, self.options.net, prefix="answerer_",
        )  # fmt: skip

    # --- training -----------------------------------------------------------------------------------------------------
    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> QuestionBatch:
        ids = self.train.fields["question"].read(self.train.rows["question"][shares[rank]])
        tokens = distinct_tokens(ids)
        texts = chunked(ids, tokens, self.rows_per_step)
        own_examples = shares[rank][texts.rows]
        images = self.seen[self.train.rows["image"][own_examples]]
        total = sum(len(share) for share in shares)
        return QuestionBatch(tokens, texts.real, texts.cells, texts, images, self.classes[own_examples], total)

    def loss(self, network: QuestionAnswerer, table: nd.NDArray | None, batch: QuestionBatch, world: World) -> StepLoss:
        """Mean cross entropy over all workers' questions."""
        assert table is not None, "the embedding is updated row by row"
        context, packed, logits, start = table.context, network.packed(table.context), [], 0
        for chunk in batch.texts.chunks:
            images = batch.images[start : start + len(chunk.lengths)]
            start += len(chunk.lengths)
            ids, lengths = nd.array(chunk.ids, context, "int32"), nd.array(chunk.lengths, context, "int32")
            logits.append(network(table, ids, lengths, nd.array(images, context, images.dtype), packed)[0])
        losses = -nd.pick(nd.log_softmax(nd.concat(*logits, dim=0)), nd.array(batch.answers, context))
        # the average over workers of these is the mean over all questions, whatever each worker's number of them
        value = losses.sum().reshape(1) * (world.size / batch.total)
        return StepLoss(value, value)

    # --- judging ------------------------------------------------------------------------------------------------------
    def validate(self, network: QuestionAnswerer, world: World) -> dict[str, float]:
        """accuracy, and nats over the questions whose answer training knows. Raises InputError: the split is empty."""
        split = self.judged("valid")
        answers = self.classes_of(split)
        probabilities = self._answered(network, split, world).probabilities
        return world.agree(metrics.answered(answers, probabilities), "validation")

    def finish(self, network: QuestionAnswerer, world: World, folder: Path) -> None:
        """Which answers are sure, chosen on the validation split."""
        if self.config.train.sure_precision is None:
            return
        split = self.judged("valid")
        probabilities = self._answered(network, split, world).probabilities
        if world.rank == 0:
            self.choose_confidence(folder, probabilities, split)

    def evaluate(self, network: QuestionAnswerer, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        """Beside what the question alone, the picture alone and nothing at all tell; also predictions.jsonl and
        questions.html."""
        split = self.judged("test")
        answered = self._answered(network, split, world)
        if world.rank > 0:
            return {}
        answered = answered._replace(probabilities=self.calibrated(answered.probabilities))
        labels, train = self.classes_of(split), self.classes
        answers = texts_of(ingested, split, "answer")
        unseen = self.unseen(labels, answers)
        rows = self.images.rows_of(split.fields["image"])[split.rows["image"]]
        known = self.images.rows_of(self.train.fields["image"])[self.train.rows["image"]]
        predicted = {
            "model": answered.probabilities.argmax(axis=1),
            "question_only": self._from_questions(split, train),
            "picture_only": train[captions.nearest(self.images.small(known), self.images.small(rows))],
            "frequent": np.full(len(labels), np.bincount(train).argmax()),
        }
        right = {name: classes == labels for name, classes in predicted.items()}
        questions = texts_of(ingested, split, "question")
        judged = Judged(
            unit="questions",
            ids=list(split.ids),
            texts=questions,
            groups=[split.fields["image"].keys[row] for row in split.rows["image"].tolist()],
            slices={"question length (tokens)": split.fields["question"].lengths[split.rows["question"]].astype(float)},
            values={(name, "accuracy"): hits.astype(np.float64) for name, hits in right.items()},
            classes=Classes(
                [*self.names, *unseen], labels, np.pad(answered.probabilities.astype(float), ((0, 0), (0, len(unseen))))
            ),
            others={name: Said.of(classes) for name, classes in predicted.items() if name != "model"},
        )
        self._write_answers(answered, split, questions, answers, rows, ingested, folder)
        told, more = ("", {}) if self.confidence is None else self.confidence.told(answered.probabilities, labels)
        note = "\n".join(filter(None, (_by_kind(right, _kinds(ingested, list(split.ids))), told)))
        return self.write_tables(folder, {"answers": (judged, "question_only")}, note) | more

    def _from_questions(self, split: shards.Split, train: np.ndarray) -> np.ndarray:
        """(N,) what naive Bayes answers that sees the question alone."""
        size = shards.vocabulary_size(self.folder)
        model = naive_bayes.fit(self.texts_read(self.train), train, len(self.names), size)
        return np.asarray(model.scores(self.texts_read(split)).argmax(axis=1))

    def _write_answers(
        self, answered: Answered, split: shards.Split, questions: list[str], answers: list[str], rows: np.ndarray,
        ingested: Path, folder: Path,
    ) -> None:  # fmt: skip
        """Writes predictions.jsonl, and the first questions with their pictures and the places looked at."""
        page, pictures = [], len(self.images.raw_shape) == 3
        images = texts_of(ingested, split, "image")
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for i, (key, image, question, answer) in enumerate(zip(split.ids, images, questions, answers)):
                line = {"id": key, "image": image, "question": question, "given": answer}
                prediction = decoding.label_of(self.names, answered.probabilities[i], "answer", self.confidence)
                file.write(as_json(line | prediction, ensure_ascii=False) + "\n")
                if i < SHOWN:
                    picture = self.images.raw[rows[i]] if pictures else None
                    right = prediction["answer"] == answer
                    caption = f"{question} {prediction['answer']}"
                    page.append(captions_page.Shown(image, picture, caption, [answer], right, answered.weights[i]))
        note = (
            f"The first {len(page)} of {len(questions)} test questions; green: the right answer. "
            "Lighter places were looked at more."
        )
        captions_page.write(folder / "questions.html", f"{self.config.name}: questions", note, page)

    def _answered(self, network: QuestionAnswerer, split: shards.Split, world: World) -> Answered:
        """What the network says of a split's records, the work shared out over the workers."""
        field, rows = split.fields["question"], split.rows["question"]
        images = self.images.rows_of(split.fields["image"])[split.rows["image"]]
        chunks = []
        for part in like_lengths(field.lengths[rows], world.rank, world.size):
            seen = self.images.seen(self.images.raw[images[part]], world.context)
            chunks.append((part, self._forward(network, *field.padded(rows[part]), seen, world.context)))
        widths = {"probabilities": len(self.names), "weights": network.places}
        return Answered(
            *(
                gathered([(part, getattr(answered, name)) for part, answered in chunks], len(rows), width, world, name)
                for name, width in widths.items()
            )
        )

    def _forward(
        self, network: QuestionAnswerer, ids: np.ndarray, lengths: np.ndarray, seen: np.ndarray, context: Context
    ) -> Answered:
        table = network.embedding.data(context)
        texts = nd.array(ids.T, context, "int32"), nd.array(lengths, context, "int32")
        logits, weights = network(table, *texts, nd.array(seen, context, seen.dtype))
        attention = np.zeros((len(ids), 0), np.float32) if weights is None else weights.asnumpy()
        return Answered(nd.softmax(logits).asnumpy(), attention)

    def predict(
        self, network: QuestionAnswerer, rows: Sequence[Mapping[str, Any]], context: Context
    ) -> list[dict[str, Any]]:
        """For each row's `image`, a path or a data URL, and `question` the `answer` and all answers' probabilities."""
        if not rows:
            return []
        tokenizer = load_tokenizer(self.folder)
        encoded = [tokenizer.encode(str(row["question"]), "question") for row in rows]
        seen = self.images.seen(np.stack([self.images.read(row["image"]) for row in rows]), context)
        lengths = np.array([len(ids) for ids in encoded], np.int32)
        predictions: list[dict[str, Any]] = [{} for _ in rows]
        for part in like_lengths(lengths):
            answered = self._forward(network, *shards.padded([encoded[at] for at in part]), seen[part], context)
            answers = decoding.labels_of(self.names, answered.probabilities, "answer", self.confidence)
            for place, answer in zip(part, answers):
                predictions[place] = answer
        return predictions


def _kinds(ingested: Path, ids: list[str]) -> np.ndarray:
    """(N,) the kind of each test question, "" where the source does not say."""
    kinds: dict[str, str] = {}
    for batch in pq.ParquetFile(ingested / "records-test.parquet").iter_batches(10_000, columns=["id", "metadata"]):
        for key, metadata in zip(batch["id"].to_pylist(), batch["metadata"].to_pylist()):
            kinds[key] = str(json.loads(metadata).get("kind", ""))
    return np.array([kinds[key] for key in ids])


def _by_kind(right: Mapping[str, np.ndarray], kinds: np.ndarray) -> str:
    """Accuracy of each system per kind of question; empty where the kinds are not known."""
    named = sorted(set(kinds.tolist()) - {""})
    if not named:
        return ""
    width = max(len(name) for name in named)
    lines = ["accuracy by kind of question:", f"  {'':<{width}}" + "".join(f"{name:>15}" for name in right)]
    for kind in named:
        cells = "".join(f"{values[kinds == kind].mean():>15.3f}" for values in right.values())
        lines.append(f"  {kind:<{width}}{cells}   {int((kinds == kind).sum()):,} questions")
    return "\n".join(lines)
