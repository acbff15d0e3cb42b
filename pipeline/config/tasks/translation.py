"""A text to another text."""

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.config.base import Positive, Settings, Share
from pipeline.config.memory import Sizes, padded_tokens, part_of
from pipeline.config.task_spec import Metric, OnnxSpec, TaskSpec
from pipeline.core.record_schema import Field as Text


class TranslationConfig(Settings):
    """Encoder of `model`; a decoder of as many layers, each as wide as one direction of it, with attention."""

    attention: Literal["scaled", "luong", "bahdanau"] = Field(
        default="scaled",
        description="How a step of the decoder is compared with the places of the source. scaled: by products, divided "
        "so that training does not settle on one place too soon. luong: by products as they are. bahdanau: by a small "
        "network, step by step, which is slower.",
    )
    label_smoothing: Share = Field(
        default=0.1, description="Share of the probability that training gives to all other tokens alike."
    )
    beam: Positive = Field(
        default=5, description="Translations that are followed at a time. More may be better and take longer."
    )
    length_penalty: Annotated[float, Field(ge=0)] = Field(
        default=0.6,
        description="alpha of ((5 + length) / 6) ^ alpha, which divides a translation's log probability (Wu et al. "
        "2016). A larger one prefers longer translations.",
    )
    max_target_share: Annotated[float, Field(gt=0)] = Field(
        default=2.0,
        description="Maximum number of tokens of a translation per token of its source; ten more are allowed.",
    )
    copy_unknown: bool = Field(
        default=False,
        description="Writes the source word that is attended to most in place of an unknown word; else no unknown word "
        "is written.",
    )
    bleu_tokenizer: Literal["13a", "intl", "zh", "char", "none"] = Field(
        default="13a", description="sacreBLEU's tokenizer for the target language; zh for Chinese."
    )


def _sizes(config: Any, vocabulary: int) -> Sizes:
    """The chances of each token at each place of a target."""
    tokens = padded_tokens(config)
    targets = min(config.train.max_pairs_per_update * config.tokenize.limit("target"), tokens)
    return Sizes(tokens, ((4.0 * part_of(config, targets) * vocabulary, "train.max_tokens_per_update"),))


TASK = TaskSpec(
    name="translation",
    fields={"source": Text(128), "target": Text(128)},
    rows={"words.table": ("source",), "words.bias": ("source",)},
    task="pipeline.tasks.translation:Translation",
    metrics=(
        Metric("bleu", scale="0 to 100"),
        Metric("chrf", scale="0 to 100"),
        Metric("nats", True, "nats", per_token=True),
        Metric("exact"),
    ),
    record="pair",
    sizes=_sizes,
    options=TranslationConfig,
    inputs=("source",),
    columns={"source": ("source", "src", "en"), "target": ("target", "tgt", "translation", "reference")},
    resegments=True,
    onnx=OnnxSpec(
        graphs="pipeline.serving.onnx.writers:translator",
        judge="pipeline.serving.export.writing_validation:translation",
        open="pipeline.serving.predict.onnx_writing:OnnxTranslator",
        example=(("two men are reading",),),
        card=(
            "| `source_encoder.onnx` | ids (N, T) int32, 0 on padding, and lengths (N,) int32; values (N, T, W), keys "
            "(N, T, H) and padding (N, T), the memory, and each first state_0, … (N, H) |",
            "| `decoder_step.onnx` | last (R,) int32, the token before, V at first; each `state_` and what else the "
            "encoder gave, a row per text being written; log_probabilities (R, V + 1) of the next token, where V ends "
            "the text, and each state after it as `new_state_`; weights (R, T) of the source's tokens |",
        ),
    ),
)
