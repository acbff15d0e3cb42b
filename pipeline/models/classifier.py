"""A text to a class: the encoder, one vector per text, and a linear output."""

from typing import Any

from mxnet import gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.models.encoder import TextReader


class Classifier(TextReader):
    """Logits of a text's classes from its pooled states; with pooling `last` from the last output alone.

    Then the loss touches the last valid forward state and the first backward one only, and every other step learns
    through the recurrence.

    Args:
        vocabulary: V, the rows of the embedding table.
        classes: C.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, classes: int, **kwargs: Any) -> None:
        super().__init__(config, vocabulary, **kwargs)
        with self.name_scope():
            self.output = gluon.nn.Dense(classes, in_units=self.pooling.width, weight_initializer=init.Xavier())

    def forward(
        self, table: nd.NDArray, ids: nd.NDArray, lengths: nd.NDArray, packed: list[nd.NDArray] | None = None
    ) -> nd.NDArray:
        """(N, C) logits; see TextReader.read."""
        return self.output(self.dropout(self.read(table, ids, lengths, packed)))
