"""Words taken out of a text and filled in."""

from typing import Annotated

from pydantic import Field

from pipeline.config.base import Settings
from pipeline.config.task_spec import Metric, OnnxSpec, TaskSpec
from pipeline.core.record_schema import Field as Text


class ClozeConfig(Settings):
    """Words taken out and filled in. Every word of a training text is learned from."""

    blank_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.15, description="Share of a text's words that are hidden from the others as well."
    )
    sampled: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Negatives of a sampled softmax, which makes training with a large vocabulary faster. 0: the whole "
        "softmax.",
    )
    compare_left: bool = Field(
        default=True,
        description="Trains a model of equal size beside it that reads the words on the left alone, to compare.",
    )


def _check_tokens(split: str, tokens: int, unknown: int) -> str | None:
    if unknown < tokens:
        return None
    return f"the {split} split has no word of the training vocabulary, so no word can be hidden"


TASK = TaskSpec(
    name="cloze",
    fields={"text": Text(128)},
    task="pipeline.tasks.cloze:FillIn",
    metrics=(Metric("accuracy", per_token=True), Metric("nats", True, "nats", per_token=True)),
    rows={"both.bias": ("text",), "left.bias": ("text",)},
    record="passage",
    options=ClozeConfig,
    check_tokens=_check_tokens,
    onnx=OnnxSpec(
        graphs="pipeline.serving.onnx.tasks:cloze",
        judge="pipeline.serving.export.task_validation:cloze",
        open="pipeline.serving.predict.onnx_tasks:OnnxCloze",
        card=(
            "| `cloze.onnx` | ids (N, T) int32, V where a word is out and 0 on padding, lengths (N,) int32, and places "
            "(B,) int32, row * T + step of each blank; log_probabilities (B, V) |",
        ),
        example=(("the list is ___ ascending order",), ("light is refracted ___ drops of ___",)),
    ),
)
