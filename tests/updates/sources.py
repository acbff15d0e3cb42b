"""Small made-up sources of every task, the same on every machine: texts of one token and more."""

import json
from pathlib import Path
from typing import Any

import numpy as np

WORDS = "ant bee cat dog eel fly gnu hen ibis jay kite lark mole newt owl pig ray seal toad wren".split()  # noqa: SIM905


def _texts(count: int, longest: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 1 + i % longest)) for i in range(count)]


def rows_of(task: str, longest: int = 7) -> list[dict[str, Any]]:
    """48 records of one of the tasks that are read from JSON Lines: lengths 1 to `longest`; of 1, all of a label."""
    texts, others = _texts(48, longest, 1), _texts(48, min(5, longest), 2)
    if task == "matching":
        return [
            {"query_id": f"q{i // 2}", "query": others[i // 2], "document": text, "relevance": i % 2}
            for i, text in enumerate(texts)
        ]
    if task == "classification":
        return [{"text": text, "label": "abc"[i % min(3, longest)]} for i, text in enumerate(texts)]
    if task == "tagging":  # of spans, so that span_f1 is measured; the first words stand alone
        tags = [" ".join(("B-x", "I-x", "O")[k % 3] for k in range(len(text.split()))) for text in texts]
        return [{"text": text, "tags": tag} for text, tag in zip(texts, tags)]
    if task == "translation":
        return [{"source": text, "target": other} for text, other in zip(texts, others)]
    return [{"text": text} for text in texts]


def source_of(task: str, folder: Path, images: str = "pictures", longest: int = 7) -> dict[str, Any]:
    """A task's `ingest.source`, written under a folder.

    Args:
        images: of captioning: "pictures" that are drawn, "vectors" or "grids".
    """
    if task == "captioning":
        if images == "pictures":
            return {"format": "scenes", "count": 60}
        arrays, captions = folder / f"{images}.npy", folder / f"captions-{longest}.tsv"
        np.save(arrays, np.random.default_rng(0).normal(size=(40, 6) if images == "vectors" else (40, 3, 5)))
        captions.write_text("".join(f"{i}\t{text}\n" for i, text in enumerate(_texts(40, min(5, longest), 3))))
        return {"format": "captions", "captions": str(captions), "images": str(arrays)}
    path = folder / f"{task}-{longest}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(task, longest)))
    columns = {"query_id": "query_id", "relevance": "relevance"} if task == "matching" else {}
    return {"format": "jsonl", "path": str(path), "columns": columns}
