"""The section `rerank`: a second model over the first documents of a ranking."""

from pydantic import Field

from pipeline.config.base import OwnPlace, Positive, Settings


class RerankConfig(Settings):
    """A second stage of a ranking: see docs/training.md."""

    model: OwnPlace | None = Field(
        default=None,
        description="Task matching: folder of another trained model, of the same section tokenize over the same texts, "
        "that scores the first documents of the fused ranking anew; its scores are mixed with those of the ranking, by "
        "a weight from the validation split. null: none.",
        examples=["runs/train/3f2a91c4d0b7"],
    )
    top: Positive = Field(
        default=50,
        description="Documents of a query that it scores. A search takes longer by the time to read so many.",
    )
