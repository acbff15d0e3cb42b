"""Translation, captioning and questions about images by ONNX Runtime. Imports no MXNet, and nothing that does."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import CaptioningConfig, Config, TranslationConfig
from pipeline.evaluation import confidence
from pipeline.ingest.pictures import PIXEL
from pipeline.models.beam import Found
from pipeline.serving.onnx.written import ANSWERER, IMAGE_ENCODER, SOURCE_ENCODER, Writer
from pipeline.serving.predict.base import FieldPredictor
from pipeline.serving.predict.onnx_tasks import OnnxTask, OnnxTexts
from pipeline.serving.predict.text_encoder import Batch, side_by_side
from pipeline.tasks import decoding
from pipeline.tasks.image_reading import ImageReader
from pipeline.tokenization.encoder import UNKNOWN_ID
from pipeline.tokenization.joining import joined

AT_ONCE = 32  # images that are looked at together


class OnnxTranslator(OnnxTexts):
    """{"target", "score"} of each row's source."""

    def __init__(self, config: Config, folder: Path, graphs: Path, threads: int) -> None:
        super().__init__(config, folder, threads)
        self.names = decoding.tokens_by_id(folder)
        self.writer = Writer(graphs, SOURCE_ENCODER, len(self.names))
        self._options = config.options(TranslationConfig)

    def write(self, sources: Sequence[np.ndarray], width: int, alpha: float) -> list[Found]:
        """The likeliest text for each of the sources, (T,) int32 ids each."""
        options, barred = self._options, decoding.never_written(self._options.copy_unknown)

        def written(batch: Batch) -> list[Found]:
            limits = decoding.target_limits(batch.lengths, options.max_target_share)
            return self.writer.write({"ids": batch.ids, "lengths": batch.lengths}, limits, width, alpha, barred)

        hypotheses: list[Found] = [Found([], 0.0)] * len(sources)
        for batch, texts in self._each(written, sources):
            for row, text in zip(batch.rows.tolist(), texts):
                hypotheses[row] = text
        return hypotheses

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        originals = [str(row["source"]) for row in self.named(rows)]
        sources = [self._tokenizer.encode(text, "source") for text in originals]
        hypotheses = self.write(sources, self._options.beam, self._options.length_penalty)
        translations = [self._text(*parts) for parts in zip(originals, sources, hypotheses)]
        return [
            {"target": text, "score": round(hypothesis.score, 6)} for text, hypothesis in zip(translations, hypotheses)
        ]

    def _text(self, original: str, source: np.ndarray, hypothesis: Found) -> str:
        """With unknown words taken from the source where they looked, if asked for."""
        tokens = [self.names[i] for i in hypothesis.ids]
        copied = self._options.copy_unknown and UNKNOWN_ID in hypothesis.ids
        if copied and (words := self._tokenizer.tokens(original)[: len(source)]):
            feeds = {"ids": source[None], "lengths": np.array([len(source)], np.int32)}
            tokens = decoding.with_copies(hypothesis.ids, tokens, words, self.writer.attention(feeds, hypothesis.ids))
        return joined(self.config.tokenize.kind, tokens)


class OnnxCaptioner(FieldPredictor):
    """{"caption", "score"} of each row's image."""

    backend = "onnx"

    def __init__(self, config: Config, folder: Path, graphs: Path, threads: int) -> None:
        super().__init__(config, config.spec.inputs)
        self.names = decoding.tokens_by_id(folder)
        self.writer = Writer(graphs, IMAGE_ENCODER, len(self.names))
        self._options = config.options(CaptioningConfig)
        self.images = ImageReader(config, folder)
        self._map = side_by_side(threads)

    def write(self, raw: np.ndarray, width: int) -> list[Found]:
        """Captions of (N, …) images as ingest left them."""
        limit, barred = self.config.tokenize.limit("caption"), decoding.never_written(False)

        def written(part: np.ndarray) -> list[Found]:
            return self.writer.write({"images": part}, np.full(len(part), limit), width, 0.0, barred)

        parts = [raw[start : start + AT_ONCE] for start in range(0, len(raw), AT_ONCE)]
        return [hypothesis for part in self._map(written, parts) for hypothesis in part]

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if not rows:
            return []
        raw = np.stack([self.images.read(row["image"]) for row in self.named(rows)])
        kind = self.config.tokenize.kind
        return [
            {"caption": joined(kind, [self.names[i] for i in hypothesis.ids]), "score": round(hypothesis.score, 6)}
            for hypothesis in self.write(raw, self._options.beam)
        ]


class OnnxAnswerer(OnnxTask):
    """{"answer", "probabilities"} of each row's image and question."""

    graph = ANSWERER

    def __init__(self, config: Config, folder: Path, graphs: Path, threads: int) -> None:
        super().__init__(config, folder, graphs, threads)
        self.names = decoding.tokens_by_id(folder / "answer")[decoding.SPECIAL :]
        self.images, self._confidence = ImageReader(config, folder), confidence.load(folder)

    def probabilities(self, questions: Sequence[np.ndarray], raw: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """(N, A) float32 of the answers, from (T,) int32 ids of each question; `raw` gives the images of (n,) rows."""
        probabilities = np.empty((len(questions), len(self.names)), np.float32)
        shape = len(self.names)
        run = lambda batch: self._run((len(batch.ids), shape), batch.ids, batch.lengths, images=raw(batch.rows))
        for batch, values in self._each(run, questions):
            probabilities[batch.rows] = values
        return probabilities

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if not rows:
            return []
        asked = self.named(rows)
        questions = [self._tokenizer.encode(row["question"], "question") for row in asked]
        images = np.stack([self.images.read(row["image"]) for row in asked])
        probabilities = self.probabilities(questions, lambda rows: images[rows])
        return decoding.labels_of(self.names, probabilities, "answer", self._confidence)


def image_example(model: OnnxCaptioner | OnnxAnswerer) -> list[dict[str, Any]]:
    """A row for the MLflow model: a picture of one colour, or a vector of zeros, as a data URL, and a question."""
    shape, file = model.images.raw_shape, io.BytesIO()
    if len(shape) == 3:
        file.write(f"P6 {shape[1]} {shape[0]} 255\n".encode() + np.full(shape, 128, PIXEL).tobytes())  # a PPM file
    else:
        np.save(file, np.zeros(shape, np.float32))
    address = "data:;base64," + base64.b64encode(file.getvalue()).decode()
    example = {"image": address, "question": "what is shown"}
    return [{column: example[field] for field, column in zip(model.config.spec.inputs, model.fields)}]
