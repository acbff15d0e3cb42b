"""An image to a caption."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Positive
from pipeline.config.images import ImageConfig, files
from pipeline.config.task_spec import Metric, TaskSpec
from pipeline.core.record_schema import Field as Text


class CaptioningConfig(ImageConfig):
    """Images and a decoder of their captions."""

    inject: Literal["first", "every", "attention"] = Field(
        default="first",
        description="Where the image enters. first: the first step only (Karpathy and Fei-Fei 2015). every: each step. "
        "attention: over the places of the image (Xu et al. 2015).",
    )
    beam: Positive = Field(
        default=3, description="Captions that are followed at a time. More may be better and take longer."
    )

    @property
    def over_places(self) -> bool:
        """See ImageConfig."""
        return self.inject == "attention"


TASK = TaskSpec(
    name="captioning",
    fields={"image": Text(1, "image", "whole", names=True), "caption": Text(64)},
    task="pipeline.tasks.captioning:Captioning",
    metrics=(Metric("exact"), Metric("bleu_4"), Metric("cider", scale="0 to 10"), Metric("nats", True, "nats")),
    record="caption",
    options=CaptioningConfig,
    inputs=("image",),
    sources=("scenes", "captions", "coco"),
    files=files,
)
