"""What a stage did, in one line for the terminal, and what its counts give cause to warn of."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.config import SPLITS, Config, smaller_is_better
from pipeline.core.errors import InputError
from pipeline.core.progress import Say
from pipeline.ingest.leaks import sentence
from pipeline.ingest.rows import TWO_TEXTS

NEARLY_ALL, MANY = 0.95, 0.3  # shares of tokens that the vocabulary does not know
CUT = 0.01  # share of texts of a field that are cut, from which on it is said


def ingest(counts: dict[str, Any], folder: Path) -> str:
    """What an ingest kept, left out and put aside, from its counts."""
    records = counts["records"]
    splits = ", ".join(f"{split} {records['splits'][split]:,}" for split in SPLITS)
    parts = [f"{records['kept']:,} records ({splits})"]
    parts += [f"{counts[kind]['kept']:,} {kind}" for kind in ("documents", "queries") if kind in counts]
    copies = sum(counts[kind]["duplicates"] for kind in ("records", "documents", "queries") if kind in counts)
    if copies:
        parts.append(f"copies left out: {copies:,}")
    parts += [f"{what}: {number:,}" for what, number in counts.get("notes", {}).items()]
    if reasons := counts["quarantine_reasons"]:
        named = ", ".join(f"{number:,} {_PUT_ASIDE.get(reason, reason)}" for reason, number in reasons.items())
        parts.append(f"put aside: {named}: {folder / 'quarantine.jsonl'}")
    return f"ingest: {'; '.join(parts)}"


def leaks(counts: dict[str, Any], config: Config) -> list[str]:
    """A warning where train has texts of valid or test; nothing where there are none."""
    leak_counts = counts.get("leaks")
    if not leak_counts:
        return []
    message = sentence(leak_counts, config)
    if config.ingest.leaks == "put_aside":
        return [f"note: {message}; they were left out of train (ingest.leaks)"]
    return [
        f"warning: {message}; what is measured on them says little about unseen text: ingest.leaks=put_aside leaves "
        "them out of train"
    ]


_PUT_ASIDE = {
    "unknown document": "judgements of unknown documents (counted as not found)",
    "unknown query": "judgements of unknown queries (not counted)",
    TWO_TEXTS: "rows whose id is another text's",
}


def tokenize(counts: dict[str, Any], config: Config) -> list[str]:
    """The lines to say of a tokenized folder's counts: of the training split's fields what is cut and not known."""
    parts = [f"{counts['vocabulary']:,} tokens in the vocabulary"] if "vocabulary" in counts else []
    for field, form in config.spec.fields.items():
        if form.vocabulary:
            continue
        texts = sum(counts[split][field]["texts"] for split in SPLITS)
        tokens = sum(counts[split][field]["tokens"] for split in SPLITS)
        cut = sum(counts[split][field]["cut"] for split in SPLITS)
        parts.append(f"{field}: {texts:,} texts, {tokens:,} tokens")
        if "passages" in counts["train"][field]:
            several, passages = (sum(counts[split][field][name] for split in SPLITS)
                                 for name in ("with_passages", "passages"))  # fmt: skip
            parts[-1] += f", {several:,} of them in {passages:,} passages"
            if cut:
                parts[-1] += f", {cut:,} cut behind those (tokenize.max_passages)"
            continue
        if cut and cut / texts >= CUT:
            limit = config.tokenize.limit(field)
            parts[-1] += f", {cut / texts:.0%} of the texts cut at {limit} tokens (tokenize.max_tokens.{field})"
        elif cut:
            parts[-1] += f", {cut:,} of the texts cut (tokenize.max_tokens.{field})"
    return [f"tokenize: {'; '.join(parts)}", *(f"note: {note}" for note in counts.get("notes", []))]


def check_tokens(counts: dict[str, Any], config: Config, needed: Iterable[str], say: Say) -> None:
    """Warns where many of a split's tokens are unknown.

    Args:
        needed: the splits that the stages to come use.

    Raises:
        InputError: nearly all tokens of the training split are unknown, or a text of a needed split is too short.
    """
    fields = [field for field, form in config.spec.fields.items() if not form.vocabulary]
    for split in SPLITS:
        tokens, unknown = (sum(counts[split][f][what] for f in fields) for what in ("tokens", "unknown_tokens"))
        if unknown > MANY * tokens:
            sentence = (
                f"{unknown / tokens:.0%} of the tokens of the {split} split are unknown: with tokenize.min_count="
                f"{config.tokenize.min_count} a token must stand so often in train, and with tokenize.vocabulary_size="
                f"{config.tokenize.vocabulary_size} it must be among the most frequent"
            )
            if split == "train" and unknown >= NEARLY_ALL * tokens and "train" in needed:
                raise InputError(
                    f"{sentence}; lower tokenize.min_count, choose another tokenize.kind, or give more text"
                )
            say(f"warning: {sentence}")
        if split not in needed:
            continue
        check = config.spec.check_tokens
        if check and (problem := check(split, tokens, unknown)):
            raise InputError(problem)


def train(result: dict[str, Any], folder: Path, config: Config) -> str:
    """The result of a training and why it ended, from its folder."""
    settings, metric, best = config.train, config.train.metric, result["best_update"]
    value = result[f"valid/{metric}"]
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    later = sum(f"valid/{metric}" in point and point["update"] > best for point in history)
    if settings.patience_validations is not None and later >= settings.patience_validations:
        ended = f"{later} validations without a better one (train.patience_validations)"
    elif settings.max_updates is not None and result["updates"] >= settings.max_updates:
        ended = f"{settings.max_updates:,} updates (train.max_updates)"
    else:
        ended = f"{settings.epochs} epochs (train.epochs)"
    direction = "lowest" if smaller_is_better(metric) else "highest"
    shown = "–" if value is None else f"{value:.4f}"
    return (
        f"train: {direction} valid {metric} {shown} at update {best:,} of {result['updates']:,}, which is kept; "
        f"ended after {ended}"
    )
