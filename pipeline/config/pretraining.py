"""The section `pretrain`: a first training on pairs that are made of the collection's own documents."""

from typing import Annotated

from pydantic import Field

from pipeline.config.base import Positive, Settings


class PretrainConfig(Settings):
    """A first training, without labels, from which the training on the labels starts. See docs/training.md."""

    pairs: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Task matching, a ranking loss: maximum number of pairs to train on first, made of the documents "
        "of the source: a heading or a sentence as a query for the passage that it stands in. For collections with few "
        "queries or none. With train.start_from, training starts from that in place of it. 0: no such training.",
        examples=[20000],
    )
    epochs: Positive = Field(default=5, description="Passes over these pairs.")
