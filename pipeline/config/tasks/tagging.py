"""A tag for every word."""

from pydantic import Field

from pipeline.config.base import Settings
from pipeline.config.task_spec import Metric, OnnxSpec, TaskSpec
from pipeline.core.record_schema import Field as Text


class TaggingConfig(Settings):
    """A tag for every word."""

    characters: bool = Field(default=False, description="Reads each word's characters too, beside its embedding.")
    crf: bool = Field(
        default=False,
        description="Puts a linear-chain conditional random field over the tags, which learns what follows what "
        "(Lample et al. 2016).",
    )


def _check_record(texts: tuple[str, ...]) -> None:
    words, tags = len(texts[0].split()), len(texts[1].split())
    if words != tags:
        raise ValueError("tags", f"{words} words and {tags} tags: give one tag per word, both separated by blanks")


TASK = TaskSpec(
    name="tagging",
    fields={
        "text": Text(128, "", "whitespace"),
        "tags": Text(128, "tags", "whitespace", names=True),
        "letters": Text(2048, "letters", "letters"),
    },
    task="pipeline.tasks.tagging:Tagging",
    metrics=(Metric("accuracy"), Metric("span_f1")),
    rows={
        "letters.letters.weight": ("letters",),
        "output.weight": ("tags",),
        "output.bias": ("tags",),
        "transitions": ("tags", "tags"),
    },
    record="sentence",
    options=TaggingConfig,
    tied=("text", "tags"),
    check_record=_check_record,
    check_split="pipeline.orchestration.split_checks:tagging",
    onnx=OnnxSpec(
        graphs="pipeline.serving.onnx.tasks:tagger",
        judge="pipeline.serving.export.task_validation:tagging",
        open="pipeline.serving.predict.onnx_tasks:OnnxTagger",
        card=(
            "| `tagger.onnx` | ids (N, T) int32, 0 on padding, and lengths (N,) int32; with a character encoder also "
            "letters (W, L) and letter_lengths (W,) of the W distinct words, and places (N, T), 1 + the word that "
            "stands there, all int32; scores (N, T, G) of the tags in `tags/vocabulary.json`, less its first two "
            "entries |",
        ),
        example=(("The list is in ascending order .",), ("Light is refracted by drops of water .",)),
    ),
)
