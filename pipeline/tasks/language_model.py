"""Text imitation: the next character or word from all before it, by stateful truncated back-propagation through time.

The training text is cut into as many contiguous streams as are read side by side. An update reads the next `steps`
tokens of each, beginning in the states in which the update before ended; the gradient goes back to the update's first
token and no further (Williams and Peng 1990; Mikolov et al. 2010).
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mxnet import Context, nd

from pipeline.config import LanguageModelConfig
from pipeline.core.atomic_files import as_json
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation import ngrams, text_shape
from pipeline.evaluation.judged import Judged
from pipeline.models import writing
from pipeline.models.language_model import LanguageModel
from pipeline.models.sampled import Candidates, Sampler, chances_of
from pipeline.models.writing import Choice
from pipeline.tasks import decoding
from pipeline.tasks.base import StepLoss, Task
from pipeline.tasks.decoding import READ_IN
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import PADDING_ID, UNKNOWN_ID, load_tokenizer, load_vocabulary
from pipeline.tokenization.joining import joined
from pipeline.tokenization.tokenizers import END_OF_LINE

MAX_LOGITS = 2**24  # computed at once in judging
NEVER_WRITTEN = np.array([PADDING_ID, UNKNOWN_ID])
BLOCK = 100  # tokens of a judged text that are drawn together for the intervals: neighbours are not independent
SHAPE_TEXTS, SHAPE_TOKENS = 20, 3000  # written, and cut out of the test text, to count what closes and parses
CHARACTERS = ("verbatim", "character")


class StreamBatch(NamedTuple):
    """The next T tokens of this worker's n streams."""

    tokens: None  # the embedding has a dense gradient: every output needs the whole of it
    real: int  # tokens
    cells: int  # the same: nothing is padded
    ids: np.ndarray  # (T, n) int32
    targets: np.ndarray  # (T, n) int32, each the next of its id
    first: bool  # the streams' beginning: nothing was read before
    share: float  # this worker's part of all streams
    candidates: Candidates | None  # of a sampled softmax


