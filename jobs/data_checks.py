"""Whether a night's data is like that of the good nights before it: rows, labels, lengths, unknown tokens, drift.

The profile of a night is read from its ingest and tokenize folders and kept in `profiles.jsonl` of the schedule.
"""

import json
import math
import re
import statistics
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import SPLITS, ChecksConfig, Config
from pipeline.core import atomic_files, manifest
from pipeline.core.progress import Say
from pipeline.distributed import job_folder
from pipeline.tracking import Address, Tracking

PROFILES = "profiles.jsonl"
TABLE, PICTURE = "data_check.txt", "data_check.png"
WORDS = re.compile(r"[^\W\d_]+|\d+")
WORD_BINS = 64  # words fall into so many by their checksum
LENGTH_BINS = (1, 2, 4, 8, 16, 32, 64)  # words: up to 1, up to 2, …, more than 64
LEAST_WORDS = 1000  # fewer say nothing of drift
FLOOR = 1e-4  # of a bin's share, so that an empty bin has a logarithm
LABELS = 50  # most labels of which shares are kept
SAMPLED = 200_000  # rows of the training split that drift and labels are read from


class Row(NamedTuple):
    """A figure of tonight, and where it may lie; None of a bound that there is none."""

    name: str
    tonight: float
    median: float
    low: float | None
    high: float | None
    before: list[float]

    @property
    def inside(self) -> bool:
        return (self.low is None or self.tonight >= self.low) and (self.high is None or self.tonight <= self.high)


# --- a night's profile ------------------------------------------------------------------------------------------------
def profile(config: Config, ingested: Path, tokenized: Path) -> dict[str, Any]:
    """The figures of a night, as JSON has them. Raises InputError where its folders are not whole."""
    read = manifest.load(ingested, "ingest", "duplet ingest", verify=False).counts
    cut = manifest.load(tokenized, "tokenize", "duplet tokenize", verify=False).counts
    fields = [field for field, form in config.spec.fields.items() if not form.vocabulary]
    texts = {field: sum(cut[split][field]["texts"] for split in SPLITS) for field in fields}
    tokens = {field: sum(cut[split][field]["tokens"] for split in SPLITS) for field in fields}
    unknown = sum(cut[split][field]["unknown_tokens"] for split in SPLITS for field in fields)
    records = read["records"]
    return {
        "rows": records["kept"],
        "put_aside": records["quarantined"] / max(1, records["read"]),
        "lengths": {field: tokens[field] / max(1, texts[field]) for field in fields},
        "unknown_tokens": unknown / max(1, sum(tokens.values())),
        **_of_records(config, ingested / "records-train.parquet"),
    }


def _of_records(config: Config, path: Path) -> dict[str, Any]:
    """Shares of labels, and of the queries' words and lengths in bins."""
    import pyarrow.parquet as parquet

    fields = config.spec.fields
    named = next((field for field, form in fields.items() if form.vocabulary and form.tokens == "whole"), None)
    label = "relevance" if config.spec.relevance else named
    query = next(field for field, form in fields.items() if not form.names)
    labels: Counter[str] = Counter()
    words, lengths, rows = [0] * WORD_BINS, [0] * (len(LENGTH_BINS) + 1), 0
    columns = [query, *([label] if label else [])]
    for batch in parquet.ParquetFile(path).iter_batches(columns=columns):
        table = batch.to_pydict()
        if label:
            labels.update(str(value) for value in table[label])
        for text in table[query]:
            query_words = WORDS.findall(text.lower())
            lengths[sum(len(query_words) > bound for bound in LENGTH_BINS)] += 1
            for word in query_words:
                words[zlib.crc32(word.encode()) % WORD_BINS] += 1
        rows += batch.num_rows
        if rows >= SAMPLED:
            break
    return {
        "labels": _shares(dict(labels.most_common(LABELS))), "words": words, "word_count": sum(words),
        "query_lengths": lengths,
    }  # fmt: skip


def _shares(counts: dict[str, int]) -> dict[str, float]:
    whole = sum(counts.values())
    return {name: count / whole for name, count in sorted(counts.items())}


def keep(folder: Path, due: str, night_profile: dict[str, Any]) -> None:
    """Adds a good night's profile."""
    atomic_files.add_line(folder / PROFILES, json.dumps({"due": due, "profile": night_profile}))


def kept(folder: Path, before: str, most: int) -> list[dict[str, Any]]:
    """The profiles of the newest good nights before a date, the oldest first; of a date done twice the last."""
    profiles: dict[str, dict[str, Any]] = {}
    try:
        lines = (folder / PROFILES).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            entry = json.loads(line)
            if entry["due"] < before:
                profiles[entry["due"]] = entry["profile"]
        except (ValueError, KeyError, TypeError):  # cut short by a full disk
            continue
    return [profiles[due] for due in sorted(profiles)][-most:] if most else []


