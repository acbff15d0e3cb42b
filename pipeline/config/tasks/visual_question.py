"""An image and a question about it to an answer."""

from typing import Literal

from pydantic import Field

from pipeline.config.images import ImageConfig, files
from pipeline.config.task_spec import Metric, TaskSpec
from pipeline.core.record_schema import Field as Text


class VisualQuestionConfig(ImageConfig):
    """Images with questions and an answer of one word, or of a few that belong together."""

    fusion: Literal["concat", "product", "attention"] = Field(
        default="attention",
        description="How question and image are joined. concat: side by side. product: element by element (Antol et "
        "al. 2015). attention: the question is compared with each place of the image and chooses among them (Yang et "
        "al. 2016).",
    )

    @property
    def over_places(self) -> bool:
        """See ImageConfig."""
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
    record="question",
    options=VisualQuestionConfig,
    inputs=("image", "question"),
    sources=("scene_questions", "captions", "coco"),
    files=files,
    pooled=True,
)
