"""One table of embeddings by which tokens are read and written."""

from typing import Any

from mxnet import gluon, init, nd


class Words(gluon.Block):
    """V tokens and, in the row after them, the border that begins and ends a text.

    The rows are the output's weights too (Press and Wolf, "Using the output embedding to improve language models",
    2017). The table has a gradient of its own: the softmax touches every row anyway.
    """

    def __init__(self, vocabulary: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.border, self.width = vocabulary, width
        with self.name_scope():
            self.table = self.params.get("table", shape=(vocabulary + 1, width), init=init.Normal(width**-0.5))
            self.bias = self.params.get("bias", shape=(vocabulary + 1,), init=init.Zero())

    def forward(self, ids: nd.NDArray) -> nd.NDArray:
        """Ids of any shape to (…, width)."""
        return nd.Embedding(ids, self.table.data(ids.context), input_dim=self.border + 1, output_dim=self.width)

    def log_probabilities(self, features: nd.NDArray) -> nd.NDArray:
        """(M, width) features to (M, V + 1) log probabilities of the next token."""
        table, bias = self.table.data(features.context), self.bias.data(features.context)
        return nd.log_softmax(nd.FullyConnected(features, table, bias, num_hidden=self.border + 1))

    def losses(self, features: nd.NDArray, targets: nd.NDArray, smoothing: float = 0.0) -> nd.NDArray:
        """(M,) cross entropies of what (M, width) features say against targets that share `smoothing` of their mass
        evenly over all tokens: Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016.

        With logits z and log p = z - log Σ exp z, -(1 - s) log p_y - s mean(log p) = -log p_y + s (z_y - mean z), and
        both z_y and mean z are products of a feature with one vector: no second pass over M * V cells.
        """
        losses = -nd.pick(self.log_probabilities(features), targets)
        if not smoothing:
            return losses
        table, bias = self.table.data(features.context), self.bias.data(features.context)
        own = (features * self(targets)).sum(axis=1) + nd.take(bias, targets)
        every = nd.full((1, self.border + 1), 1 / (self.border + 1), ctx=features.context)
        mean = nd.dot(features, nd.dot(every, table), transpose_b=True).reshape(-1) + bias.mean()
        return losses + smoothing * (own - mean)
