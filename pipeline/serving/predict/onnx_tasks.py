"""Classification, tagging and cloze by ONNX Runtime. Imports no MXNet, and nothing that does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.config import Config, TaggingConfig
from pipeline.evaluation import confidence, naive_bayes
from pipeline.ingest.rows import BadRow
from pipeline.serving.model_folder import read_parameters
from pipeline.serving.onnx import session
from pipeline.serving.onnx.session import Shape
from pipeline.serving.predict.base import FieldPredictor
from pipeline.serving.predict.text_encoder import Batch, batches, side_by_side
from pipeline.tasks import decoding
from pipeline.tokenization.encoder import load_tokenizer

Made = TypeVar("Made")


class OnnxTexts(FieldPredictor):
    """What reads texts with a tokenizer; so many batches as `threads` go through the graphs at once."""

    backend = "onnx"

    def __init__(self, config: Config, folder: Path, threads: int) -> None:
        super().__init__(config, config.spec.inputs)
        self._tokenizer, self._map = load_tokenizer(folder), side_by_side(threads)

    def _each(self, work: Callable[[Batch], Made], texts: Sequence[np.ndarray]) -> Iterator[tuple[Batch, Made]]:
        """Batches of texts, given as (T,) int32 ids each, with what `work` makes of them."""
        lengths = np.array([len(ids) for ids in texts], np.int32)
        parts = list(batches(np.concatenate([np.zeros(0, np.int32), *texts]), lengths))
        return zip(parts, self._map(work, parts))


class OnnxTask(OnnxTexts):
    """A task's one graph, its tokenizer and its vocabulary.

    Args:
        folder: the model's; `graphs`: where its graph is, the same if it is exported.

    Raises:
        InputError: a file is missing or damaged.
    """

    graph: str  # its file

    def __init__(self, config: Config, folder: Path, graphs: Path, threads: int) -> None:
        super().__init__(config, folder, threads)
        self._session = session.session(graphs / self.graph)

    def _run(self, shape: Shape, ids: np.ndarray, lengths: np.ndarray, **more: np.ndarray) -> np.ndarray:
        """The graph's one output, of that shape. Raises InputError."""
        outputs = session.run(self._session, {"ids": ids, "lengths": lengths, **more}, shape)
        return np.asarray(outputs[0])


class OnnxClassifier(OnnxTask):
    """{"label", "probabilities"} of each row's text."""

    graph = "classifier.onnx"

    def __init__(self, config: Config, folder: Path, graphs: Path, threads: int) -> None:
        super().__init__(config, folder, graphs, threads)
        self.names = decoding.tokens_by_id(folder / "label")[decoding.SPECIAL :]
        self._joined, self._confidence = naive_bayes.load(folder, len(self.names)), confidence.load(folder)

    def probabilities(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """(N, C) float32 of the network alone, from (T,) int32 ids of each text, at least one."""
        probabilities = np.empty((len(texts), len(self.names)), np.float32)
        width = len(self.names)
        run = lambda batch: self._run((len(batch.ids), width), batch.ids, batch.lengths)
        for batch, values in self._each(run, texts):
            probabilities[batch.rows] = values
        return probabilities

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        texts = [self._tokenizer.encode(row["text"], "text") for row in self.named(rows)]
        probabilities = self.probabilities(texts)
        if self._joined is not None:
            probabilities = self._joined.probabilities(probabilities, texts)
        return decoding.labels_of(self.names, probabilities, "label", self._confidence)


class OnnxTagger(OnnxTask):
    """{"words", "tags"} of each row's text."""

    graph = "tagger.onnx"

    def __init__(self, config: Config, folder: Path, graphs: Path, threads: int) -> None:
        super().__init__(config, folder, graphs, threads)
        self.names = decoding.tokens_by_id(folder / "tags")[decoding.SPECIAL :]
        self._transitions = read_parameters(folder)["transitions"] if config.options(TaggingConfig).crf else None
        self._speller = load_tokenizer(folder / "letters") if config.options(TaggingConfig).characters else None
        self._space = decoding.space_of(folder) if config.options(TaggingConfig).characters else -1

    def tags(self, words: Sequence[np.ndarray], letters: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(T,) places among `names` for each sentence.

        Args:
            words: (T,) int32 ids of each; letters: of each, asked for with tagging.characters alone.
        """

        def scored(batch: Batch) -> np.ndarray:
            more = self._letters([letters[row] for row in batch.rows], batch.ids.shape[1], batch.lengths)
            return self._run((*batch.ids.shape, len(self.names)), batch.ids, batch.lengths, **more)

        tags: list[np.ndarray] = [np.zeros(0, int)] * len(words)
        for batch, values in self._each(scored, words):
            for row, length, scores in zip(batch.rows, batch.lengths, values):
                scores = scores[:length]
                tags[row] = (
                    scores.argmax(axis=1) if self._transitions is None else decoding.viterbi(scores, self._transitions)
                )
        return tags

    def _letters(self, sentences: list[np.ndarray], steps: int, lengths: np.ndarray) -> dict[str, np.ndarray]:
        if self._speller is None:
            return {}
        letters, sizes, [places] = decoding.spelled(sentences, [(steps, lengths)], self._space)
        if not len(sizes):  # no word at all: one that nothing points at, since the graph needs one
            letters, sizes = np.zeros((1, 1), np.int32), np.ones(1, np.int32)
        return {"letters": letters.T.copy(), "letter_lengths": sizes, "places": places.T.copy()}

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        texts = [" ".join(row["text"].split()) for row in self.named(rows)]
        words = [self._tokenizer.encode(text, "text") for text in texts]
        letters = [self._speller.encode(text, "letters") for text in texts] if self._speller else texts
        tags = [decoding.named(self.names, part) for part in self.tags(words, letters)]  # type: ignore[arg-type]
        return [{"words": text.split()[: len(part)], "tags": part} for text, part in zip(texts, tags)]


class OnnxCloze(OnnxTask):
    """{"fillings"}: for each ___ of a row's text the likeliest words."""

    graph = "cloze.onnx"

    def __init__(self, config: Config, folder: Path, graphs: Path, threads: int) -> None:
        super().__init__(config, folder, graphs, threads)
        self.names = decoding.tokens_by_id(folder)

    def check(self, row: Mapping[str, Any]) -> None:
        if decoding.BLANK not in self._named(row)["text"]:
            raise BadRow("no blank", f"write {decoding.BLANK} where a word is out")

    def filled(self, passages: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(B, V) log probabilities at each passage's blanks, from (T,) int32 ids and (T,) bool masks."""
        hidden = [np.where(mask, len(self.names), ids).astype(np.int32) for ids, mask in zip(passages, masks)]

        def scored(batch: Batch) -> np.ndarray:
            steps = [row * batch.ids.shape[1] + np.flatnonzero(masks[i]) for row, i in enumerate(batch.rows)]
            places = np.concatenate(steps).astype(np.int32)
            return self._run((len(places), len(self.names)), batch.ids, batch.lengths, places=places)

        log_probabilities: list[np.ndarray] = [np.zeros((0, len(self.names)), np.float32)] * len(hidden)
        for batch, values in self._each(scored, hidden):
            ends = np.cumsum([masks[row].sum() for row in batch.rows])[:-1]
            for row, part in zip(batch.rows, np.split(values, ends)):
                log_probabilities[row] = part
        return log_probabilities

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        read = [decoding.read_blanks(row["text"], self._tokenizer) for row in self.named(rows)]
        log_probabilities = self.filled([ids for ids, _ in read], [mask for _, mask in read])
        return [{"fillings": decoding.fillings(self.names, values)} for values in log_probabilities]
