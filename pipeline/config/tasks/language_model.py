"""Running text: what comes next."""

from typing import Annotated, Any

from pydantic import Field

from pipeline.config.base import Positive, Settings, Share
from pipeline.config.memory import Sizes, part_of
from pipeline.config.task_spec import Metric, OnnxSpec, TaskSpec
from pipeline.core.record_schema import Field as Text


class LanguageModelConfig(Settings):
    """A language model reads forwards only: model.directions must be 1."""

    streams: Positive = Field(
        default=20, description="Parts of the text that are read side by side, over all workers together."
    )
    steps: Positive = Field(
        default=35, description="Tokens of each stream in one update; gradients flow back through so many."
    )
    tied: bool = Field(
        default=False,
        description="Uses the embedding as the output's weights (Press and Wolf 2017); model.embedding must then equal "
        "model.hidden.",
    )
    variational: bool = Field(
        default=False,
        description="Draws one dropout mask for all steps of an update (Gal and Ghahramani 2016), else one per step.",
    )
    weight_dropout: Share = Field(
        default=0.0,
        description="Share of the recurrent weights that training sets to 0, the same for all steps of an update "
        "(Merity et al. 2018).",
    )
    sampled: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Negatives of a sampled softmax, which makes training with a large vocabulary faster. 0: the whole "
        "softmax.",
    )
    sample_tokens: Positive = Field(default=300, description="Tokens of the sample that each validation writes.")


def _check(config: Any) -> None:
    model, settings = config.model, config.options(LanguageModelConfig)
    if model.directions != 1:
        raise ValueError(
            "task language_model needs model.directions=1: a model that reads backwards has seen the next token"
        )
    if settings.tied and model.embedding != model.hidden:
        raise ValueError(
            f"language_model.tied needs model.embedding={model.embedding} to equal model.hidden={model.hidden}"
        )
    if settings.streams < config.train.workers:
        raise ValueError(
            f"language_model.streams={settings.streams} leaves some of {config.train.workers} workers without one"
        )
    if settings.streams < config.train.workers * config.train.accumulate:
        raise ValueError(
            f"language_model.streams={settings.streams} cannot be divided into "
            f"train.accumulate={config.train.accumulate} parts for each of {config.train.workers} workers: lower it"
        )


def _sizes(config: Any, vocabulary: int) -> Sizes:
    """The chances of each token after each."""
    options = config.options(LanguageModelConfig)
    tokens = options.streams * options.steps
    chances = 4 * part_of(config, tokens) * (options.sampled or vocabulary)
    return Sizes(tokens, ((chances, "language_model.streams"),))


def _check_tokens(split: str, tokens: int, unknown: int) -> str | None:
    return f"the {split} text has {tokens} tokens, nothing to predict: give it more text" if tokens < 2 else None


TASK = TaskSpec(
    name="language_model",
    fields={"text": Text(verbatim=True)},
    task="pipeline.tasks.language_model:LanguageModelTask",
    metrics=(
        Metric("nats", True, "nats", per_token=True),
        Metric("perplexity", True, "perplexity", per_token=True),
    ),
    rows={"words.weight": ("text",), "output.weight": ("text",), "output.bias": ("text",)},
    options=LanguageModelConfig,
    steps=lambda options: int(options.steps),
    sizes=_sizes,
    check=_check,
    check_tokens=_check_tokens,
    goes_on=True,
    onnx=OnnxSpec(
        graphs="pipeline.serving.onnx.tasks:language_step",
        judge="pipeline.serving.export.task_validation:language_model",
        card=(
            "| `language_step.onnx` | ids (N, T) int32 and the states h_0, h_1, … (and c_0, … of an LSTM), each "
            "(1, N, H), zeros at a text's beginning; logits (N, T, V) of the next tokens and new_h_0, …, the states "
            "after them |",
        ),
    ),
)
