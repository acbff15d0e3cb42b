"""Where raw data lies and how it is read: a section of the configuration per kind of source."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema, model_validator

from pipeline.config.base import Format, OrNull, Place, Positive, Settings
from pipeline.config.embedded_sources import (
    DocstringsSource,
    NumbersSource,
    PythonSource,
    SceneQuestionsSource,
    ScenesSource,
)

SplitName = Literal["train", "valid", "test"]
Column = str | int
Files = Annotated[
    Place | tuple[Place, ...],
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Encoding = Annotated[
    str, Field(description="How the files' text is encoded; UTF-16 is known by its first bytes.", examples=["cp1252"])
]
Grades = Annotated[
    dict[str, float],
    Field(
        description="Relevance of each label as it is written in the data. Empty: the label is a number already.",
        examples=[{"bad": 0, "good": 1, "perfect": 2}],
    ),
]


Marker = Annotated[
    str | None,
    Field(
        description="Name of the file that is written last into each folder of the source, without which the folder is "
        "not finished. null: no folder needs one.",
        examples=["_SUCCESS"],
    ),
]


def _expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError) as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from None
    return pattern


class FilesSource(Settings):
    """What all sources of files have: one place for all splits, or one per split."""

    path: Files | None = Field(
        default=None,
        description="Where all rows are; they are divided into splits: a file, a list, a pattern such as "
        "logs/*.tsv.gz, or a folder. Files may end in .gz or .zst, or be addresses such as s3://… null: paths names "
        "them.",
        examples=["pairs.tsv.gz", "logs/2026-11-*.jsonl", ["a.tsv", "b.tsv"]],
    )
    paths: dict[SplitName, Files] = Field(
        default={},
        description="A place per split, each as path. Where valid or test is missing, a part of train takes its place.",
        examples=[{"train": "train.tsv", "test": "test.tsv"}],
    )
    marker: Marker = None
    encoding: Encoding = "utf-8"

    @model_validator(mode="after")
    def _in_one_place(self) -> Self:
        if bool(self.path) == bool(self.paths):
            raise ValueError(
                "give either path (all rows: a file, a list, a pattern or a folder) or paths (the same for each split)"
            )
        return self


class Columns(Settings):
    """Where a row keeps each field: a column's name (or JSON key), or its position from 0."""

    free_texts = frozenset({"*"})

    query: Column = Field(default="query", description="Query, of task matching.", examples=["question", 0])
    document: Column = Field(
        default="document", description="Document, of task matching, or a list of them.", examples=["answer", "pos", 1]
    )
    negative: Column | None = Field(
        default=None,
        description="Irrelevant document of a triple, of task matching. Where document and negative hold lists, or "
        "objects with text and title, each item is a pair. null: there is none.",
        examples=["neg", "negative_passages"],
    )
    text: Column = Field(default="text", description="Text, of tasks of one text.")
    label: Column = Field(default="label", description="Label, of task classification.")
    source: Column = Field(default="source", description="Text to translate, of task translation.")
    target: Column = Field(default="target", description="Its translation, of task translation.")
    tags: Column = Field(default="tags", description="Tags with blanks between them, one per word; of task tagging.")
    letters: Column = Field(default="text", description="Text whose words are read by character, of task tagging.")
    image: Column = Field(default="image", description="Name of the image, of tasks captioning and visual_question.")
    caption: Column = Field(default="caption", description="Caption, of task captioning.")
    question: Column = Field(default="question", description="Question about the image, of task visual_question.")
    answer: Column = Field(default="answer", description="Its answer, of task visual_question.")
    relevance: Column | None = Field(
        default=None,
        description="Relevance of the document for the query: a number, or a label of grades. null: every row is a "
        "relevant pair.",
        examples=["label"],
    )
    id: Column | None = Field(default=None, description="Id of the row. null: ids are made from the texts.")
    query_id: Column | None = Field(default=None, description="Id of the query. null: ids are made from the texts.")
    document_id: Column | None = Field(
        default=None, description="Id of the document. null: ids are made from the texts."
    )
    group: tuple[Column, ...] = Field(
        default=(),
        description="Columns whose values rows must share to stay in one split. Empty: rows of equal query, or text, "
        "stay together.",
        examples=[["site", "page"]],
    )
    metadata: tuple[Column, ...] = Field(
        default=(), description="Columns that are kept beside each record, for looking things up.", examples=[["url"]]
    )

    @model_validator(mode="after")
    def _one_relevance(self) -> Self:
        if self.negative is not None and self.relevance is not None:
            raise ValueError("give either negative (a column of irrelevant documents) or relevance, not both")
        return self


