"""The section `teach`: who else is learnt from beside the labels."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.config.base import OwnPlace, Settings

OF_TEXTS = ("weight", "kind", "kl_temperature")
OF_PAIRS = (
    "weight", "embedding_weight", "row_weight", "row_temperature", "margin_weight", "margin_scale",
    "further_per_update",
)  # fmt: skip
Weight = Annotated[float, Field(ge=0)]


class TeachConfig(Settings):
    """A teacher: a model of any kind whose scores or vectors of training texts are learnt from beside the labels."""

    scores: OwnPlace | None = Field(
        default=None,
        description="Task classification: the teacher's logits or probabilities for each training record, and for "
        "those of valid, so that its own figure is known. Parquet with a column id and one per label, or npz with ids, "
        "names and scores. The ids are those of records-SPLIT.parquet. Task matching: its scores of pairs. Parquet "
        "with query_id, document_id and score, or npz with query_ids, document_ids and scores; each relevant pair of "
        "train must have one. null: no such teacher.",
        examples=["teacher.parquet"],
    )
    vectors: tuple[OwnPlace, ...] = Field(
        default=(),
        description="Task matching: files of the teacher's vectors. Parquet with a column vector, or npz with vectors, "
        "and one that says whose they are: query_id, document_id or text (npz: query_ids, document_ids, texts). Each "
        "text of train must have one; those of valid let its own figure be known. Any other text, without labels, "
        "teaches too.",
        examples=[["teacher.parquet"]],
    )
    onnx: OwnPlace | None = Field(
        default=None,
        description="Task matching, in place of vectors: folder of an encoder as Hugging Face lays it out: model.onnx "
        "or onnx/model.onnx, tokenizer.json and, of sentence-transformers, 1_Pooling/config.json (mean or cls; mean "
        "without it). The stage encodes the texts of train and valid by ONNX Runtime. Needs pip install "
        "'duplet[teach]'.",
        examples=["all-MiniLM-L6-v2"],
    )
    by: str = Field(default="", description="Who taught, for the model's card.", examples=["an ensemble of 3 seeds"])
    weight: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="Share of the teacher in the loss; the rest is that of the labels."
    )
    kind: Literal["logits", "kl"] = Field(
        default="logits",
        description="Task classification. logits: mean squared difference of the logits, each row's about its mean. "
        "kl: Kullback-Leibler divergence at a temperature.",
    )
    kl_temperature: Annotated[float, Field(gt=0)] = Field(
        default=2.0, description="kl: divides both logits. A larger one tells more of the unlikely classes."
    )
    embedding_weight: Weight = Field(
        default=1.0,
        description="vectors: weight of the squared distance between the teacher's vector of a text and the model's, "
        "brought to the teacher's width by a learned linear map. 0: left out.",
    )
    row_weight: Weight = Field(
        default=1.0,
        description="vectors, with a ranking loss: weight of the Kullback-Leibler divergence between the teacher's and "
        "the model's softmax over all documents of the update. 0: left out.",
    )
    row_temperature: Annotated[float, Field(gt=0)] = Field(
        default=0.05, description="Divides the teacher's cosines before its softmax; the model's: loss.temperature."
    )
    margin_weight: Weight = Field(
        default=1.0,
        description="scores of pairs: weight of the squared difference between the teacher's and the model's margin of "
        "a query's document above each other document of the update that the teacher has scored for it. 0: left out.",
    )
    margin_scale: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Multiplies the teacher's margins. null: so that its scores deviate by 0.2, as cosines may.",
    )
    further_per_update: Annotated[int, Field(ge=0)] = Field(
        default=64, description="Texts of the files of vectors that are none of train's and join an update; 0: none."
    )

    @property
    def files(self) -> dict[str, str]:
        """Setting -> path."""
        named = {"teach.scores": self.scores} | {f"teach.vectors.{i}": path for i, path in enumerate(self.vectors)}
        return {setting: path for setting, path in named.items() if path is not None}

    @property
    def embeds(self) -> bool:
        """Whether there are vectors of texts to learn from."""
        return bool(self.vectors or self.onnx)

    @property
    def who(self) -> str:
        """Who taught; "" without a teacher."""
        onnx = [self.onnx] if self.onnx else []
        names = ", ".join(Path(path).name for path in (*self.files.values(), *onnx))
        return (self.by or names) if names else ""

    def shaping(self, pairs: bool) -> dict[str, Any]:
        """The settings beside the files by which a training with a teacher is what it is, of pairs or of texts."""
        return self.model_dump(mode="json", include=set(OF_PAIRS if pairs else OF_TEXTS))
