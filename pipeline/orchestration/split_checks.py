"""Whether the splits of an ingest can be learnt from and judged as the configuration asks: known before any training.

What is looked at are the columns that are not texts to be read, so it costs little beside the ingest itself.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import SPLITS, Config
from pipeline.config.plugins import part
from pipeline.config.sources import CollectionSource, PairsSource, SplitName
from pipeline.core.errors import InputError
from pipeline.core.progress import Say
from pipeline.core.record_schema import missing_name
from pipeline.ingest import listing, pairs
from pipeline.ingest.places import shown_address

NAMED = 5  # labels that a sentence names
LEAST_OF_SPLIT = 2  # records that a share should come to: of one, chance often leaves none


class Finding(NamedTuple):
    """Something about a split that a person should know; `fatal`: it cannot be trained on, or judged."""

    split: SplitName
    sentence: str
    fatal: bool
    remedy: str | None = None  # None: to mend the split's file or share


def check(config: Config, ingested: Path, needed: Iterable[str], say: Say) -> None:
    """Says what is odd about the splits of an ingested folder.

    Args:
        needed: the splits that the stages to come use; what is wrong with others is only said.

    Raises:
        InputError: a needed split cannot be used; the sentence names its file, or the share that it is cut by.
    """
    needed = set(needed)
    for finding in findings(config, ingested):
        if finding.fatal and finding.split in needed:
            raise InputError(f"{finding.sentence}: {finding.remedy or _remedy(config, ingested, finding.split)}")
        say(f"warning: {finding.sentence}")


def findings(config: Config, ingested: Path) -> Iterator[Finding]:
    """All of the task, split by split."""
    for split in SPLITS:
        if not pq.read_metadata(ingested / f"records-{split}.parquet").num_rows:
            yield Finding(split, f"the {split} split has no {config.spec.record}", True)
        elif config.spec.check_split:
            yield from part(config.spec.check_split)(config, ingested, split)


def _remedy(config: Config, ingested: Path, split: SplitName) -> str:
    """What to do about a split: mend the file that it was given, or the share that it is cut by."""
    source = config.ingest.source
    addresses: dict[Any, Any] = pairs.addresses(source)
    setting = "ingest.source.paths"
    if isinstance(source, CollectionSource):
        addresses, setting = (
            (source.judgements if isinstance(source.judgements, dict) else {}),
            "ingest.source.judgements",
        )
        if source.format == "beir":
            return f"check qrels/{'dev' if split == 'valid' else split}.tsv in {shown_address(source.path or '')}"
    if split in addresses:
        return f"check {listing.shown(addresses[split])} ({setting}.{split})"
    if split == "train":
        return "check ingest.source and ingest.split"
    also = f", or give {setting}.{split}" if isinstance(source, PairsSource) or setting.endswith("judgements") else ""
    share = getattr(config.ingest.split, split)
    remedy = f"raise ingest.split.{split}={share:g}, the share that is cut out for it{also}"
    records = sum(pq.read_metadata(ingested / f"records-{name}.parquet").num_rows for name in SPLITS)
    wanted = math.ceil(LEAST_OF_SPLIT / share) if share else 0
    few = f"the source has {records:,} records, too few for this share: give {wanted:,} or more, or "
    return (few if records < wanted else "") + remedy


def _column(ingested: Path, split: str, name: str) -> list[Any]:
    return list(_table(ingested / f"records-{split}.parquet", name)[name].to_pylist())


def _table(path: Path, column: str) -> pa.Table:
    """A column of a file; pq.read_table would load pyarrow.dataset, and with it pandas."""
    return pq.ParquetFile(path).read(columns=[column])


# --- matching ---------------------------------------------------------------------------------------------------------
def matching(config: Config, ingested: Path, split: SplitName) -> Iterator[Finding]:
    """Whether the relevance of pairs fits the loss and the kinds of evaluation."""
    relevance = np.array(_column(ingested, split, "relevance"), np.float32)
    loss, kinds = config.train.loss, config.evaluate.kinds
    learnt = split == "train"
    if loss.graded if learnt else "graded" in kinds:
        wrong = ~np.isin(relevance, np.arange(loss.grades))
        if wrong.any():
            yield Finding(
                split,
                f"relevance {relevance[wrong][0]:g} in the {split} split is not one of the grades 0 … "
                f"{loss.grades - 1} of train.loss.grades; ingest.source.grades maps labels to grades",
                True,
            )
        elif split == "valid" and config.train.metric == "auc" and relevance.min() == relevance.max():
            yield Finding(split, "train.metric=auc cannot be measured: the valid split has one grade only", True)
    if learnt and not loss.graded and not (relevance > 0).any():
        yield Finding(split, "the train split has no relevant pair", True)
    if learnt and loss.listed_negatives and (loss.graded or not ((relevance <= 0).any() or config.mine.by)):
        why = f"a {loss.kind} loss draws none" if loss.graded else "no pair of the train split is irrelevant"
        yield Finding(split, f"train.loss.listed_negatives={loss.listed_negatives} does nothing: {why}", False)
    if not learnt and "ranking" in kinds:
        lost = ingested / missing_name(split)
        if lost.exists():
            more = _table(lost, "relevance")["relevance"].to_numpy()
            relevance = np.concatenate([relevance, more])
        whole = relevance == np.round(relevance)
        if not whole.all():
            yield Finding(
                split,
                f"relevance {relevance[~whole][0]:g} in the {split} split is not a whole number, which ranking metrics "
                "need; ingest.source.grades maps labels to whole grades",
                True,
            )
        elif not (relevance > 0).any():
            yield Finding(split, f"the {split} split has no relevant pair to judge by", True)


# --- labels and tags --------------------------------------------------------------------------------------------------
def classification(config: Config, ingested: Path, split: SplitName) -> Iterator[Finding]:
    """Whether training knows the labels."""
    return _known(ingested, split, "label", "labels", lambda label: [label])


def tagging(config: Config, ingested: Path, split: SplitName) -> Iterator[Finding]:
    """Whether training knows the tags, and whether they mark spans where spans are measured."""
    yield from _known(ingested, split, "tags", "tags", str.split)
    if split == "train" and config.train.metric == "span_f1":
        from pipeline.evaluation import spans  # imports scikit-learn, which takes time

        tags = sorted({tag for tags in _column(ingested, "train", "tags") for tag in tags.split()})
        if not spans.are_spans(tags):
            shown = ", ".join(tags[:NAMED])
            yield Finding(
                split,
                f"train.metric=span_f1 needs tags that mark spans (B-, I-, O), and the train split has {shown}",
                True,
                "set train.metric=accuracy",
            )


def _known(
    ingested: Path, split: SplitName, column: str, called: str, parts: Callable[[str], list[str]]
) -> Iterator[Finding]:
    learnt = {part for value in _column(ingested, "train", column) for part in parts(value)}
    if split == "train":
        if len(learnt) == 1:
            yield Finding(split, f"the train split has one of the {called} only: {next(iter(learnt))[:60]!r}", False)
        return
    values = [parts(value) for value in _column(ingested, split, column)]
    unseen = sorted({part for row_parts in values for part in row_parts} - learnt)
    if unseen and learnt:
        rows = sum(not learnt.issuperset(row_parts) for row_parts in values)
        shown = ", ".join(repr(name[:60]) for name in unseen[:NAMED]) + (", …" if len(unseen) > NAMED else "")
        yield Finding(
            split,
            f"{rows:,} of {len(values):,} rows of the {split} split have {called} that the train split does not have "
            f"({shown}): the model can never predict them",
            False,
        )