_FLAG_OR_NULL = {"anyOf": [{"type": "boolean"}, {"type": "null"}]}


def _by_format(quoting: bool | None, info: ValidationInfo) -> bool:
    """Whether quotes are read as such, where it is not said: in CSV."""
    return info.data.get("format") == "csv" if quoting is None else quoting


def _divides(delimiter: str | None, info: ValidationInfo) -> str | None:
    """What divides the fields of a row, where it is not said: in TSV a tab, in CSV a comma."""
    return {"tsv": "\t"}.get(str(info.data.get("format")), ",") if delimiter is None else delimiter


class PairsSource(FilesSource):
    """Rows with a column per field of the task, in one file for all splits or one per split."""

    free_texts = frozenset({"grades", "delimiter"})

    format: Literal["jsonl", "tsv", "csv", "parquet", "arrow"] = Format
    columns: Columns = Columns()
    header: bool = Field(default=True, description="TSV and CSV: the first row names the columns.")
    quoting: Annotated[bool, OrNull(), BeforeValidator(_by_format), WithJsonSchema(_FLAG_OR_NULL)] = Field(
        default=None, validate_default=True, description='TSV and CSV: "…" quotes a field. Default: CSV yes, TSV no.'
    )
    delimiter: Annotated[str, Field(pattern='^[^"\r\n]$'), OrNull(), BeforeValidator(_divides)] = Field(
        default=None, validate_default=True,
        description="TSV and CSV: the character between two fields. Default: CSV a comma, TSV a tab.",
    )  # fmt: skip
    grades: Grades = {}


class CollectionSource(Settings):
    """Queries, documents and judgements in files of their own.

    `trec`: topics and collections in SGML, or in the SMART style (.I/.T/.W), with a qrels file; `beir`: a folder with
    corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv; `msmarco`: TSV of id and text, with a qrels file.
    """

    free_texts = frozenset({"grades"})

    format: Literal["trec", "beir", "msmarco"] = Format
    path: Place | None = Field(
        default=None, description="beir: the folder. null: trec and msmarco name their files.", examples=["scifact"]
    )
    documents: Files | None = Field(
        default=None,
        description="trec and msmarco: the documents: a file, a list, a pattern or a folder.",
        examples=["docs.trec.gz"],
    )
    queries: Files | dict[SplitName, Files] | None = Field(
        default=None,
        description="trec and msmarco: a file of queries per split, or one for all, whose queries are divided by hash.",
        examples=[{"train": "train.topics", "test": "test.topics"}],
    )
    judgements: Files | dict[SplitName, Files] | None = Field(
        default=None,
        description="trec and msmarco: a file of judgements (qrels) per split, or one for all.",
        examples=[{"train": "train.qrels", "test": "test.qrels"}],
    )
    query_ids: Literal["given", "position"] = Field(
        default="given",
        description="How judgements name a query: by its id, or by its position in the file of queries, from 1.",
    )
    triples: bool = Field(
        default=False,
        description="Judgements are triples of ids: a query, a relevant document, an irrelevant one.",
    )
    train_on_titles: bool = Field(
        default=False,
        description="Trains on a document's title as the query for its text, and keeps all judged queries for test.",
    )
    encoding: Encoding = "utf-8"
    grades: Grades = {}

    @model_validator(mode="after")
    def _complete(self) -> "CollectionSource":
        if self.format == "beir":
            if not self.path or self.documents or self.queries or self.judgements:
                raise ValueError("format beir takes path (its folder), and no documents, queries or judgements")
        elif self.path or not (self.documents and self.queries and self.judgements):
            raise ValueError(f"format {self.format} takes documents, queries and judgements, and no path")
        return self


class TextSource(FilesSource):
    """Running text, in one file (its end goes to valid and test) or one per split; a record is some whole lines."""

    format: Literal["text"] = Format
    lines_per_record: Positive = Field(default=1, description="Lines of text in one record.")
    begins: Annotated[str, AfterValidator(_expression)] | None = Field(
        default=None,
        description="A regular expression that finds the first line of each record, such as a chapter's heading: a "
        "record then goes on to the next such line, the splits get whole records, chosen by hash, and what stands "
        "before the first one in a file, such as its title, is left out. null: records of lines_per_record.",
        examples=["^第.{1,7}回\\s", "^CHAPTER "],
    )