# --- beside the nights before -----------------------------------------------------------------------------------------
def compare(tonight: dict[str, Any], before: list[dict[str, Any]], settings: ChecksConfig) -> list[Row]:
    """All checks that are on, each with its bounds around the median."""
    rows = []

    def add(name: str, value: float, others: list[float], low: float | None, high: float | None) -> None:
        rows.append(Row(name, value, statistics.median(others), low, high, others))

    counts = [float(night["rows"]) for night in before]
    middle = statistics.median(counts)
    if settings.rows_from is not None or settings.rows_to is not None:
        bounds = [None if times is None else times * middle for times in (settings.rows_from, settings.rows_to)]
        add("rows", tonight["rows"], counts, *bounds)
    if settings.put_aside is not None:
        shares = [night["put_aside"] for night in before]
        add("share put aside", tonight["put_aside"], shares, None, statistics.median(shares) + settings.put_aside)
    if settings.label_shares is not None:
        for label in sorted({name for night in (tonight, *before) for name in night["labels"]}):
            shares = [night["labels"].get(label, 0.0) for night in before]
            at = statistics.median(shares)
            share = tonight["labels"].get(label, 0.0)
            add(f"share of label {label}", share, shares, at - settings.label_shares, at + settings.label_shares)
    if settings.lengths is not None:
        for field, mean in tonight["lengths"].items():
            means = [night["lengths"].get(field, mean) for night in before]
            at = statistics.median(means)
            add(f"mean tokens of {field}", mean, means, at / settings.lengths, at * settings.lengths)
    if settings.unknown_tokens is not None:
        shares = [night["unknown_tokens"] for night in before]
        high = statistics.median(shares) + settings.unknown_tokens
        add("share of unknown tokens", tonight["unknown_tokens"], shares, None, high)
    if (
        settings.drift is not None
        and min(tonight["word_count"], *(night["word_count"] for night in before)) >= LEAST_WORDS
    ):
        for name, part in (("words", "words"), ("lengths", "query_lengths")):
            indexes = [_beside_others(before, at, part) for at in range(len(before))]
            index = stability_index(tonight[part], _mean_shares(before, part))
            add(f"drift of {name} (PSI)", index, indexes, None, settings.drift)
    return rows


def _beside_others(nights: list[dict[str, Any]], at: int, part: str) -> float:
    others = [night for i, night in enumerate(nights) if i != at]
    return stability_index(nights[at][part], _mean_shares(others, part)) if others else 0.0


def _mean_shares(nights: list[dict[str, Any]], part: str) -> list[float]:
    """The mean of the nights' shares, so that a large night counts no more than a small one."""
    shares = [[count / max(1, sum(night[part])) for count in night[part]] for night in nights]
    return [statistics.fmean(column) for column in zip(*shares)]


def stability_index(new: list[float], old: list[float]) -> float:
    """The population stability index of two distributions over the same bins: the sum of (p - q) ln(p / q).

    0 of equal ones; above 0.25 by custom a shift (Siddiqi, Credit Risk Scorecards, 2006).

    >>> round(stability_index([50, 50], [25, 75]), 4)
    0.2747
    """
    whole = [max(1e-12, sum(bins)) for bins in (new, old)]
    pairs = [(max(FLOOR, a / whole[0]), max(FLOOR, b / whole[1])) for a, b in zip(new, old)]
    return sum((p - q) * math.log(p / q) for p, q in pairs)


def sentence(rows: list[Row]) -> str:
    """Which figures lie outside, in words; empty where none does."""
    outside = [
        f"{row.name} {_number(row.tonight)} is "
        + (
            f"below {_number(row.low)}"
            if row.low is not None and row.tonight < row.low
            else f"above {_number(row.high)}"
        )
        + f" (median {_number(row.median)})"
        for row in rows
        if not row.inside
    ]
    return "; ".join(outside)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(rows: list[Row], nights: int) -> str:
    """The checks as plain text; ! marks what lies outside."""
    head = ("", "tonight", "median", "from", "to")
    cells = [(f"{' ' if row.inside else '!'} {row.name}", *map(_number, (row.tonight, row.median, row.low, row.high)))
             for row in rows]  # fmt: skip
    widths = [max(len(row[i]) for row in (head, *cells)) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip()
        for row in (head, *cells)
    ]
    return "\n".join([*lines, "", f"median of the last {nights} good nights; ! lies outside", ""])


def draw(rows: list[Row], path: Path) -> None:
    """A panel per check: the nights before, tonight, and the bounds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6 * -(-len(rows) // 2)), dpi=100, layout="constrained")
    panels = figure.subplots(-(-len(rows) // 2), 2, squeeze=False).flat
    for axis, row in zip(panels, rows):
        at = len(row.before)
        axis.plot(range(at), row.before, "o-", color="tab:blue", markersize=3, linewidth=1)
        axis.plot(
            [at],
            [row.tonight],
            "D" if row.inside else "X",
            color="tab:green" if row.inside else "tab:red",
            markersize=8,
        )
        for bound in (row.low, row.high):
            if bound is not None:
                axis.axhline(bound, color="black", linestyle="--", linewidth=0.8)
        axis.set_title(row.name, loc="left", fontsize=8)
        axis.set_xticks([0, at], [f"{-at}", "tonight"])
        axis.tick_params(labelsize=7)
    for axis in list(figure.axes)[len(rows) :]:
        axis.remove()
    FigureCanvasAgg(figure).print_png(str(path))


def figures(rows: list[Row]) -> Iterator[tuple[str, float]]:
    """For MLflow: tonight's value of each check."""
    for row in rows:
        yield "data_check/" + re.sub(r"[^\w/ .-]", "_", row.name), row.tonight


def show(rows: list[Row], nights: int, folder: Path, where: Address, config: Config, say: Say) -> None:
    """Puts table and picture into a job's folder and into its MLflow run.

    Args:
        folder: of the job; where: its MLflow.
    """
    outside = sentence(rows)
    (folder / TABLE).write_text(table(rows, nights), encoding="utf-8")
    draw(rows, folder / PICTURE)
    run = Tracking(
        where, config.tracking.experiment, config.name, say, False, job_folder.runs(folder), keep=not outside,
        **config.tracking.sending,
    )  # fmt: skip
    run.tags({"duplet.data_check": outside or "inside"})
    run.metrics(dict(figures(rows)))
    for name in (TABLE, PICTURE):
        run.artifact(folder / name, "data_check", lasting=False)
    run.close("FAILED" if outside else "FINISHED")
