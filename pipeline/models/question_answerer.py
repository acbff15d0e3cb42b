"""An image and a question about it to one of the known answers."""

import math
from typing import Any

import numpy as np
from mxnet import gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.models.captioner import SmallNet, normalized
from pipeline.models.encoder import TextReader


def coordinates(side: int) -> np.ndarray:
    """(1, 2, S, S) float32: how far right and how far down a place is, from -1 to 1."""
    line = np.linspace(-1, 1, side, dtype=np.float32)
    return np.stack(np.meshgrid(line, line))[None]


class SteeredBlock(gluon.Block):
    """A residual block over a square grid that a question q steers: x + relu((1 + G n(q)) * n(z) + B n(q)),
    with x = relu(1 x 1 convolution of the grid and its coordinates) and z the 3 x 3 convolution of x.

    n sets the mean over a vector's numbers, of a place or of the question, to 0 and their variance to 1: an encoder's
    first states are near 0, and would steer nothing. Perez et al., "FiLM: visual reasoning with a
    general conditioning layer", 2018, fig. 3, but for their normalization over the batch.

    Args:
        inputs: C, features of a place.
        width: W, features of a place after the block.
        question: Q, numbers of a question's vector.
    """

    def __init__(self, inputs: int, width: int, question: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.steer = gluon.nn.Dense(2 * width, in_units=question, weight_initializer=init.Xavier(magnitude=1))
            self.alone, self.around = (
                gluon.nn.Conv2D(
                    width, size, padding=size // 2, in_channels=channels, weight_initializer=init.MSRAPrelu(slope=0.0)
                )
                for size, channels in ((1, inputs + 2), (3, width))
            )  # a place, and those around it

    def forward(self, grid: nd.NDArray, question: nd.NDArray) -> nd.NDArray:
        """(N, C, S, S) and (N, Q) to (N, W, S, S)."""
        places = nd.array(coordinates(grid.shape[2]), grid.context)
        x = nd.relu(self.alone(nd.concat(grid, nd.broadcast_axis(places, axis=0, size=grid.shape[0]), dim=1)))
        z = normalized(self.around(x), (1,))
        scale, shift = nd.split(self.steer(normalized(question, (1,))).reshape((0, 0, 1, 1)), num_outputs=2, axis=1)
        return x + nd.relu(nd.broadcast_add(nd.broadcast_mul(z, 1 + scale), shift))


class QuestionAnswerer(TextReader):
    """Logits of the answers from an image and the pooled states of a question.

    concat: [q; v], and product: tanh(W q) * tanh(V v), with v one vector of the whole image (Antol et al., "VQA: visual
    question answering", 2015). attention: the question turns the features of each place g of the image up or down,
    k = relu(W g * (1 + U q)) (Perez et al., "FiLM: visual reasoning with a general conditioning layer", 2018), and
    softmax(w . k) chooses among the L places (Yang et al., "Stacked attention networks for image question answering",
    2016, eq. 16-17). Beside the chosen mean stands the sum of k over sqrt(L), for counting: a mean by weights that sum
    to 1 does not grow with the number of things. Steered blocks before it let a place see what is around it, as the
    question asks; beside the two then stands the largest of each k over the places, which is there from the first
    update, when the weights are still all alike.

    Args:
        vocabulary: V, the rows of the embedding table.
        answers: A.
        fusion: "concat", "product" or "attention".
        shape: of one image: (S, S, 3) pictures, for the small net; (D,) a vector; (L, W) a grid.
        blocks: steered blocks, for fusion=attention over L places that are a square's.
        net: the small net's kind.
    """

    def __init__(
        self, config: ModelConfig, vocabulary: int, answers: int, fusion: str, shape: tuple[int, ...], blocks: int = 0,
        net: str = "deep", **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(config, vocabulary, **kwargs)
        self.fusion, hidden = fusion, config.hidden
        with self.name_scope():
            self.net = SmallNet(shape[0], net) if len(shape) == 3 else None
            grid = (self.net.places, self.net.width) if self.net else shape
            self.places = grid[0] if fusion == "attention" else 0  # of an image that get a weight each
            if fusion == "attention":
                self.position = self.params.get("position", shape=(1, *grid), init=init.Normal(0.1))
                self.side = math.isqrt(grid[0])
                self.blocks = gluon.nn.Sequential()
                for i in range(blocks):
                    self.blocks.add(SteeredBlock(hidden if i else grid[1], hidden, self.pooling.width))
                if not blocks:
                    self.place = _dense(hidden, grid[1], flatten=False)
                    self.question = _dense(hidden, self.pooling.width, use_bias=False)
                self.score = _dense(1, hidden, flatten=False, use_bias=False)
                joined = (3 if blocks else 2) * hidden + self.pooling.width
            else:
                self.vector = _dense(hidden, grid[0] * grid[1] if self.net else grid[0])
                self.question = _dense(hidden, self.pooling.width) if fusion == "product" else None
                joined = hidden if fusion == "product" else hidden + self.pooling.width
            self.between = _dense(hidden, joined, activation="relu")
            self.output = _dense(answers, hidden)

    def forward(
        self, table: nd.NDArray, ids: nd.NDArray, lengths: nd.NDArray, images: nd.NDArray,
        packed: list[nd.NDArray] | None = None,
    ) -> tuple[nd.NDArray, nd.NDArray | None]:  # fmt: skip
        """(N, A) logits, and with attention the (N, L) weights of the places, else None.

        Args:
            table, ids, lengths: of the questions, see TextReader.read.
            images: (N, *shape).
        """
        question = self.read(table, ids, lengths, packed)
        seen = self.net(images) if self.net else images
        joined, weights = self._joined(question, seen)
        return self.output(self.dropout(self.between(self.dropout(joined)))), weights

    def _joined(self, question: nd.NDArray, seen: nd.NDArray) -> tuple[nd.NDArray, nd.NDArray | None]:
        if self.fusion == "attention":
            placed = nd.broadcast_add(seen, self.position.data(seen.context))
            if len(self.blocks):
                x = placed.swapaxes(1, 2).reshape((0, 0, self.side, self.side))
                for block in self.blocks:
                    x = block(x, question)
                compared = x.reshape((0, 0, -1)).swapaxes(1, 2)
            else:
                compared = nd.relu(nd.broadcast_mul(self.place(placed), 1 + self.question(question).expand_dims(1)))
            weights = nd.softmax(self.score(compared).squeeze(axis=2), axis=1)
            chosen = nd.broadcast_mul(compared, weights.expand_dims(2)).sum(axis=1)
            pooled = [chosen, compared.sum(axis=1) / compared.shape[1] ** 0.5]
            if len(self.blocks):
                pooled.append(compared.max(axis=1))
            return nd.concat(*pooled, question, dim=1), weights
        vector = self.vector(seen)
        if self.question is not None:
            return nd.tanh(self.question(question)) * nd.tanh(vector), None
        return nd.concat(question, nd.relu(vector), dim=1), None


def _dense(units: int, inputs: int, **kwargs: Any) -> gluon.nn.Dense:
    return gluon.nn.Dense(units, in_units=inputs, weight_initializer=init.Xavier(), **kwargs)
