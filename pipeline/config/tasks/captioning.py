"""An image to a caption."""

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.config.base import OwnPlace, Positive, Settings
from pipeline.config.task_spec import Metric, TaskSpec
from pipeline.core.record_schema import Field as Text


class CaptioningConfig(Settings):
    """Images and a decoder of their captions."""

    inject: Literal["first", "every", "attention"] = Field(
        default="first",
        description="Where the image enters. first: the first step only (Karpathy and Fei-Fei 2015). every: each step. "
        "attention: over the places of the image (Xu et al. 2015).",
    )
    features: Literal["trained", "alexnet", "given"] = Field(
        default="trained",
        description="What the decoder sees of an image. trained: a small convolutional network over its pixels. "
        "alexnet: MXNet's AlexNet, with the parameters of weights. given: the vectors that the source has as images.",
    )
    weights: OwnPlace | None = Field(
        default=None,
        description="AlexNet's parameter file of Gluon's model zoo, for features=alexnet alone.",
        examples=["alexnet-44335d1f.params"],
    )
    beam: Positive = Field(
        default=3, description="Captions that are followed at a time. More may be better and take longer."
    )

    @model_validator(mode="after")
    def _complete(self) -> "CaptioningConfig":
        if (self.features == "alexnet") != bool(self.weights):
            raise ValueError("features=alexnet and weights, AlexNet's parameter file, need each other")
        return self


def _files(config: Any) -> dict[str, str | None]:
    return {"captioning.weights": config.options(CaptioningConfig).weights}


TASK = TaskSpec(
    name="captioning",
    fields={"image": Text(1, "image", "whole", names=True), "caption": Text(64)},
    task="pipeline.tasks.captioning:Captioning",
    metrics=(Metric("exact"), Metric("bleu_4"), Metric("cider", scale="0 to 10"), Metric("nats", True, "nats")),
    record="caption",
    options=CaptioningConfig,
    inputs=("image",),
    sources=("scenes", "captions"),
    files=_files,
)
