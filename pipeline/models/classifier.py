"""A text to a class: the encoder, one vector per text, and a linear output."""

from typing import Any

from mxnet import Context, gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.models.dropout import Dropout
from pipeline.models.encoder import Encoder, Pooling, padding_of


class Classifier(gluon.Block):
    """Logits of a text's classes from its pooled states; with pooling `last` from the last output alone.

    Then the loss touches the last valid forward state and the first backward one only, and every other step learns
    through the recurrence.

    Args:
        vocabulary: V, the rows of the embedding table.
        classes: C.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            # Rows are updated by themselves (training.optimizer), so no gradient of the whole table is ever made.
            self.embedding = self.params.get(
                "embedding", shape=(vocabulary, config.embedding), init=init.Uniform(0.1), grad_req="null"
            )
            self.encoder = Encoder(config)
            self.pooling = Pooling(config.pooling, config.hidden, config.directions)
            self.dropout = Dropout(config.dropout)
            self.output = gluon.nn.Dense(classes, in_units=self.pooling.width, weight_initializer=init.Xavier())

    def packed(self, context: Context) -> list[nd.NDArray]:
        """The recurrent parameters, for several calls of `forward`."""
        return self.encoder.packed(context)

    def forward(
        self, table: nd.NDArray, ids: nd.NDArray, lengths: nd.NDArray, packed: list[nd.NDArray] | None = None
    ) -> nd.NDArray:
        """(N, C) logits.

        Args:
            table: (U, E) embedding rows that `ids` index; the whole table, or the rows that an update needs.
            ids: (T, N) int32, time first.
            lengths: (N,) int32, at least 1.
        """
        embedded = nd.Embedding(ids, table, input_dim=table.shape[0], output_dim=table.shape[1])
        padding = padding_of(lengths, ids.shape[0])
        states = self.encoder(embedded, padding, packed)
        return self.output(self.dropout(self.pooling(states, lengths, padding)))
