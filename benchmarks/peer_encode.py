"""The peer's encoding: sentence-transformers' own LSTM over the same token ids, a round at a time, on request.

Run by `benchmarks/encoding_speed.py` in the environment that `benchmarks/setup_peer.sh` makes. Weights are random, as
speed does not depend on them. After "ready", each line on stdin is answered by one JSON object: "fp32" -> the real
tokens/s of encoding all texts.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # there is nothing to fetch

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LSTM, Pooling, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=Path, required=True, help="JSON Lines, a list of ids from 1 each")
    for name in ("vocabulary", "embedding", "hidden", "layers", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    rows = [json.loads(line) for line in options.texts.read_text(encoding="utf-8").splitlines()]
    texts, tokens = [" ".join(map(str, row)) for row in rows], sum(map(len, rows))
    tokenizer = WhitespaceTokenizer([str(i) for i in range(options.vocabulary)], stop_words=[])
    weights = np.random.default_rng(1).uniform(-0.1, 0.1, (options.vocabulary, options.embedding))
    model = SentenceTransformer(
        modules=[
            WordEmbeddings(tokenizer, weights.astype(np.float32), update_embeddings=True),
            LSTM(options.embedding, options.hidden, num_layers=options.layers, bidirectional=True),
            Pooling(2 * options.hidden, "max"),
        ],
        device="cpu",
    )
    model.encode(texts[: options.batch], batch_size=options.batch, show_progress_bar=False)  # the first is slower
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        model.encode(texts, batch_size=options.batch, show_progress_bar=False)
        print(json.dumps({"fp32": tokens / (time.perf_counter() - began)}), flush=True)


if __name__ == "__main__":
    main()