class LanguageModelTask(Task):
    """One text in `text`, in the order of its records."""

    @property
    def options(self) -> LanguageModelConfig:
        """The task's own settings."""
        return self.config.options(LanguageModelConfig)

    def network(self) -> LanguageModel:
        """See LanguageModel; all its parameters have dense gradients."""
        config = self.config
        vocabulary = shards.vocabulary_size(self.folder)
        if config.options(LanguageModelConfig).sampled >= vocabulary:
            raise decoding.too_many_sampled("language_model", config.options(LanguageModelConfig).sampled, vocabulary)
        return LanguageModel(config.model, config.options(LanguageModelConfig), vocabulary, prefix="language_model_")

    # --- streams ------------------------------------------------------------------------------------------------------
    @functools.cached_property
    def streams(self) -> int:  # type: ignore[override]
        """Contiguous parts of the text read side by side, over all workers."""
        return self.options.streams

    @functools.cached_property
    def text(self) -> np.ndarray:
        """(L,) int32: the training text."""
        return decoding.running_text(self.train)

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """(segments + 1,) where each segment of a stream begins: all about equally long, none longer than `steps`."""
        per_stream = (len(self.text) - 1) // self.streams
        if per_stream < 1:
            raise InputError(
                f"the training text has {len(self.text)} tokens, too few for language_model.streams={self.streams}: "
                "lower it"
            )
        segments = -(-per_stream // self.options.steps)
        return per_stream * np.arange(segments + 1) // segments

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """(segments * streams, 1) int32."""
        return np.repeat(np.diff(self._starts), self.streams)[:, None].astype(np.int32)

    @functools.cached_property
    def _sampler(self) -> Sampler:
        chances = chances_of(self.text, shards.vocabulary_size(self.folder))
        return Sampler(chances, self.options.sampled)

    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> StreamBatch:
        segment, streams = int(shares[rank][0]) // self.streams, shares[rank] % self.streams
        begin, end = self._starts[segment : segment + 2]
        places = self._starts[-1] * streams[None, :] + np.arange(begin, end)[:, None]
        targets = self.text[places + 1]
        candidates = None
        if self.options.sampled:
            candidates = self._sampler.candidates(self._sampler.draw(np.random.default_rng(seed)), targets)
        return StreamBatch(
            tokens=None,
            real=targets.size,
            cells=targets.size,
            ids=self.text[places],
            targets=targets,
            first=segment == 0,
            share=len(streams) / self.streams,
            candidates=candidates,
        )

    def loss(self, network: LanguageModel, table: nd.NDArray | None, batch: StreamBatch, world: World) -> StepLoss:
        """Mean cross entropy, in nats, over all workers' tokens; the states it ends in are kept for the next update."""
        context = world.context
        states = network.begin(batch.ids.shape[1], context)
        if not batch.first:
            states = [self.carry[f"state{i}"].expand_dims(0) for i in range(len(states))]
        self.began = {f"state{i}": state.detach()[0] for i, state in enumerate(states)}
        outputs, after = network(nd.array(batch.ids, context, "int32"), states)
        self.carry = {f"state{i}": state.detach()[0] for i, state in enumerate(after)}
        targets = nd.array(batch.targets, context)
        if batch.candidates is None:
            losses = network.losses(outputs, targets)
        else:
            losses = network.sampled_losses(outputs, targets, batch.candidates)
        # workers may hold different numbers of streams: the average of their weighted means is the mean over all
        value = losses.mean().reshape(1) * (batch.share * world.size)
        return StepLoss(value, value)

    # --- judging ------------------------------------------------------------------------------------------------------
    def validate(self, network: LanguageModel, world: World) -> dict[str, float]:
        """nats and perplexity per token of the validation text."""
        nats = float(self.judge(network, self.split_text("valid"), world).mean(dtype=np.float64))
        return world.agree({"nats": nats, "perplexity": math.exp(min(nats, 700.0))}, "validation")

    def split_text(self, split: str) -> np.ndarray:
        """(L,) int32 tokens of a split. Raises InputError where there is nothing to predict."""
        text = decoding.running_text(shards.open_split(self.folder, split, self.config.task))
        if len(text) < 2:
            raise InputError(f"the {split} text has {len(text)} tokens, nothing to predict: raise ingest.split.{split}")
        return text

    def judge(self, network: LanguageModel, text: np.ndarray, world: World) -> np.ndarray:
        """(L - 1,) float32 nats of each token of (L,) text but the first, on every rank; the whole softmax always.

        The text is cut into parts that are read side by side, shared out over the workers.
        """
        predicted = len(text) - 1
        places, judged = decoding.side_by_side(predicted, self.streams, READ_IN, world.rank, world.size)
        nats = np.zeros(0, np.float32)
        if judged:
            losses = self._nats(network, text[places], text[places + 1], world.context)
            nats = np.concatenate([column[steps] for column, steps in zip(losses.T, judged)])
        return world.gather_numpy(nats, "nats")

    def _nats(self, network: LanguageModel, ids: np.ndarray, targets: np.ndarray, context: Context) -> np.ndarray:
        """(T, n) float32 cross entropies of n texts read from their beginning."""
        steps, count = ids.shape
        at_once = max(1, MAX_LOGITS // (count * network.vocabulary))
        states, packed = network.begin(count, context), network.packed(context)
        losses = []
        for start in range(0, steps, at_once):
            part = slice(start, start + at_once)
            outputs, states = network(nd.array(ids[part], context, "int32"), states, packed)
            losses.append(network.losses(outputs, nd.array(targets[part], context)).asnumpy().reshape(-1, count))
        return np.concatenate(losses)

    def evaluate(self, network: LanguageModel, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        """nats and bits beside bigrams and unigrams, block by block; what the model writes, and its shape.

        Also writes predictions.jsonl (the blocks) and written.txt (samples).
        """
        text = self.split_text("test")
        nats = self.judge(network, text, world)
        if world.rank > 0:
            return {}
        size = network.vocabulary
        systems = {"model": nats.astype(np.float64)}
        systems |= {
            "bigram": ngrams.bigram_nats(self.text, text, size),
            "unigram": ngrams.unigram_nats(self.text, text, size),
        }
        starts = np.arange(0, len(nats), BLOCK)
        counts = np.diff(np.append(starts, len(nats)))
        sums = {name: np.add.reduceat(values, starts) / counts for name, values in systems.items()}
        judged = Judged(
            unit=f"blocks of {BLOCK} tokens",
            ids=[str(start) for start in starts],
            texts=[self.written(text[start + 1 : start + 1 + BLOCK]) for start in starts],
            groups=None,
            slices={},
            values={(name, "nats"): values for name, values in sums.items()}
            | {(name, "bits"): values / math.log(2) for name, values in sums.items()},
            weights={(name, unit): counts.astype(np.float64) for name in sums for unit in ("nats", "bits")},
        )
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for i, (place, shown) in enumerate(zip(judged.ids, judged.texts)):
                line = {"id": place, "text": shown} | {
                    name: round(float(values[i]), 4) for name, values in sums.items()
                }
                file.write(as_json(line, ensure_ascii=False) + "\n")
        perplexities = {name: math.exp(min(values.mean(), 700.0)) for name, values in systems.items()}
        note = "perplexity: " + ", ".join(f"{name} {value:,.2f}" for name, value in perplexities.items())
        metrics = {f"test/{'' if name == 'model' else name + '/'}perplexity": p for name, p in perplexities.items()}
        shape_metrics, shape_lines = self._shape(network, text, world.context)
        (folder / "written.txt").write_text(self._samples(network, world.context), encoding="utf-8")
        return metrics | shape_metrics | self.write_tables(folder, {"tokens": (judged, "bigram")}, note + shape_lines)

    def _shape(self, network: LanguageModel, text: np.ndarray, context: Context) -> tuple[dict[str, float], str]:
        """The shape of written texts and of as many equally long ones from the test text, as metrics and as lines."""
        kind = self.config.evaluate.shape
        if kind is None:
            return {}, ""
        count = max(1, min(SHAPE_TEXTS, len(text) // SHAPE_TOKENS))
        length = min(SHAPE_TOKENS, len(text))
        begins = (len(text) - length) * np.arange(count) // max(1, count - 1)
        real = text_shape.counted(kind, [self.written(text[begin : begin + length]) for begin in begins])
        written = text_shape.counted(kind, self.write_several(network, count, length, Choice(), context))
        name = text_shape.KINDS[kind][0].replace(" ", "_")
        shares = {f"test/{name}": written.share, f"test/real/{name}": real.share}
        return {key: share for key, share in shares.items() if not math.isnan(share)}, "\n\n" + text_shape.lines(
            kind, written, real
        ).rstrip("\n")

    def _samples(self, network: LanguageModel, context: Context) -> str:
        length = self.options.sample_tokens
        parts = []
        for temperature in (0.5, 0.8, 1.0):
            [text] = self.write_several(network, 1, length, Choice(temperature), context)
            parts.append(f"--- temperature {temperature} ---\n{text}\n")
        return "\n".join(parts)

    # --- writing ------------------------------------------------------------------------------------------------------
    @functools.cached_property
    def tokens(self) -> list[str]:
        """(V,) the tokens by id."""
        return decoding.tokens_by_id(self.folder)

    @functools.cached_property
    def beginning(self) -> int:
        """The token that stands before a text: the end of a line, or the most frequent one where there is none."""
        ids = load_vocabulary(self.folder)
        return ids.get("\n", ids.get(END_OF_LINE, UNKNOWN_ID + 1))

    def written(self, ids: Sequence[int] | np.ndarray) -> str:
        """Tokens as text."""
        return joined(self.config.tokenize.kind, [self.tokens[i] for i in ids])

    def lead(self, network: LanguageModel, context: Context) -> np.ndarray:
        """(READ_IN + 2,) int32: what the model reads before anything else: a text that it writes by itself.

        Training begins in a state of zeros once an epoch and stream; without a lead a text would begin in a state that
        the model hardly knows.
        """
        rng, start = np.random.default_rng(self.config.seed), np.full((1, 1), self.beginning, np.int32)
        ids = writing.write(network, start, READ_IN, Choice(), rng, context, NEVER_WRITTEN)
        return np.concatenate([start[0], *ids, start[0]])

    def prompt(self, text: str) -> tuple[np.ndarray, list[str]]:
        """(T,) int32 tokens of a prompt, the beginning before them, and the words among them that the model lacks.

        Raises:
            InputError: it has characters that the model was never shown: unlike a word, none can stand for them.
        """
        tokenizer = load_tokenizer(self.folder)
        tokens = tokenizer.tokens(text)
        ids = tokenizer.encode(text, "text") if tokens else np.zeros(0, np.int32)
        unknown = list(dict.fromkeys(token for token, i in zip(tokens, ids) if i == UNKNOWN_ID))
        if unknown and self.config.tokenize.kind in CHARACTERS:
            raise InputError(
                f"the prompt has characters that the model has never seen: {' '.join(map(repr, unknown[:10]))}; "
                "leave them out"
            )
        return np.concatenate([np.array([self.beginning], np.int32), ids]), unknown

    def go_on(
        self, network: LanguageModel, prompt: np.ndarray, length: int, choice: Choice, seed: int, context: Context
    ) -> Iterator[str]:
        """Yields what `length` tokens add to the prompt's text, one by one."""
        rng, before = np.random.default_rng(seed), prompt[1:].tolist()
        shown = self.written(before)
        whole = np.concatenate([self.lead(network, context), prompt[1:]])[:, None]
        for chosen in writing.write(network, whole, length, choice, rng, context, NEVER_WRITTEN):
            before.append(int(chosen[0]))
            text = self.written(before)
            yield text[len(shown) :]
            shown = text

    def likeliest(
        self, network: LanguageModel, prompt: np.ndarray, length: int, beam: int, context: Context
    ) -> tuple[str, float]:
        """What beam search adds to the prompt's text, and its nats. Raises InputError where the beam is too wide."""
        whole = np.concatenate([self.lead(network, context), prompt[1:]])
        try:
            ids, log_chance = writing.likeliest(network, whole, length, beam, context, NEVER_WRITTEN)
        except ValueError as error:
            raise InputError(f"{error}: choose a narrower one") from None
        return self.written([*prompt[1:], *ids])[len(self.written(prompt[1:])) :], -log_chance

    def write_several(
        self, network: LanguageModel, count: int, length: int, choice: Choice, context: Context
    ) -> list[str]:
        """Texts that the model writes by itself, the same for the same seed of the configuration."""
        rng, lead = np.random.default_rng(self.config.seed), self.lead(network, context)
        prompt = np.repeat(lead[:, None], count, axis=1)
        ids = np.stack(list(writing.write(network, prompt, length, choice, rng, context, NEVER_WRITTEN)), axis=1)
        return [self.written(row) for row in ids]

    def sample(self, network: LanguageModel, context: Context) -> str:
        """What the model writes by itself, with the same draws at each validation."""
        [text] = self.write_several(network, 1, self.options.sample_tokens, Choice(), context)
        return text + "\n"

    def predict(
        self, network: LanguageModel, rows: Sequence[Mapping[str, Any]], context: Context
    ) -> list[dict[str, Any]]:
        """How much each row's `text` surprises the model: tokens, nats per token and perplexity."""
        tokenizer, lead, predictions = load_tokenizer(self.folder), self.lead(network, context), []
        for row in rows:
            if not isinstance(row.get("text"), str):
                raise InputError("a row for task language_model needs a `text`")
            text = tokenizer.encode(row["text"], "text")
            ids = np.concatenate([lead, text])
            judged = self._nats(network, ids[:-1, None], ids[1:, None], context)[-len(text) :]
            nats = float(judged.mean(dtype=np.float64))
            predictions.append({"tokens": len(text), "nats": nats, "perplexity": math.exp(min(nats, 700.0))})
        return predictions
