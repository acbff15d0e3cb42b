"""An image and a question about it to one of the known answers."""

from typing import Any

from mxnet import Context, gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.models.captioner import SmallNet
from pipeline.models.dropout import Dropout
from pipeline.models.encoder import Encoder, Pooling, padding_of


class QuestionAnswerer(gluon.Block):
    """Logits of the answers from an image and the pooled states of a question.

    concat: [q; v], and product: tanh(W q) * tanh(V v), with v one vector of the whole image (Antol et al., "VQA: visual
    question answering", 2015). attention: the question turns the features of each place g of the image up or down,
    k = relu(W g * (1 + U q)) (Perez et al., "FiLM: visual reasoning with a general conditioning layer", 2018), and
    softmax(w . k) chooses among the L places (Yang et al., "Stacked attention networks for image question answering",
    2016, eq. 16-17). Beside the chosen mean stands the sum of k over sqrt(L): weights that sum to 1 cannot count.

    Args:
        vocabulary: V, the rows of the embedding table.
        answers: A.
        fusion: "concat", "product" or "attention".
        shape: of one image: (S, S, 3) pictures, for the small net; (D,) a vector; (L, W) a grid.
    """

    def __init__(
        self, config: ModelConfig, vocabulary: int, answers: int, fusion: str, shape: tuple[int, ...], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.fusion, hidden = fusion, config.hidden
        with self.name_scope():
            # Rows are updated by themselves (training.optimizer), so no gradient of the whole table is ever made.
            self.embedding = self.params.get(
                "embedding", shape=(vocabulary, config.embedding), init=init.Uniform(0.1), grad_req="null"
            )
            self.encoder = Encoder(config)
            self.pooling = Pooling(config.pooling, hidden, config.directions)
            self.dropout = Dropout(config.dropout)
            self.net = SmallNet(shape[0]) if len(shape) == 3 else None
            grid = (self.net.places, self.net.width) if self.net else shape
            self.places = grid[0] if fusion == "attention" else 0  # of an image that get a weight each
            if fusion == "attention":
                self.position = self.params.get("position", shape=(1, *grid), init=init.Normal(0.1))
                self.place = _dense(hidden, grid[1], flatten=False)
                self.question = _dense(hidden, self.pooling.width, use_bias=False)
                self.score = _dense(1, hidden, flatten=False, use_bias=False)
                joined = 2 * hidden + self.pooling.width
            else:
                self.vector = _dense(hidden, grid[0] * grid[1] if self.net else grid[0])
                self.question = _dense(hidden, self.pooling.width) if fusion == "product" else None
                joined = hidden if fusion == "product" else hidden + self.pooling.width
            self.between = _dense(hidden, joined, activation="relu")
            self.output = _dense(answers, hidden)

    def packed(self, context: Context) -> list[nd.NDArray]:
        """The recurrent parameters, for several calls of `forward`."""
        return self.encoder.packed(context)

    def forward(
        self, table: nd.NDArray, ids: nd.NDArray, lengths: nd.NDArray, images: nd.NDArray,
        packed: list[nd.NDArray] | None = None,
    ) -> tuple[nd.NDArray, nd.NDArray | None]:  # fmt: skip
        """(N, A) logits, and with attention the (N, L) weights of the places, else None.

        Args:
            table: (U, E) embedding rows that `ids` index; the whole table, or the rows that an update needs.
            ids: (T, N) int32, time first.
            lengths: (N,) int32, at least 1.
            images: (N, *shape).
        """
        embedded = nd.Embedding(ids, table, input_dim=table.shape[0], output_dim=table.shape[1])
        padding = padding_of(lengths, ids.shape[0])
        question = self.pooling(self.encoder(embedded, padding, packed), lengths, padding)
        seen = self.net(images) if self.net else images
        joined, weights = self._joined(question, seen)
        return self.output(self.dropout(self.between(self.dropout(joined)))), weights

    def _joined(self, question: nd.NDArray, seen: nd.NDArray) -> tuple[nd.NDArray, nd.NDArray | None]:
        if self.fusion == "attention":
            places = self.place(nd.broadcast_add(seen, self.position.data(seen.context)))
            compared = nd.relu(nd.broadcast_mul(places, 1 + self.question(question).expand_dims(1)))  # (N, L, H)
            weights = nd.softmax(self.score(compared).squeeze(axis=2), axis=1)
            chosen = nd.broadcast_mul(compared, weights.expand_dims(2)).sum(axis=1)
            return nd.concat(chosen, compared.sum(axis=1) / places.shape[1] ** 0.5, question, dim=1), weights
        vector = self.vector(seen)
        if self.question is not None:
            return nd.tanh(self.question(question)) * nd.tanh(vector), None
        return nd.concat(question, nd.relu(vector), dim=1), None


def _dense(units: int, inputs: int, **kwargs: Any) -> gluon.nn.Dense:
    return gluon.nn.Dense(units, in_units=inputs, weight_initializer=init.Xavier(), **kwargs)
