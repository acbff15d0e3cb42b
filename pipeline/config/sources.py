"""Where raw data lies and how it is read: a section of the configuration per kind of source."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, model_validator

from pipeline.config.base import OrNull, Place, Positive, Settings

SplitName = Literal["train", "valid", "test"]
Column = str | int


def _in_one_place(source: Any) -> Any:
    """The source itself. Raises ValueError where not exactly one of `path` and `paths` is given."""
    if bool(source.path) == bool(source.paths):
        raise ValueError("give either path (one file, which is cut into splits) or paths (one file per split)")
    return source


class Columns(Settings):
    """Where a row keeps each field: a column's name (or JSON key), or its position from 0."""

    free_texts = frozenset({"*"})

    query: Column = "query"
    document: Column = "document"
    text: Column = "text"
    label: Column = "label"
    source: Column = "source"
    target: Column = "target"
    tags: Column = "tags"
    letters: Column = "text"  # tagging spells the words of its text
    image: Column = "image"
    caption: Column = "caption"
    relevance: Column | None = None  # None: every row is a relevant pair (relevance 1)
    id: Column | None = None
    query_id: Column | None = None
    document_id: Column | None = None
    group: tuple[Column, ...] = ()  # rows that share these stay in one split; default: the query id
    metadata: tuple[Column, ...] = ()


_FLAG_OR_NULL = {"anyOf": [{"type": "boolean"}, {"type": "null"}]}


def _by_format(given: bool | None, info: ValidationInfo) -> bool:
    """Whether quotes are read as such, where it is not said: in CSV."""
    return info.data.get("format") == "csv" if given is None else given


def _divides(given: str | None, info: ValidationInfo) -> str | None:
    """What divides the fields of a row, where it is not said: in TSV a tab, in CSV a comma."""
    return {"tsv": "\t"}.get(str(info.data.get("format")), ",") if given is None else given


class PairsSource(Settings):
    """Rows with a column per field of the task, in one file for all splits or one per split."""

    free_texts = frozenset({"grades", "delimiter"})

    format: Literal["jsonl", "tsv", "csv", "parquet"]
    path: Place | None = None
    paths: dict[SplitName, Place] = {}
    columns: Columns = Columns()
    header: bool = True  # TSV and CSV: the first row names the columns
    quoting: Annotated[bool, OrNull(), BeforeValidator(_by_format), WithJsonSchema(_FLAG_OR_NULL)] = Field(
        default=None, validate_default=True, description='TSV and CSV: "…" quotes a field. Default: CSV yes, TSV no.'
    )
    delimiter: Annotated[str, Field(pattern='^[^"\r\n]$'), OrNull(), BeforeValidator(_divides)] = Field(
        default=None, validate_default=True,
        description="TSV and CSV: the character between two fields. Default: CSV a comma, TSV a tab.",
    )  # fmt: skip
    encoding: str = "utf-8"
    grades: dict[str, float] = {}  # label as written -> relevance; empty: the label is a number already

    @model_validator(mode="after")
    def _one_place(self) -> "PairsSource":
        return _in_one_place(self)


class CollectionSource(Settings):
    """Queries, documents and judgements in files of their own.

    `trec`: topics and collections in SGML, or in the SMART style (.I/.T/.W), with a qrels file; `beir`: a folder with
    corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv; `msmarco`: TSV of id and text, with a qrels file.
    """

    free_texts = frozenset({"grades"})

    format: Literal["trec", "beir", "msmarco"]
    path: Place | None = None  # beir: the folder
    documents: Place | None = None
    queries: Place | dict[SplitName, Place] | None = None  # one file for all splits, or one per split
    judgements: Place | dict[SplitName, Place] | None = None
    query_ids: Literal["given", "position"] = (
        "given"  # position: judgements number the queries 1, 2, … as they stand in the file
    )
    train_on_titles: bool = False  # train and valid pairs are a document's title and its text; judged queries only test
    encoding: str = "utf-8"
    grades: dict[str, float] = {}

    @model_validator(mode="after")
    def _complete(self) -> "CollectionSource":
        if self.format == "beir":
            if not self.path or self.documents or self.queries or self.judgements:
                raise ValueError("format beir takes path (its folder), and no documents, queries or judgements")
        elif self.path or not (self.documents and self.queries and self.judgements):
            raise ValueError(f"format {self.format} takes documents, queries and judgements, and no path")
        return self


