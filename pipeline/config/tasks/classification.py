"""A text to a class."""

from pipeline.config.task_spec import Metric, OnnxSpec, TaskSpec
from pipeline.core.record_schema import Field as Text

TASK = TaskSpec(
    name="classification",
    fields={"text": Text(256), "label": Text(1, "label", "whole", names=True)},
    task="pipeline.tasks.classification:Classification",
    metrics=(Metric("accuracy"), Metric("macro_f1")),
    rows={"output.weight": ("label",), "output.bias": ("label",)},
    columns={
        "text": ("text", "sentence", "review", "content", "body", "comment", "tweet", "document"),
        "label": ("label", "class", "category", "stars", "sentiment", "topic", "target", "rating"),
    },
    check_split="pipeline.orchestration.split_checks:classification",
    pooled=True,
    teachable=True,
    resegments=True,
    sure=True,
    onnx=OnnxSpec(
        graphs="pipeline.serving.onnx.tasks:classifier",
        judge="pipeline.serving.export.task_validation:classification",
        open="pipeline.serving.predict.onnx_tasks:OnnxClassifier",
        card=(
            "| `classifier.onnx` | ids (N, T) int32, 0 on padding, and lengths (N,) int32; probabilities (N, C) of the "
            "labels in `label/vocabulary.json`, less its first two entries |",
        ),
        example=(("a list in ascending order",), ("light refracted by drops of water",)),
    ),
)
