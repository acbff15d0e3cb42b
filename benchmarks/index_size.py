"""What an index's vectors weigh, and what it costs to make them small: `python benchmarks/index_size.py MODEL PAIRS`.

PAIRS is the folder of a training on an index's documents (`duplet train-on`), MODEL the folder of the model that it
made. Encodes the pairs' passages once and asks the queries of the test split: the passage that a query was made of is
relevant. For each way of keeping vectors it prints bytes, bytes by byte of text, nDCG@10 and what it lost of the plain
vectors' nDCG.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.search import codes
from pipeline.search.codes import Codes
from pipeline.serving import loading, model_folder
from pipeline.serving.predict.scoring import Encoded
from pipeline.serving.predict.text_encoder import TextEncoder

QUERIES_AT_ONCE = 16


def size_of(kept: Codes) -> int:
    """Bytes of vectors with scales or book; weights and offsets are of every way and left out."""
    return sum(array.nbytes for array in (kept.vectors, kept.scales, kept.book) if array is not None)


def ways(encoded: Encoded) -> Iterator[tuple[str, Encoded, int]]:
    """Each way's name, the vectors that it gives back, and its bytes."""
    yield "32 bits", encoded, encoded.vectors.nbytes
    fewer = {"": encoded}
    if encoded.offsets is not None:
        fewer |= {f", {share:.0%} of tokens left out": codes.pruned(encoded, share) for share in (0.25, 0.5)}
        fewer |= {f", {factor:g} tokens pooled": codes.pooled(encoded, factor) for factor in (1.5, 2.0, 3.0)}
        fewer[", 25% left out, 2 pooled"] = codes.pooled(codes.pruned(encoded, 0.25), 2.0)
    for what, chosen in fewer.items():
        eight = codes.coded(chosen, 8)
        for bits in (8, 4, 2):
            kept = codes.packed(eight, bits) if bits in codes.BOOKED else eight
            yield f"{bits} bits{what}", kept.decoded(), size_of(kept)


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
