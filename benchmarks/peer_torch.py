"""PyTorch at its best: the training of `peer_sentence_transformers.py` without a framework, at Duplet's padding.

The same network and loss over the same ids, with what a person who tunes PyTorch's speed would do: workers by
DistributedDataParallel, batches of texts of like length, and either packed sequences (`--way packed`, no padding is
computed) or padded ones whose padding the pooling leaves out (`--way padded`, where PyTorch calls oneDNN's layers on a
CPU). `--precision bfloat16` casts by autocast; weights stay float32. Rows and environment are those of
`peer_sentence_transformers.py`, which reads them.

    OMP_NUM_THREADS=1 .peer/bin/torchrun --standalone --nproc-per-node 2 benchmarks/peer_torch.py \
        --train train.jsonl --max-steps 20 --way padded --precision bfloat16

The last line of stdout is one JSON object with `tokens_per_s` and `padding`, measured as the other peer's.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import rnn

Pairs = list[tuple[list[int], list[int]]]
Side = tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]  # where each text went; its part's ids and lengths
CHUNK = 50  # batches that are sorted together: like lengths meet, and each epoch differs


class Encoder(nn.Module):
    """(N, T) ids and (N,) lengths to (N, 2 x hidden) vectors: embedding, LSTMs in both directions, maximum."""

    def __init__(self, options: argparse.Namespace, vocabulary: int) -> None:
        super().__init__()
        self.way = options.way
        self.words = nn.Embedding(vocabulary, options.embedding)
        self.lstm = nn.LSTM(
            options.embedding, options.hidden, num_layers=options.layers, bidirectional=True, batch_first=True
        )

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        words = self.words(ids)
        if self.way == "packed":
            packed = rnn.pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
            states, _ = rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        else:
            states, _ = self.lstm(words)
        padding = torch.arange(states.shape[1])[None, :] >= lengths[:, None]
        return states.masked_fill(padding[:, :, None], -torch.inf).amax(dim=1)


class Pair(nn.Module):
    """Both texts' vectors in one call, which DistributedDataParallel wants."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, sides: list[Side]) -> list[torch.Tensor]:
        made = []
        for back, parts in sides:
            vectors = torch.cat([self.encoder(ids, lengths) for ids, lengths in parts])[back]
            made.append(nn.functional.normalize(vectors.float(), dim=1))
        return made


def read(path: Path) -> Pairs:
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["query_ids"], row["document_ids"]) for row in rows]


def batches(pairs: Pairs, options: argparse.Namespace, rank: int, workers: int) -> list[Pairs]:
    """This worker's batches: shuffled, then sorted by the document's length within chunks, then shuffled again.

    All workers take their parts of one row of sorted pairs, so that they compute equally long.
    """
    rng = np.random.default_rng(options.seed)
    size = options.batch * workers
    order = rng.permutation(len(pairs))
    made = []
    for start in range(0, len(order), size * CHUNK):
        chunk = sorted(order[start : start + size * CHUNK], key=lambda i: len(pairs[i][1]))
        made += [chunk[i : i + size] for i in range(0, len(chunk) - size + 1, size)]
    return [[pairs[i] for i in made[number][rank::workers]] for number in rng.permutation(len(made))]


def padded(texts: list[list[int]], parts: int) -> Side:
    """The way back, and texts by length in so many parts: (N, T) ids, 0 where there is none, and (N,) lengths."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    made = []
    for rows in np.array_split(order, parts):
        ids = rnn.pad_sequence([torch.tensor(texts[i] or [0]) for i in rows], batch_first=True)
        made.append((ids, torch.tensor([max(1, len(texts[i])) for i in rows])))
    return torch.tensor(order).argsort(), made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, help="taken, so that both peers have the same options, and not read")
    parser.add_argument("--way", choices=("padded", "packed"), default="padded")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    for name, default in (("embedding", 128), ("hidden", 256), ("layers", 2), ("seed", 1), ("batch", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--parts", type=int, default=1, help="of a side's texts, by length: more parts, less padding")
    parser.add_argument("--max-steps", type=int, default=20)
    parser.add_argument("--warmup-steps", type=int, default=5, help="at the start, not measured")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.distributed.init_process_group("gloo")
    rank, workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
    pairs = read(options.train)
    vocabulary = max(max(ids, default=0) for pair in pairs for ids in pair) + 1
    model = nn.parallel.DistributedDataParallel(Pair(Encoder(options, vocabulary)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    counts, began = torch.zeros(2, dtype=torch.int64), 0.0
    for step, batch in enumerate(batches(pairs, options, rank, workers)[: options.max_steps]):
        if step == options.warmup_steps:
            began = time.perf_counter()
        sides = [padded([pair[side] for pair in batch], options.parts) for side in (0, 1)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bfloat16"):
            queries, documents = model(sides)
        loss = nn.functional.cross_entropy(20.0 * queries @ documents.T, torch.arange(len(batch)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= options.warmup_steps:
            parts = [part for _, side in sides for part in side]
            counts += torch.tensor([sum(int(lengths.sum()) for _, lengths in parts), sum(i.numel() for i, _ in parts)])
    seconds = time.perf_counter() - began
    torch.distributed.all_reduce(counts)
    real, all_places = counts.tolist()
    if rank == 0:
        figures = {"peer": "torch", "way": options.way, "precision": options.precision, "workers": workers}
        print(
            json.dumps(
                {**figures, "tokens_per_s": round(real / seconds, 1), "padding": round(1 - real / all_places, 4)}
            )
        )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main()
