"""An image to a caption."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Positive
from pipeline.config.images import ImageConfig, files
from pipeline.config.task_spec import Metric, OnnxSpec, TaskSpec
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
        return self.inject == "attention"


TASK = TaskSpec(
    name="captioning",
    fields={"image": Text(1, "image", "whole", names=True), "caption": Text(64)},
    task="pipeline.tasks.captioning:Captioning",
    metrics=(
        Metric("exact"),
        Metric("bleu_4"),
        Metric("cider", scale="0 to 10"),
        Metric("nats", True, "nats", per_token=True),
    ),
    rows={"words.table": ("caption",), "words.bias": ("caption",)},
    record="caption",
    options=CaptioningConfig,
    inputs=("image",),
    sources=("scenes", "captions", "coco"),
    files=files,
    onnx=OnnxSpec(
        graphs="pipeline.serving.onnx.writers:captioner",
        judge="pipeline.serving.export.writing_validation:captioning",
        open="pipeline.serving.predict.onnx_writing:OnnxCaptioner",
        example="pipeline.serving.predict.onnx_writing:image_example",
        needs=("pillow",),
        card=(
            "| `image_encoder.onnx` | images, (N, S, S, 3) uint8 or float32 vectors; vector (N, D) or, with attention, "
            "values (N, L, W) and keys (N, L, H), the memory, and each first state_0, … (N, H) |",
            "| `decoder_step.onnx` | last (R,) int32, the token before, V at first; each `state_` and what else the "
            "encoder gave, a row per text being written; log_probabilities (R, V + 1) of the next token, where V ends "
            "the text, and each state after it as `new_state_`; with attention weights (R, L) of the places |",
        ),
    ),
)
