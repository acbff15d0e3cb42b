"""What a network sees of an image: the part of their options that tasks over images share."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.base import OwnPlace, Settings

# channels and strides of the small nets' convolutions: a place of the last sees 33 pixels across, or 15
CONVOLUTIONS = {"deep": ((24, 1), (48, 2), (48, 2), (64, 2), (64, 1)), "light": ((32, 2), (64, 2), (64, 2))}
EPSILON = 1e-5  # added to a variance


class ImageConfig(Settings):
    """What a network sees of an image."""

    features: Literal["trained", "alexnet", "given"] = Field(
        default="trained",
        description="What the network sees of an image. trained: a small convolutional network over its pixels. "
        "alexnet: MXNet's AlexNet, with the parameters of weights. given: the vectors that the source has as images.",
    )
    net: Literal["deep", "light"] = Field(
        default="deep",
        description="features=trained: deep has five convolutions, the first over every pixel. light has three, each "
        "over every other place of the one before, and sets the mean of a picture's values to 0 and their variance to "
        "1 after each: a third of the time.",
    )
    weights: OwnPlace | None = Field(
        default=None,
        description="AlexNet's parameter file of Gluon's model zoo, for features=alexnet alone.",
        examples=["alexnet-44335d1f.params"],
    )

    @property
    def over_places(self) -> bool:
        """Whether the network reads a vector for each place of an image, not one for all of it."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.features == "alexnet") != bool(self.weights):
            raise ValueError("features=alexnet and weights, AlexNet's parameter file, need each other")
        return self


def files(config: Any) -> dict[str, str | None]:
    """What a TaskSpec's `files` gives: AlexNet's parameters, if any."""
    return {f"{config.task}.weights": config.options(ImageConfig).weights}
