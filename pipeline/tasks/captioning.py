"""Captioning: an image in, a sentence out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mxnet import Context, nd

from pipeline.config import CaptioningConfig
from pipeline.core.atomic_files import as_json
from pipeline.distributed.world import World
from pipeline.evaluation import captions
from pipeline.evaluation.judged import Judged
from pipeline.models.beam import Found
from pipeline.models.captioner import Captioner
from pipeline.models.search import search
from pipeline.reporting import captions_page, tables
from pipeline.tasks import decoding
from pipeline.tasks.base import StepLoss, texts_of
from pipeline.tasks.images import ImageTask
from pipeline.tasks.teacher_forcing import WritingTask, gather_found, mean_nats, teacher
from pipeline.tokenization import shards
from pipeline.tokenization.joining import joined

AT_ONCE = 128  # images whose captions are written side by side
SHOWN = 120  # images on the page


class CaptionBatch(NamedTuple):
    """n captions of one worker with their images; N captions and M tokens over all workers."""

    tokens: None  # the embedding has a gradient of its own
    real: int  # tokens of the captions
    cells: int  # the same with padding
    images: np.ndarray  # (n, *shape)
    inputs: np.ndarray  # (T + 1, n) int32: the border, then the caption's tokens, 0 on padding
    places: np.ndarray  # (m,) int32: where targets stand in (T + 1) * n steps
    targets: np.ndarray  # (m,) int32: what each step must write; after the last token the border
    total: int  # targets of all workers, M


class Captioning(WritingTask, ImageTask):
    """The task."""

    @property
    def options(self) -> CaptioningConfig:
        """The task's own settings."""
        return self.config.options(CaptioningConfig)

    sides = ("caption",)

    def network(self) -> Captioner:
        return Captioner(
            self.config.model, len(self.vocabulary), self.options.inject, self.images.shape,
            self.options.net, prefix="captioner_",
        )  # fmt: skip

    # --- training -----------------------------------------------------------------------------------------------------
    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> CaptionBatch:
        lengths = [self.lengths[share, 0] for share in shares]
        forced = self.forced(self.train, "caption", shares[rank])
        return CaptionBatch(
            tokens=None,
            real=int(lengths[rank].sum()),
            cells=int(len(lengths[rank]) * lengths[rank].max(axis=0).sum()),
            images=self.seen[self.train.rows["image"][shares[rank]]],
            inputs=forced.inputs,
            places=forced.places,
            targets=forced.targets,
            total=sum(int(part.sum()) + len(part) for part in lengths),
        )

    def loss(self, network: Captioner, table: nd.NDArray | None, batch: CaptionBatch, world: World) -> StepLoss:
        """Mean cross entropy over all workers' tokens."""
        losses = self._losses(network, batch, world.context)
        value = losses.sum().reshape(1) * (world.size / batch.total)
        return StepLoss(value, value)

    def _losses(self, network: Captioner, batch: CaptionBatch, context: Context) -> nd.NDArray:
        """(m,) of a batch's steps."""
        state, memory = network.look(nd.array(batch.images, context, batch.images.dtype))
        features, _, _ = network(nd.array(batch.inputs, context, "int32"), state, memory)
        step_features = nd.take(features.reshape((-3, 0)), nd.array(batch.places, context, "int32"))
        return network.words.losses(step_features, nd.array(batch.targets, context, "int32"))

    # --- writing ------------------------------------------------------------------------------------------------------
    def _write(self, network: Captioner, seen: np.ndarray, context: Context, beam: int) -> list[Found]:
        """Captions of (n, *shape) images."""
        limit, never, hypotheses = self.config.tokenize.limit("caption"), decoding.never_written(False), []
        for start in range(0, len(seen), AT_ONCE):
            part = seen[start : start + AT_ONCE]
            state, memory = network.look(nd.array(part, context, part.dtype))
            limits = np.full(len(part), limit)
            hypotheses += search(network.step, state, memory, limits, self.border, beam, 0.0, never)
        return hypotheses

    def _looked(
        self, network: Captioner, rows: np.ndarray, written: list[list[int]], context: Context
    ) -> list[np.ndarray]:
        """For each of n images the (T, L) places that its T written tokens looked at; none without attention."""
        if not network.decoder.kind or not len(rows):
            return []
        seen = self.images.seen(self.images.raw[rows], context)
        state, memory = network.look(nd.array(seen, context, seen.dtype))
        forced = teacher(*shards.padded([np.array(ids, np.int32) for ids in written]), self.border)
        weights = network(nd.array(forced.inputs, context, "int32"), state, memory)[2].asnumpy()
        return [part[: len(ids)] for part, ids in zip(weights, written)]

    def _write_split(self, network: Captioner, split: shards.Split, world: World, beam: int) -> list[Found]:
        """Captions of a split's distinct images, the work shared out over the workers."""
        rows = self.images.rows_of(split.fields["image"])
        own_images = np.arange(len(rows))[world.rank :: world.size]
        seen = self.images.seen(self.images.raw[rows[own_images]], world.context)
        hypotheses = self._write(network, seen, world.context, beam)
        return gather_found(dict(zip(own_images.tolist(), hypotheses)), len(rows), world)

    # --- judging ------------------------------------------------------------------------------------------------------
    def validate(self, network: Captioner, world: World) -> dict[str, float]:
        """Exact captions, BLEU-1 to 4 and CIDEr of what is written greedily, and nats per token."""
        split = self.judged("valid")
        hypotheses = self._write_split(network, split, world, beam=1)
        metrics = captions.scores(
            [self.tokens(ids) for ids, _ in hypotheses], decoding.captions_given(split, self.vocabulary)
        )
        return world.agree(metrics | {"nats": self._nats(network, split, world)}, "validation")

    def _nats(self, network: Captioner, split: shards.Split, world: World) -> float:
        """Mean cross entropy per token, the border included."""
        images = self.images.rows_of(split.fields["image"])
        own_records = np.arange(len(split.relevance))[world.rank :: world.size]

        def losses(start: int) -> nd.NDArray:
            part = own_records[start : start + AT_ONCE]
            forced = self.forced(split, "caption", part)
            seen = self.images.seen(self.images.raw[images[split.rows["image"][part]]], world.context)
            return self._losses(network, CaptionBatch(None, 0, 0, seen, *forced, total=0), world.context)

        return mean_nats(map(losses, range(0, len(own_records), AT_ONCE)), world)

    def evaluate(self, network: Captioner, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        """Beside the nearest training image's caption and the most frequent one; also predictions.jsonl,
        captions.html and captions.json."""
        split = self.judged("test")
        hypotheses = self._write_split(network, split, world, self.options.beam)
        if world.rank > 0:
            return {}
        references, kind = decoding.captions_given(split, self.vocabulary), self.config.tokenize.kind
        rows = self.images.rows_of(split.fields["image"])
        systems: dict[str, list[Any]] = {"model": [self.tokens(ids) for ids, _ in hypotheses]}
        train = decoding.captions_given(self.train, self.vocabulary)
        near = captions.nearest(
            self.images.small(self.images.rows_of(self.train.fields["image"])), self.images.small(rows)
        )
        systems["nearest"] = [train[row][0] for row in near.tolist()]
        systems["frequent"] = [captions.most_frequent([c for known in train for c in known])] * len(rows)
        names = dict(zip(split.rows["image"].tolist(), texts_of(ingested, split, "image")))
        right = captions.exact(systems["model"], references)
        looked = self._looked(network, rows[:SHOWN], [ids for ids, _ in hypotheses[:SHOWN]], world.context)
        shown = []
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for row, tokens in enumerate(systems["model"]):
                reference_texts = [joined(kind, known) for known in references[row]]
                line = {"image": names[row], "caption": joined(kind, tokens), "references": reference_texts}
                file.write(as_json(line | {"score": round(hypotheses[row].score, 6)}, ensure_ascii=False) + "\n")
                picture = self.images.raw[rows[row]] if len(self.images.raw_shape) == 3 else None
                words = list(zip(tokens, looked[row])) if row < len(looked) else []
                shown.append(
                    captions_page.Shown(
                        names[row], picture, line["caption"], reference_texts, bool(right[row]), words=words
                    )
                )
        captions_page.keep(folder, shown)
        note = f"The first {min(SHOWN, len(shown))} of {len(shown)} test images; green: one of the references, exactly."
        note += " Above each word, lighter: where it was looked." if looked else ""
        captions_page.write(folder / "captions.html", f"{self.config.name}: captions", note, shown[:SHOWN])
        return self._tables(systems, references, split, folder)

    def _tables(
        self, systems: dict[str, list[Any]], references: list[list[list[str]]], split: shards.Split, folder: Path
    ) -> dict[str, float]:
        """Writes table.txt and metrics.json; the corpus scores, which have no interval, stand below the table."""
        values = {(name, "exact"): captions.exact(tokens, references) for name, tokens in systems.items()}
        values |= {
            (name, "sentence_bleu_4"): captions.sentence_bleu(tokens, references) for name, tokens in systems.items()
        }
        keys = list(split.fields["image"].keys)
        judged = Judged("images", keys, [" ".join(known[0]) for known in references], None, {}, values)
        corpus = {name: captions.scores(tokens, references) for name, tokens in systems.items()}
        lines = ["corpus scores:"]
        for name, scores in corpus.items():
            lines.append(f"  {name:<9}" + "  ".join(f"{m} {v:.3f}" for m, v in scores.items() if m != "exact"))
        flat = self.write_tables(folder, {"images": (judged, "nearest")}, "\n".join(lines))
        systems_found = {name: {"metrics": {m: {"mean": v} for m, v in f.items()}} for name, f in corpus.items()}
        return flat | tables.flat_metrics("test", {"systems": systems_found})

    def predict(self, network: Captioner, rows: Sequence[Mapping[str, Any]], context: Context) -> list[dict[str, Any]]:
        """For each row's `image`, a path or a data URL, its `caption` and the caption's log probability."""
        if not rows:
            return []
        raw = np.stack([self.images.read(row["image"]) for row in rows])
        hypotheses = self._write(network, self.images.seen(raw, context), context, self.options.beam)
        kind = self.config.tokenize.kind
        return [{"caption": joined(kind, self.tokens(ids)), "score": round(score, 6)} for ids, score in hypotheses]
