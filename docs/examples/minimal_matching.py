"""A matcher trained in one file: no stages, no workers, no configuration file.

Run: python docs/examples/minimal_matching.py
Queries are random words, and a query's document is the same words in reverse order. Half of the documents share their
words with another one, so a model that ignores the order cannot tell these two apart.
"""

import random

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, init, nd

from pipeline.config import LossConfig, ModelConfig
from pipeline.models.encoder import Encoder, Pooling, padding_of

WORDS = [f"w{i}" for i in range(12)]
IDS = {word: i for i, word in enumerate(WORDS, 1)}  # 0 is padding
EPOCHS, PAIRS_PER_UPDATE = 20, 32
LOSS = LossConfig(kind="in_batch_softmax", temperature=0.1)


class TwoTowers(gluon.Block):
    """Both sides through one bidirectional LSTM; the score is the cosine of the two vectors."""

    def __init__(self, config: ModelConfig, vocabulary: int) -> None:
        super().__init__()
        with self.name_scope():
            self.embedding = gluon.nn.Embedding(vocabulary, config.embedding, weight_initializer=init.Uniform(0.1))
            self.encoder = Encoder(config)
            self.pooling = Pooling("last", config.hidden, config.directions)

    def vectors(self, ids: nd.NDArray, lengths: nd.NDArray) -> nd.NDArray:
        """(T, N) token ids and (N,) lengths to (N, 2 * hidden) vectors of length 1."""
        padding = padding_of(lengths, ids.shape[0])
        pooled = self.pooling(self.encoder(self.embedding(ids), padding), lengths, padding)
        return nd.L2Normalization(pooled)

    def forward(self, queries: tuple[nd.NDArray, nd.NDArray], documents: tuple[nd.NDArray, nd.NDArray]) -> nd.NDArray:
        """(N, M) scores of each query with each document."""
        return nd.dot(self.vectors(*queries), self.vectors(*documents), transpose_b=True)


def pairs(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Queries with their documents; each second pair has the words of the one before, in another order."""
    rng = random.Random(seed)
    found: list[tuple[list[str], list[str]]] = []
    for i in range(count):
        query = rng.sample(WORDS, 5) if i % 2 == 0 else rng.sample(found[-1][0], 5)
        found.append((query, query[::-1]))
    return found


def batch(texts: list[list[str]]) -> tuple[nd.NDArray, nd.NDArray]:
    """Texts to (T, N) ids, padded with 0, and (N,) lengths."""
    ids = np.zeros((max(map(len, texts)), len(texts)), np.int32)
    for column, text in enumerate(texts):
        ids[: len(text), column] = [IDS[word] for word in text]
    return nd.array(ids, dtype="int32"), nd.array([len(text) for text in texts], dtype="int32")


def mrr(network: TwoTowers, found: list[tuple[list[str], list[str]]]) -> float:
    """Mean of 1 / rank of each query's own document among all; of equal scores the worst rank counts."""
    queries, documents = zip(*found)
    scores = network(batch(list(queries)), batch(list(documents))).asnumpy()
    ranks = (scores >= np.diag(scores)[:, None]).sum(axis=1)
    return float((1 / ranks).mean())


def main(seed: int = 1) -> float:
    """Trains, and returns the mean reciprocal rank on pairs that training has not seen."""
    mx.random.seed(seed)
    np.random.seed(seed)
    network = TwoTowers(ModelConfig(embedding=32, hidden=64, dropout=0.0), len(WORDS) + 1)
    network.initialize()
    trainer = gluon.Trainer(network.collect_params(), "adam", {"learning_rate": 0.01})
    training, unseen = pairs(1600, seed), pairs(100, seed + 1)
    print(f"before: MRR {mrr(network, unseen):.3f}")
    for epoch in range(EPOCHS):
        twos = [training[i : i + 2] for i in range(0, len(training), 2)]  # the same words stay in one update
        random.Random(epoch).shuffle(twos)
        training = [pair for two in twos for pair in two]
        total = 0.0
        for start in range(0, len(training), PAIRS_PER_UPDATE):
            queries, documents = zip(*training[start : start + PAIRS_PER_UPDATE])
            with autograd.record():
                scores = network(batch(list(queries)), batch(list(documents)))
                loss = LOSS.formula.value(nd, scores, nd.arange(len(queries)), None, None, LOSS)
            loss.backward()
            trainer.step(1)  # the loss is a mean already
            total += float(loss.asscalar()) * len(queries)
        print(f"epoch {epoch + 1}: loss {total / len(training):.3f}, MRR {mrr(network, unseen):.3f}")
    return mrr(network, unseen)


if __name__ == "__main__":
    main()
