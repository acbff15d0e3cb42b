"""What an index's vectors weigh, and what it costs to make them small: `python benchmarks/index_size.py MODEL PAIRS`.

PAIRS is the folder of a training on an index's documents (`duplet train-on`), MODEL the folder of the model that it
made. Encodes the pairs' passages once and asks the queries of the test split: the passage that a query was made of is
relevant. For each way of keeping vectors it prints bytes, bytes by byte of text, nDCG@10 and what it lost of the plain
vectors' nDCG.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipeline.search import codes
from pipeline.search.codes import Codes
from pipeline.serving import loading, model_folder
from pipeline.serving.predict.scoring import Encoded
from pipeline.serving.predict.text_encoder import TextEncoder

QUERIES_AT_ONCE = 16


def four_bits(encoded: Encoded) -> Codes:
    """As eight bits, of which the upper four are kept: what half the bytes would cost."""
    scales = np.abs(encoded.vectors).max(axis=1, initial=0) / 7
    values = np.rint(encoded.vectors / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8)
    return Codes(values, scales.astype(np.float32), encoded.weights, encoded.offsets)


def product_quantised(parts: int) -> Callable[[Encoded], tuple[Encoded, int]]:
    """faiss's product quantiser of `parts` bytes a vector, trained on the vectors themselves."""

    def kept(encoded: Encoded) -> tuple[Encoded, int]:
        import faiss

        quantiser = faiss.ProductQuantizer(encoded.vectors.shape[1], parts, 8)
        sample = np.random.default_rng(0).permutation(len(encoded.vectors))[:50_000]
        quantiser.train(np.ascontiguousarray(encoded.vectors[sample]))
        made = quantiser.compute_codes(np.ascontiguousarray(encoded.vectors))
        return Encoded(quantiser.decode(made), encoded.weights, encoded.offsets), made.nbytes

    return kept


def size_of(kept: Codes, bits: int) -> int:
    """Bytes of vectors with scales; weights and offsets are of every way and left out."""
    scales = 0 if kept.scales is None else kept.scales.nbytes
    return kept.vectors.size * bits // 8 + scales


def ways(encoded: Encoded) -> Iterator[tuple[str, Encoded, int]]:
    """Each way's name, the vectors that it gives back, and its bytes."""
    yield "32 bits", encoded, encoded.vectors.nbytes
    eight = codes.coded(encoded, 8)
    yield "8 bits", eight.decoded(), size_of(eight, 8)
    four = four_bits(encoded)
    yield "4 bits", four.decoded(), size_of(four, 4)
    for parts in (32, 16):
        found, size = product_quantised(parts)(encoded)
        yield f"product quantisation, {parts} bytes", found, size
    if encoded.offsets is None:
        return
    for share in (0.25, 0.5):
        fewer = codes.coded(codes.pruned(encoded, share), 8)
        yield f"8 bits, {share:.0%} of tokens left out", fewer.decoded(), size_of(fewer, 8)
    for factor in (1.5, 2.0, 3.0, 4.0):
        fewer = codes.coded(codes.pooled(encoded, factor), 8)
        yield f"8 bits, {factor:g} tokens pooled", fewer.decoded(), size_of(fewer, 8)
    both = codes.coded(codes.pooled(codes.pruned(encoded, 0.25), 2.0), 8)
    yield "8 bits, 25% left out, 2 pooled", both.decoded(), size_of(both, 8)


def ndcg(encoder: TextEncoder, queries: Encoded, documents: Encoded, relevant: np.ndarray) -> float:
    """nDCG@10 where a query has one relevant document: the mean of 1 / log2(1 + its rank), 0 beyond the tenth."""
    gains = []
    for start in range(0, queries.texts, QUERIES_AT_ONCE):
        scores = encoder.score_all(queries.slice(start, start + QUERIES_AT_ONCE), documents)
        wanted = relevant[start : start + len(scores)]
        ranks = (scores > scores[np.arange(len(scores)), wanted][:, None]).sum(axis=1) + 1
        gains.append(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0))
    return float(np.concatenate(gains).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="the folder of a trained matching model")
    parser.add_argument("pairs", type=Path, help="INDEX.training of `duplet train-on`, or files of its form")
    parser.add_argument("--documents", type=int, default=5_000, help="passages at most, of train too")
    parser.add_argument("--queries", type=int, default=500)
    args = parser.parse_args()
    rows = {split: [json.loads(line) for line in (args.pairs / f"{split}.jsonl").read_text().splitlines()]
            for split in ("test", "valid", "train")}  # fmt: skip
    asked = rows["test"][: args.queries]
    every = (row["document"] for split in rows for row in rows[split])
    texts = list(dict.fromkeys(every))[: args.documents]
    places = {text: i for i, text in enumerate(texts)}
    asked = [row for row in asked if row["document"] in places]
    encoder = loading.open_encoder(model_folder.checked(args.model))
    began = time.monotonic()
    documents = encoder.encode("document", texts)
    queries = encoder.encode("query", [row["query"] for row in asked])
    relevant = np.array([places[row["document"]] for row in asked])
    written = sum(len(text.encode()) for text in texts)
    count, width = documents.vectors.shape
    print(f"{len(asked)} queries over {len(texts)} passages of {written / 1e6:.1f} MB of text, {count:,} vectors of "
          f"{width}; encoded in {time.monotonic() - began:.0f} s")  # fmt: skip
    plain = None
    for name, found, size in ways(documents):
        value = ndcg(encoder, queries, found, relevant)
        plain = value if plain is None else plain
        print(f"{name:32} {size / 1e6:8.1f} MB {size / written:6.1f} x text   nDCG@10 {value:.4f} "
              f"({100 * (value / plain - 1):+.1f} %)", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
