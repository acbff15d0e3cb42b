"""The section `teach`: who else is learnt from beside the labels."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import OwnPlace, Settings


class TeachConfig(Settings):
    """A teacher: a model of any kind whose scores of the training texts are learnt from beside the labels."""

    scores: OwnPlace | None = Field(
        default=None,
        description="Task classification: the teacher's logits or probabilities for each training record, and for "
        "those of valid, so that its own figure is known. Parquet with a column id and one per label, or npz with ids, "
        "names and scores. The ids are those of records-SPLIT.parquet. null: no teacher.",
        examples=["teacher.parquet"],
    )
    by: str = Field(default="", description="Who taught, for the model's card.", examples=["an ensemble of 3 seeds"])
    weight: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="Share of the teacher in the loss; the rest is that of the labels."
    )
    kind: Literal["logits", "kl"] = Field(
        default="logits",
        description="logits: mean squared difference of the logits, each row's about its mean. kl: Kullback-Leibler "
        "divergence at a temperature.",
    )
    kl_temperature: Annotated[float, Field(gt=0)] = Field(
        default=2.0, description="kl: divides both logits. A larger one tells more of the unlikely classes."
    )
