"""An image and a question about it to an answer."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.images import ImageConfig, files
from pipeline.config.task_spec import Metric, OnnxSpec, TaskSpec
from pipeline.core.record_schema import Field as Text


class VisualQuestionConfig(ImageConfig):
    """Images with questions and an answer of one word, or of a few that belong together."""

    fusion: Literal["concat", "product", "attention"] = Field(
        default="attention",
        description="How question and image are joined. concat: side by side. product: element by element (Antol et "
        "al. 2015). attention: the question is compared with each place of the image and chooses among them (Yang et "
        "al. 2016).",
    )

    blocks: Annotated[int, Field(ge=0, le=16)] = Field(
        default=0,
        description="Residual blocks of convolutions over the places of an image, which the question steers before it "
        "chooses among them (FiLM, Perez et al. 2018). More of them join what lies further apart, and take longer. For "
        "fusion=attention alone, on as many places as a square has.",
        examples=[2],
    )

    @model_validator(mode="after")
    def _blocks_over_places(self) -> Self:
        if self.blocks and self.fusion != "attention":
            raise ValueError(f"blocks={self.blocks} needs fusion=attention, which reads the places of an image")
        return self

    @property
    def over_places(self) -> bool:
        return self.fusion == "attention"


TASK = TaskSpec(
    name="visual_question",
    fields={
        "image": Text(1, "image", "whole", names=True),
        "question": Text(64),
        "answer": Text(1, "answer", "whole", names=True),
    },
    task="pipeline.tasks.visual_question:VisualQuestion",
    metrics=(Metric("accuracy"), Metric("nats", True, "nats")),
    rows={"output.weight": ("answer",), "output.bias": ("answer",)},
    record="question",
    options=VisualQuestionConfig,
    inputs=("image", "question"),
    sources=("scene_questions", "captions", "coco"),
    files=files,
    pooled=True,
    sure=True,
    onnx=OnnxSpec(
        graphs="pipeline.serving.onnx.writers:answerer",
        judge="pipeline.serving.export.writing_validation:visual_question",
        open="pipeline.serving.predict.onnx_writing:OnnxAnswerer",
        example="pipeline.serving.predict.onnx_writing:image_example",
        needs=("pillow",),
        card=(
            "| `answerer.onnx` | ids (N, T) int32, 0 on padding, lengths (N,) int32 and images, (N, S, S, 3) uint8 or "
            "float32 vectors; probabilities (N, A) of the answers, and with attention weights (N, L) of the places |",
        ),
    ),
)