class DocstringsSource(Settings):
    """Python functions of the running environment: a docstring's first paragraph asks, the code answers."""

    format: Literal["docstrings"]
    packages: tuple[str, ...] = ("stdlib",)  # "stdlib" and names of installed packages
    min_query_tokens: Positive = 3
    min_document_lines: Positive = 2
    max_pairs: Positive | None = None  # the first so many by hash; for quick tests


class TextSource(Settings):
    """Running text, in one file (its end goes to valid and test) or one per split; a record is some whole lines."""

    format: Literal["text"]
    path: Place | None = None
    paths: dict[SplitName, Place] = {}
    lines_per_record: Positive = 1
    encoding: str = "utf-8"

    @model_validator(mode="after")
    def _one_place(self) -> "TextSource":
        return _in_one_place(self)


class LinesSource(Settings):
    """Files whose n-th lines belong together, one per field of the task, for each split."""

    format: Literal["lines"]
    paths: dict[SplitName, dict[str, Place]]  # split -> field -> file
    encoding: str = "utf-8"


class LabelledSource(Settings):
    """Lines of a label, one blank and a text, in one file for all splits or one per split."""

    format: Literal["labelled"]
    path: Place | None = None
    paths: dict[SplitName, Place] = {}
    encoding: str = "utf-8"

    @model_validator(mode="after")
    def _one_place(self) -> "LabelledSource":
        return _in_one_place(self)


class ConlluSource(Settings):
    """Sentences in CoNLL-U: the text is the word forms, the tags are another column."""

    format: Literal["conllu"]
    path: Place | None = None
    paths: dict[SplitName, Place] = {}
    tag: Literal["UPOS", "XPOS"] = "UPOS"
    encoding: str = "utf-8"

    @model_validator(mode="after")
    def _one_place(self) -> "ConlluSource":
        return _in_one_place(self)


class ConllSource(Settings):
    """Sentences as lines of a word and its tag, with blank lines between them, as CoNLL-2000 and CoNLL-2003 have them.

    The first column is the word, the last its tag; columns between them are left out.
    """

    format: Literal["conll"]
    path: Place | None = None
    paths: dict[SplitName, Place] = {}
    encoding: str = "utf-8"

    @model_validator(mode="after")
    def _one_place(self) -> "ConllSource":
        return _in_one_place(self)


class PythonSource(Settings):
    """Python code as text for tasks of one text; no download. All of the standard library, but for package.

    code: whole modules, a record per some lines; prose: a docstring per record; kinds: lines of code, each
    token tagged with what it is; package: functions of some installed packages, labelled with the one they stand in.
    """

    format: Literal["python"]
    of: Literal["code", "prose", "package", "kinds"]
    lines_per_record: Positive = 50  # code
    max_records: Positive | None = None  # the first so many by hash (code: in order); for quick tests


class NumbersSource(Settings):
    """Numbers and dates in digits with the same in English words: made up, no download."""

    format: Literal["numbers"]
    direction: Literal["to_words", "to_digits"] = "to_words"
    count: Annotated[int, Field(gt=0, le=100_000)] = 4000


class ScenesSource(Settings):
    """Drawn scenes of coloured shapes with their captions: made up, no download."""

    format: Literal["scenes"]
    count: Annotated[int, Field(gt=0, le=100_000)] = 3000


class CaptionsSource(Settings):
    """Images and a file of their captions: lines of NAME or NAME#NUMBER, a tab and the caption."""

    format: Literal["captions"]
    captions: Place
    images: Place  # a zip file, a folder, or a .npy file of a vector (or of a vector per place) for each image
    names: Place | None = None  # of the rows of a .npy file, one per line; None: 0, 1, 2, …
    splits: dict[SplitName, Place] = {}  # files of image names, one per line; none: the images are split
    encoding: str = "utf-8"  # of the captions, names and splits
    size_px: Positive = 64  # width and height that pictures are brought to


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
    | CaptionsSource,
    Field(discriminator="format"),
]
FORMATS: dict[str, type[Settings]] = {
    name: model
    for model in Source.__origin__.__args__  # type: ignore[attr-defined]
    for name in model.model_fields["format"].annotation.__args__
}