class LinesSource(Settings):
    """Files whose n-th lines belong together, one per field of the task, for each split."""

    format: Literal["lines"] = Format
    paths: dict[SplitName, dict[str, Files]] = Field(
        description="A file per field of the task, for each split.",
        examples=[{"train": {"source": "train.en", "target": "train.de"}}],
    )
    encoding: Encoding = "utf-8"


class LabelledSource(FilesSource):
    """Lines of a label, one blank and a text, in one file for all splits or one per split."""

    format: Literal["labelled"] = Format


class ConlluSource(FilesSource):
    """Sentences in CoNLL-U: the text is the word forms, the tags are another column."""

    format: Literal["conllu"] = Format
    tag: Literal["UPOS", "XPOS"] = Field(
        default="UPOS", description="Column that holds the tags: universal parts of speech, or the language's own."
    )


class ConllSource(FilesSource):
    """Sentences as lines of a word and its tag, with blank lines between them, as CoNLL-2000 and CoNLL-2003 have them.

    The first column is the word, the last its tag; columns between them are left out.
    """

    format: Literal["conll"] = Format


class CaptionsSource(Settings):
    """Images and a file of their captions: lines of NAME or NAME#NUMBER, a tab and the caption.

    For task visual_question: NAME, a tab, a question, a tab and its answer.
    """

    format: Literal["captions"] = Format
    captions: Place = Field(
        description="File with an image's name and a caption, or a question and its answer, per line."
    )
    images: Place = Field(
        description="Zip file or folder of the images, or a .npy file with a vector (or a vector per place) of each.",
        examples=["images.zip", "features.npy"],
    )
    names: Place | None = Field(
        default=None,
        description="File with the image's name for each row of a .npy file, one per line. null: rows are named 0, 1, "
        "2, …",
    )
    splits: dict[SplitName, Place] = Field(
        default={},
        description="A file of image names per split, one per line. Empty: the images are divided by hash.",
        examples=[{"train": "train.txt", "valid": "valid.txt", "test": "test.txt"}],
    )
    encoding: Encoding = "utf-8"
    size_px: Positive = Field(default=64, description="Width and height, in pixels, that images are scaled to.")


class PagesSource(Settings):
    """Web pages: HTML files, and crawlers' archives (WARC, ARC). Only the main text of each is kept.

    Task matching learns to find a page by its title; the others read the text alone.
    """

    format: Literal["pages"] = Format
    path: Files = Field(
        description="HTML files and archives, plain or packed: a file, a list, a pattern or a folder.",
        examples=["crawl/*.warc.gz"],
    )
    marker: Marker = None
    languages: tuple[str, ...] = Field(
        default=(),
        description="Languages of the pages that are kept, by ISO 639-1; others are left out. Empty: all.",
        examples=[["en", "de"]],
    )
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=0.8,
        description="Share of runs of five words that two pages have in common, estimated by MinHash, from which on "
        "the later one is left out. null: only pages of one address are duplicates.",
    )


class ClickColumns(Settings):
    """Where a row of a click log keeps each field: a column's name, or its position from 0."""

    free_texts = frozenset({"*"})

    session: Column | None = Field(default="session", description="Session or person. null: the log has none.")
    query: Column = Field(default="query", description="Query as it was typed.")
    shown: Column = Field(default="shown", description="Documents that were shown, in their order, by address or id.")
    clicked: Column = Field(default="clicked", description="Documents that were clicked.")
    time: Column | None = Field(default="time", description="When. null: the log does not tell.")


