"""Translation: a text in, a text out, learnt with teacher forcing and written by beam search."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mxnet import Context, nd

from pipeline.config import TranslationConfig
from pipeline.core.atomic_files import as_json
from pipeline.distributed.world import World
from pipeline.evaluation import phrase_table, translation
from pipeline.evaluation.judged import Judged, shown
from pipeline.models.beam import Found
from pipeline.models.search import search
from pipeline.models.translator import Translator
from pipeline.reporting import tables, translation_plots
from pipeline.tasks import decoding
from pipeline.tasks.base import StepLoss, texts_of
from pipeline.tasks.length_bucketing import like_lengths
from pipeline.tasks.teacher_forcing import WritingTask, gather_found, mean_nats, teacher
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import UNKNOWN_ID, load_tokenizer
from pipeline.tokenization.joining import joined

HEAT_MAPS = 8  # drawn by evaluate
TRIED = 200  # validation sentences that choose the statistical translator's weight
CELLS = 4096  # source tokens decoded side by side: bounds the memory of a beam's scores


class TranslationBatch(NamedTuple):
    """n pairs of one worker, padded to its longest source (Ts) and target (Tt); N and M over all workers."""

    tokens: None  # the embedding has a gradient of its own
    real: int  # tokens of the texts
    cells: int  # the same with padding
    source: np.ndarray  # (Ts, n) int32, time first, 0 on padding
    source_lengths: np.ndarray  # (n,) int32
    inputs: np.ndarray  # (Tt + 1, n) int32: the border, then the target's tokens, 0 on padding
    places: np.ndarray  # (m,) int32: where targets stand in (Tt + 1) * n steps
    targets: np.ndarray  # (m,) int32: what each step must write; after the last token the border
    total: int  # targets of all workers, M; before `joined`, of this one


class Translation(WritingTask):
    """The task."""

    @property
    def options(self) -> TranslationConfig:
        """The task's own settings."""
        return self.config.options(TranslationConfig)

    sides = ("source", "target")

    def network(self) -> Translator:
        """Encoder and decoder over one vocabulary."""
        options = self.options
        return Translator(self.config.model, len(self.vocabulary), options.attention, prefix="translator_")

    # --- training -----------------------------------------------------------------------------------------------------
    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> TranslationBatch:
        (ids, sizes), target = (
            shards.padded(self.read(side, self.train.rows[side][shares[rank]], seed)) for side in self.sides
        )
        forced = teacher(*target, self.border)
        return TranslationBatch(
            tokens=None,
            real=int(sizes.sum() + target[1].sum()),
            cells=int(len(sizes) * (sizes.max() + target[1].max())),
            source=ids.T.copy(),
            source_lengths=sizes,
            inputs=forced.inputs,
            places=forced.places,
            targets=forced.targets,
            total=len(forced.targets),
        )

    def told(self, batch: TranslationBatch) -> np.ndarray:
        """See Task: how many targets there are."""
        return np.array([len(batch.targets)], np.int32)

    def joined(self, batch: TranslationBatch, told: np.ndarray, rank: int) -> TranslationBatch:
        """See Task: how many targets all workers have."""
        return batch._replace(total=int(told.sum()))

    def loss(self, network: Translator, table: nd.NDArray | None, batch: TranslationBatch, world: World) -> StepLoss:
        """Mean cross entropy, with label smoothing, over all workers' target tokens."""
        losses = self._losses(network, batch, world.context, self.options.label_smoothing)
        value = losses.sum().reshape(1) * (world.size / batch.total)
        return StepLoss(value, value)

    def _losses(
        self, network: Translator, batch: TranslationBatch, context: Context, smoothing: float = 0.0
    ) -> nd.NDArray:
        """(m,) of a batch's steps."""
        memory, state = network.encode(
            nd.array(batch.source, context, "int32"), nd.array(batch.source_lengths, context, "int32")
        )
        features, _ = network(nd.array(batch.inputs, context, "int32"), state, memory)
        step_features = nd.take(features.reshape((-3, 0)), nd.array(batch.places, context, "int32"))
        return network.words.losses(step_features, nd.array(batch.targets, context, "int32"), smoothing)

    # --- writing ------------------------------------------------------------------------------------------------------
    def _write(
        self, network: Translator, sources: list[np.ndarray], context: Context, beam: int, alpha: float,
        rank: int = 0, size: int = 1,
    ) -> dict[int, Found]:  # fmt: skip
        """The likeliest texts for this worker's share of source ids, by number."""
        options = self.options
        hypotheses: dict[int, Found] = {}
        barred = decoding.never_written(options.copy_unknown)
        lengths = np.array([len(ids) for ids in sources], np.int32)
        for part in like_lengths(lengths, rank, size, max(1, CELLS // beam)):
            memory, state = network.encode(*_padded([sources[row] for row in part], context))
            limits = decoding.target_limits(lengths[part], options.max_target_share)
            texts = search(network.step, state, list(memory), limits, self.border, beam, alpha, barred)
            hypotheses |= dict(zip(part.tolist(), texts))
        return hypotheses

    def _attention(self, network: Translator, source: np.ndarray, target: list[int], context: Context) -> np.ndarray:
        """(T + 1, L) weights while writing a target and the border behind it."""
        memory, state = network.encode(*_padded([source], context))
        inputs = nd.array(np.array([[self.border, *target]]).T, context, "int32")
        weights: np.ndarray = network(inputs, state, memory)[1][0].asnumpy()
        return weights

    def _text(self, network: Translator, source: np.ndarray, words: list[str], ids: list[int], context: Context) -> str:
        """The text that ids stand for; unknown words are taken from the source where they looked, if asked for."""
        tokens = self.tokens(ids)
        if self.options.copy_unknown and words and UNKNOWN_ID in ids:
            tokens = decoding.with_copies(ids, tokens, words, self._attention(network, source, ids, context))
        return joined(self.config.tokenize.kind, tokens)

    # --- judging ------------------------------------------------------------------------------------------------------
    def validate(self, network: Translator, world: World) -> dict[str, float]:
        """BLEU, chrF and exact matches of what is written greedily, and nats per token with teacher forcing.

        References are the targets as tokenized and joined again.
        """
        split = self.judged("valid")
        nats = self._nats(network, split, world)
        field = split.fields["source"]
        own_hypotheses = self._write(
            network, [field.ids(r) for r in range(len(field))], world.context, 1, 0.0, world.rank, world.size
        )
        hypotheses = gather_found(own_hypotheses, len(field), world)
        kind, lowercase = self.config.tokenize.kind, self.config.tokenize.lowercase
        to_text = lambda ids: joined(kind, self.tokens(ids))
        targets = split.fields["target"]
        references = [[to_text(targets.ids(row))] for row in split.rows["target"].tolist()]
        texts = [to_text(hypotheses[row].ids) for row in split.rows["source"].tolist()]
        metrics = translation.scored(texts, references, nats, lowercase, self.options.bleu_tokenizer)
        return world.agree(metrics, "validation")

    def _nats(self, network: Translator, split: shards.Split, world: World) -> float:
        """Mean cross entropy per target token, the border included."""
        lengths = sum(split.fields[side].lengths[split.rows[side]] for side in self.sides)

        def losses(part: np.ndarray) -> nd.NDArray:
            ids, sizes = split.fields["source"].padded(split.rows["source"][part])
            forced = self.forced(split, "target", part)
            batch = TranslationBatch(None, 0, 0, ids.T.copy(), sizes, *forced, total=0)
            return self._losses(network, batch, world.context)

        return mean_nats(map(losses, like_lengths(lengths, world.rank, world.size)), world)

    def evaluate(self, network: Translator, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        """Beside a translation memory and the source copied; also writes predictions.jsonl, alignments.json and
        attention-NN.png."""
        split = self.judged("test")
        options, field = self.options, split.fields["source"]
        sources = [field.ids(row) for row in range(len(field))]
        begun = time.perf_counter()
        own_hypotheses = self._write(
            network, sources, world.context, options.beam, options.length_penalty, world.rank, world.size
        )
        hypotheses = gather_found(own_hypotheses, len(sources), world)
        rate = len(sources) / (time.perf_counter() - begun)
        if world.rank > 0:
            return {}
        tokenizer = load_tokenizer(self.folder)
        originals = texts_of(ingested, split, "source")  # a record is a segment, whatever others have the same source
        references = [[target] for target in texts_of(ingested, split, "target")]
        rows = split.rows["source"].tolist()
        first = dict(zip(rows[::-1], originals[::-1]))
        words = [tokenizer.tokens(first[row])[: len(ids)] for row, ids in enumerate(sources)]
        written = [
            self._text(network, source, known, ids, world.context)
            for source, known, (ids, _) in zip(sources, words, hypotheses)
        ]
        remembered, likeness = self._remembered(sources, ingested)
        systems = {
            "model": [written[row] for row in rows],
            "memory": [remembered[row] for row in rows],
            "copy": originals,
        }
        note = ""
        if self.config.evaluate.phrase_table:
            statistical, note = self._statistical(sources, network, rate)
            systems["phrase_table"] = [statistical[row] for row in rows]
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for key, row, original, known in zip(split.ids, rows, originals, references):
                line = {"id": key, "source": original, "target": written[row], "references": known}
                file.write(as_json(line | {"score": round(hypotheses[row].score, 6)}, ensure_ascii=False) + "\n")
        self._draw_attention(network, sources[:HEAT_MAPS], [ids for ids, _ in hypotheses[:HEAT_MAPS]], world, folder)
        return self._tables(systems, references, originals, likeness[rows], split, folder, note)

    def _draw_attention(
        self, network: Translator, sources: list[np.ndarray], written: list[list[int]], world: World, folder: Path
    ) -> None:
        """Where each written token looked: a picture each, and alignments.json for the report's page."""
        entries = []
        for number, (source, ids) in enumerate(zip(sources, written), 1):
            weights = self._attention(network, source, ids, world.context)
            columns = self.tokens(source)
            rows = [*self.tokens(ids), "(end)"]
            translation_plots.heat_map(weights, columns, rows, folder / f"attention-{number:02d}.png")
            entry = {"title": " ".join(columns), "rows": rows, "columns": columns, "label": "attention"}
            entry |= {"axes": ["written tokens", "source tokens"], "values": np.round(weights, 4).tolist()}
            entries.append(entry)
        (folder / "alignments.json").write_text(as_json(entries, ensure_ascii=False), encoding="utf-8")

    def _tables(
        self, systems: dict[str, list[str]], references: list[list[str]], originals: list[str], likeness: np.ndarray,
        split: shards.Split, folder: Path, note: str,
    ) -> dict[str, float]:  # fmt: skip
        """Writes table.txt and metrics.json: corpus scores, and sentence by sentence what can be resampled."""
        settings, lowercase = self.config.evaluate, self.config.tokenize.lowercase
        judge = translation.judges(lowercase, self.options.bleu_tokenizer)
        compared, signatures = translation.comparison(systems, references, judge, settings.bootstrap_samples)
        values = {(name, "exact"): translation.exact(texts, references, lowercase) for name, texts in systems.items()}
        values |= {
            (name, "sentence_chrf"): translation.sentence_chrf(judge, texts, references)
            for name, texts in systems.items()
        }
        field = split.fields["source"]
        judged = Judged(
            unit="sentences",
            ids=list(split.ids),
            texts=[shown(text) for text in originals],
            groups=None,
            slices={
                "source length (tokens)": field.lengths[split.rows["source"]].astype(np.float64),
                "likeness of the nearest training source": likeness,
            },
            values=values,
        )
        flat = self.write_tables(folder, {"sentences": (judged, "memory")}, note)
        table = tables.table_text(compared, f"{self.config.name}: test split, corpus") + "\n".join(signatures) + "\n"
        flat |= tables.flat_metrics("test", compared)
        everything = {"corpus": compared}
        if (places := translation.unlike(likeness)) is not None:
            some = {name: [texts[i] for i in places] for name, texts in systems.items()}
            unlike, _ = translation.comparison(some, [references[i] for i in places], judge, settings.bootstrap_samples)
            table += "\n" + tables.table_text(unlike, f"{self.config.name}: unlike training, corpus")
            table += (
                f"the {len(places):,} test sentences to which no training source has a cosine of {translation.LIKE}\n"
            )
            flat |= tables.flat_metrics("test/unlike", unlike)
            everything["unlike_training"] = unlike
        rest = (folder / "table.txt").read_text(encoding="utf-8")
        (folder / "table.txt").write_text("\n".join([table, rest]), encoding="utf-8")
        everything |= json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        (folder / "metrics.json").write_text(as_json(everything, indent=1), encoding="utf-8")
        return flat

    def _statistical(self, sources: list[np.ndarray], network: Translator, rate: float) -> tuple[list[str], str]:
        """Translations by a phrase table of the training split, and a line of both systems' size and speed.

        Args:
            rate: sentences that the network wrote per second.
        """
        train, valid = self.train, shards.open_split(self.folder, "valid", self.config.task)
        known, targets = ([train.fields[side].ids(row) for row in train.rows[side].tolist()] for side in self.sides)
        tried = valid.rows["source"][:TRIED].tolist(), valid.rows["target"][:TRIED].tolist()
        to_text = lambda ids: joined(self.config.tokenize.kind, [self.vocabulary[i] for i in ids if i != UNKNOWN_ID])
        judge = translation.judges(self.config.tokenize.lowercase, self.options.bleu_tokenizer)
        references = [[to_text(valid.fields["target"].ids(row))] for row in tried[1]]
        translator = phrase_table.fitted(
            known, targets, len(self.vocabulary), [valid.fields["source"].ids(row) for row in tried[0]],
            lambda written: judge.scores([to_text(ids) for ids in written], references)["bleu"],
        )  # fmt: skip
        begun = time.perf_counter()
        written = [to_text(translator.translate(source)) for source in sources]
        seconds = time.perf_counter() - begun
        with tempfile.TemporaryDirectory() as folder:
            size = translator.table.write(Path(folder) / "table.parquet")
        parameters = sum(4 * p.data().size for p in network.collect_params().values())
        return written, (
            f"model: {parameters / 1e6:.1f} MB, {rate:.1f} sentences/s; phrase_table: {size / 1e6:.1f} MB for "
            f"{translator.table.pairs:,} phrase pairs and {len(translator.language):,} counted word sequences, "
            f"{len(sources) / seconds:.1f} sentences/s"
        )

    def _remembered(self, sources: list[np.ndarray], ingested: Path) -> tuple[list[str], np.ndarray]:
        """For each source the target of the nearest training source, and how like it that is."""
        field = self.train.fields["source"]
        closest = translation.nearest([field.ids(r) for r in range(len(field))], sources, len(self.vocabulary))
        targets = texts_of(ingested, self.train, "target", "train")
        first = dict(zip(self.train.rows["source"].tolist()[::-1], targets[::-1]))
        return [first[row] for row in closest.places.tolist()], closest.likeness

    def predict(self, network: Translator, rows: Sequence[Mapping[str, Any]], context: Context) -> list[dict[str, Any]]:
        """For each row's `source` the `target`, and its log probability over the length penalty."""
        tokenizer, options = load_tokenizer(self.folder), self.options
        originals = [str(row["source"]) for row in rows]
        sources = [tokenizer.encode(text, "source") for text in originals]
        hypotheses = self._write(network, sources, context, options.beam, options.length_penalty)
        return [
            {
                "target": self._text(network, ids, tokenizer.tokens(text)[: len(ids)], hypotheses[row].ids, context),
                "score": round(hypotheses[row].score, 6),
            }
            for row, (text, ids) in enumerate(zip(originals, sources))
        ]


def _padded(sources: list[np.ndarray], context: Context) -> tuple[nd.NDArray, nd.NDArray]:
    """(T, N) ids and (N,) lengths."""
    ids, lengths = shards.padded(sources)
    return nd.array(ids.T, context, "int32"), nd.array(lengths, context, "int32")
