"""The section `mine`: hard negatives, found before training."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.base import OwnPlace, Positive, Settings, Share


class MineConfig(Settings):
    """Hard negatives: documents of train that look relevant to a query and are not. See docs/training.md."""

    by: tuple[Literal["bm25", "model"], ...] = Field(
        default=(),
        description="Task matching: what finds documents that look relevant to each query of train; they join those "
        "that train.loss.listed_negatives draws from. bm25: common words; model: a trained model. []: none are found.",
        examples=[["bm25", "model"]],
    )
    model: OwnPlace | None = Field(
        default=None,
        description="by model: its trained folder, with the same section model. null: that of train.start_from.",
        examples=["runs/train/3f2a91c4d0b7"],
    )
    first_rank: Positive = Field(
        default=10,
        description="Rank, from 1, of the first document that is taken; the best ones are often relevant and not "
        "judged so.",
    )
    last_rank: Positive = Field(default=100, description="Rank of the last document that is taken.")
    per_query: Positive = Field(
        default=8, description="Documents kept for a query at most, drawn evenly from those that are left."
    )
    margin: Share = Field(
        default=0.05,
        description="A document is left out unless its score is below that of the query's best relevant one by this "
        "share of it. 0: unless it is not above it.",
    )
    near: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9,
        description="A document is left out if it has so large a share of its words and a relevant one's in common. "
        "1: only if it has the same words.",
    )
    veto: Share | None = Field(
        default=None,
        description="A document is left out unless its cosine with the query, by teach.vectors, is below that of the "
        "best relevant one by this share of it. null: the teacher is not asked.",
        examples=[0.05],
    )
    seed: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Start of the random numbers that draw them. null: the configuration's seed."
    )

    @model_validator(mode="after")
    def _fits(self) -> "MineConfig":
        if self.first_rank > self.last_rank:
            raise ValueError(f"first_rank={self.first_rank} must not be above last_rank={self.last_rank}")
        return self


def ranking_model(config: Any) -> str | None:
    """The trained folder that ranks for mine.by=model, of a whole configuration."""
    folder: str | None = config.mine.model or config.train.start_from
    return folder
