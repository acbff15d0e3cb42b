"""The peer: the matching task of `configs/demo.yaml` done with sentence-transformers, for figures beside Duplet's.

A shared bidirectional LSTM over word embeddings, max pooling, cosine, in-batch softmax (scale 20) and Adam, with the
peer's own modules, collator, loss and trainer as its users put them together. Both sides get the same token ids, so
that neither a tokenizer nor a vocabulary is compared: rows are JSON Lines of {"query_ids": [...],
"document_ids": [...]}, ids from 1 (0 is padding). A row is a query and its one relevant document.

In the environment that `benchmarks/setup_peer.sh` makes, with one thread per worker:

    OMP_NUM_THREADS=1 .peer/bin/torchrun --standalone --nproc-per-node 2 benchmarks/peer_sentence_transformers.py \
        --train train.jsonl --test test.jsonl

The last line of stdout is one JSON object:
    tokens_per_s          real tokens (padding not counted) of all workers, from the end of the warm-up steps to the end
                          of the last one, loading and collating included
    padding               share of the padded batches that is padding, over the same steps
    encode_tokens_per_s   real tokens of the test documents, one process on all cores
    mrr@10, recall@1      each test query against all test documents, ties against the model
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HOME", os.path.join(sys.prefix, "cache"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # there is nothing to fetch: all weights start at random

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import LSTM, Pooling, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from transformers import PrinterCallback, TrainerCallback

Pairs = list[tuple[list[int], list[int]]]


@dataclass
class CountingCollator(SentenceTransformerDataCollator):
    """The peer's collator, which also keeps (real tokens, padded tokens) of each batch of this worker, in order."""

    counts: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super().__call__(features)
        masks = [value for name, value in batch.items() if name.endswith("attention_mask")]
        self.counts.append((sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)))
        return batch


class Clock(TrainerCallback):
    """The time from the end of the last warm-up step to the end of the last step."""

    def __init__(self, warmup_steps: int) -> None:
        self.warmup_steps, self.began, self.ended, self.steps = warmup_steps, 0.0, 0.0, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended, self.steps = time.perf_counter(), state.global_step
        if self.steps == self.warmup_steps:
            self.began = self.ended


def read(path: Path) -> Pairs:
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["query_ids"], row["document_ids"]) for row in rows]


def text(ids: list[int]) -> str:
    """The ids as words for the peer's whitespace tokenizer, whose vocabulary is the numbers in their order."""
    return " ".join(map(str, ids))


def build(options: argparse.Namespace, vocabulary_size: int) -> SentenceTransformer:
    tokenizer = WhitespaceTokenizer([str(i) for i in range(vocabulary_size)], stop_words=[])
    weights = np.random.default_rng(options.seed).uniform(-0.1, 0.1, (vocabulary_size, options.embedding))
    words = WordEmbeddings(tokenizer, weights.astype(np.float32), update_embeddings=True)
    lstm = LSTM(options.embedding, options.hidden, num_layers=options.layers, bidirectional=True)
    return SentenceTransformer(modules=[words, lstm, Pooling(2 * options.hidden, "max")], device="cpu")


def train(model: SentenceTransformer, pairs: Pairs, options: argparse.Namespace) -> dict[str, Any]:
    """Trains in place; the figures of all workers together."""
    clock, collator = Clock(options.warmup_steps), CountingCollator(preprocess_fn=model.preprocess)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder, num_train_epochs=options.epochs, max_steps=options.max_steps,
                per_device_train_batch_size=options.batch, dataloader_drop_last=True, seed=options.seed,
                optim="adamw_torch", weight_decay=0.0,  # AdamW without decay is Adam
                learning_rate=options.learning_rate, lr_scheduler_type="constant", max_grad_norm=1.0,
                use_cpu=True, ddp_find_unused_parameters=False,
                save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict(
                {"anchor": [text(query) for query, _ in pairs], "positive": [text(document) for _, document in pairs]}
            ),
            data_collator=collator,
            loss=MultipleNegativesRankingLoss(model, scale=20.0, gather_across_devices=options.share_negatives),
            callbacks=[clock],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if clock.steps <= options.warmup_steps:
        sys.exit(f"{clock.steps} steps leave nothing to measure after {options.warmup_steps} warm-up steps: more pairs")
    # The loader reads ahead, so the collator may have seen one batch more than was trained on.
    counts = torch.tensor(collator.counts[clock.warmup_steps : clock.steps], dtype=torch.int64).sum(0)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
    real, padded = counts.tolist()
    seconds = clock.ended - clock.began
    return {
        "steps": clock.steps,
        "train_s": round(seconds, 2),
        "tokens_per_s": round(real / seconds, 1),
        "padding": round(1 - real / padded, 4),
    }


def judge(model: SentenceTransformer, pairs: Pairs) -> dict[str, Any]:
    """Encodes the test pairs on all cores and ranks all documents for each query."""
    torch.set_num_threads(os.cpu_count() or 1)
    encode = lambda texts: model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
    encode([text(document) for _, document in pairs[:64]])  # the first call is slower
    began = time.perf_counter()
    documents = encode([text(document) for _, document in pairs])  # (N, 2 x hidden)
    seconds = time.perf_counter() - began
    scores = encode([text(query) for query, _ in pairs]) @ documents.T  # (N, N); the diagonal is relevant
    ranks = (scores >= np.diag(scores)[:, None]).sum(1)
    return {
        "encode_tokens_per_s": round(sum(len(document) for _, document in pairs) / seconds, 1),
        "mrr@10": round(float(np.where(ranks <= 10, 1 / ranks, 0).mean()), 4),
        "recall@1": round(float((ranks == 1).mean()), 4),
        "test_pairs": len(pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, help="its size; default: the largest id of both files + 1")
    for name, default in (("embedding", 128), ("hidden", 256), ("layers", 2), ("epochs", 1), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch", type=int, default=32, help="pairs per worker and step")
    parser.add_argument("--max-steps", type=int, default=-1, help="-1: as many as the epochs have")
    parser.add_argument("--warmup-steps", type=int, default=3, help="at the start, not measured")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--share-negatives", action="store_true", help="of all workers; default: each its own")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    pairs, test = read(options.train), read(options.test)
    largest = max(max(ids, default=0) for pair in pairs + test for ids in pair)
    model = build(options, options.vocabulary or largest + 1)
    figures = train(model, pairs, options)
    if int(os.environ.get("RANK", 0)) == 0:
        workers = int(os.environ.get("WORLD_SIZE", 1))
        print(json.dumps({"peer": "sentence-transformers", "workers": workers, **figures, **judge(model, test)}))


if __name__ == "__main__":
    main()