class ClicksSource(Settings):
    """A log of what was shown for a query and what was clicked, made into graded pairs by a model of clicks."""

    free_texts = frozenset({"separator"})

    format: Literal["clicks"] = Format
    path: Files = Field(
        description="The log, a row per list of results that was shown: a file, a list, a pattern or a folder.",
        examples=["logs/2026-11-*.jsonl.gz"],
    )
    marker: Marker = None
    log: Literal["jsonl", "tsv", "csv", "parquet"] = Field(default="jsonl", description="Format of the log's files.")
    columns: ClickColumns = ClickColumns()
    header: bool = Field(default=True, description="TSV and CSV: the first row names the columns.")
    separator: str = Field(
        default=" ", min_length=1, description="TSV and CSV: what stands between two documents of one field."
    )
    encoding: Encoding = "utf-8"
    pages: Files | None = Field(
        default=None,
        description="Web pages, as format pages reads them, that the log names by their addresses. null: documents "
        "names them.",
        examples=["crawl"],
    )
    documents: Files | None = Field(
        default=None,
        description="Documents that the log names by their ids: TSV of id and text, or JSON Lines with _id, title and "
        "text. null: pages names them.",
        examples=["documents.tsv"],
    )
    model: Literal["position", "cascade", "clicks"] = Field(
        default="position",
        description="What a click tells. position: a document is clicked if it is looked at, which depends on its "
        "place, and attracts. cascade: results are looked at from the top until one satisfies (a dynamic Bayesian "
        "network). clicks: the share of times that it was clicked.",
    )
    smoothing: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="So many views of a document at the mean of all are added to those it had. A larger value trusts "
        "rare documents less.",
    )
    iterations: Positive = Field(default=50, description="Maximum number of steps of the model's fit (EM).")
    grades: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.1, 0.3, 0.5),
        min_length=1,
        description="Minimum chance of a click, if looked at, for relevance 1, 2 and so on; below the first it is 0, a "
        "listed negative.",
    )
    min_views: Positive = Field(
        default=1,
        description="Minimum number of times that a document was shown for a query; pairs below it are left out.",
    )
    sessions: Literal["drop", "hash", "keep"] = Field(
        default="drop",
        description="What happens to sessions in the quarantine, the only place where they could stay. hash: by a "
        "secret, the environment's DUPLET_SALT.",
    )
    languages: tuple[str, ...] = Field(default=(), description="As for format pages.", examples=[["en"]])
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = Field(default=0.8, description="As for format pages.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.pages) == bool(self.documents):
            raise ValueError("format clicks takes either pages (web pages) or documents (a table of id and text)")
        if list(self.grades) != sorted(set(self.grades)):
            raise ValueError("grades must rise")
        return self


_PER_SPLIT = " One for all, which is cut into splits, or one per split."


def _in_a_tuple(places: Any) -> Any:
    """One address, or a list of them, as a tuple."""
    return (places,) if isinstance(places, str) else tuple(places) if isinstance(places, list) else places


class CocoSource(Settings):
    """Microsoft COCO's files as they are distributed: captions, or questions with their answers (VQA), and images."""

    format: Literal["coco"] = Format
    captions: Place | dict[SplitName, Place] | None = Field(
        default=None,
        description="captions_*.json, or Karpathy's dataset_coco.json with its splits; task captioning." + _PER_SPLIT,
        examples=[{"train": "captions_train2017.json", "test": "captions_val2017.json"}, "dataset_coco.json"],
    )
    questions: Place | dict[SplitName, Place] | None = Field(
        default=None,
        description="v2_OpenEnded_mscoco_*_questions.json, of task visual_question." + _PER_SPLIT,
        examples=[{"train": "v2_OpenEnded_mscoco_train2014_questions.json"}],
    )
    annotations: Place | dict[SplitName, Place] | None = Field(
        default=None,
        description="v2_mscoco_*_annotations.json, the answers to questions, for the same splits.",
        examples=[{"train": "v2_mscoco_train2014_annotations.json"}],
    )
    images: Annotated[
        tuple[Place, ...], BeforeValidator(_in_a_tuple),
        Field(
            min_length=1, description="Folders or zip files of the pictures.", examples=[["train2014", "val2014.zip"]]
        ),
    ]  # fmt: skip
    size_px: Positive = Field(default=64, description="Width and height, in pixels, that pictures are scaled to.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.captions) == bool(self.questions):
            raise ValueError("give either captions, or questions and annotations")
        if bool(self.questions) != bool(self.annotations):
            raise ValueError("questions and annotations, their answers, need each other")
        if self.questions and (isinstance(self.questions, str) != isinstance(self.annotations, str)):
            raise ValueError("questions and annotations must both be one file, or both one file per split")
        if isinstance(self.questions, dict) and self.questions.keys() != (self.annotations or {}).keys():  # type: ignore[union-attr]
            raise ValueError("questions and annotations must name the same splits")
        return self


Source = Annotated[
    PairsSource
    | CollectionSource
    | DocstringsSource
    | TextSource
    | LinesSource
    | LabelledSource
    | ConlluSource
    | ConllSource
    | PythonSource
    | NumbersSource
    | ScenesSource
    | CaptionsSource
    | PagesSource
    | ClicksSource
    | SceneQuestionsSource
    | CocoSource,
    Field(discriminator="format"),
]
FORMATS: dict[str, type[Settings]] = {
    name: model
    for model in Source.__origin__.__args__  # type: ignore[attr-defined]
    for name in model.model_fields["format"].annotation.__args__
}
