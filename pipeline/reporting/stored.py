"""What the files of an evaluation's folder must hold: whatever reads them may rest on these types.

A folder may come from another machine, from MLflow or from an older version. Keys that are not named here may be there
as well; a value that is named has its type, and figures are finite.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from pipeline.core.errors import InputError, one_line

REMAKE = "delete the folder and run `duplet evaluate` again"
_STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")

Count = Annotated[int, Field(ge=0, le=1 << 53)]
_Flat = Annotated[float, Field(ge=-1e300, le=1e300)]

_Base64 = Annotated[str, Field(pattern="^[A-Za-z0-9+/=]*$")]


def _rows_alike(value: Any) -> Any:
    """Raises ValueError where the rows of a matrix are not of one length."""
    if isinstance(value, list) and len({len(row) for row in value if isinstance(row, list)}) > 1:
        raise ValueError("its rows must be of one length")
    return value


# --- metrics.json -----------------------------------------------------------------------------------------------------
@with_config(_STRICT)
class Mean(TypedDict):
    """A figure with its 95 % interval; all null where it does not exist."""

    mean: _Flat | None
    low: _Flat | None
    high: _Flat | None


@with_config(_STRICT)
class PairedDifference(Mean):
    p: NotRequired[Annotated[float, Field(ge=0, le=1)] | None]


@with_config(_STRICT)
class System(TypedDict):
    metrics: dict[str, Mean]
    difference: NotRequired[dict[str, PairedDifference]]


@with_config(_STRICT)
class Table(TypedDict):
    """Of a kind of judging; see tables.comparison."""

    systems: dict[str, System]
    reference: NotRequired[str | None]
    unit: NotRequired[str]
    counted: NotRequired[Count]
    samples: NotRequired[Annotated[int, Field(ge=1, le=1_000_000)]]
    without_relevant: NotRequired[Count]


# --- run.json ---------------------------------------------------------------------------------------------------------
@with_config(_STRICT)
class TrainSettings(TypedDict):
    metric: NotRequired[str | None]


@with_config(_STRICT)
class TrackingSettings(TypedDict):
    uri: NotRequired[str | None]


@with_config(_STRICT)
class ModelSettings(TypedDict):
    head: NotRequired[str | None]


@with_config(_STRICT)
class Configuration(TypedDict):
    """What is read of it beside `stored_config`, which checks the whole."""

    name: NotRequired[str]
    task: NotRequired[str]
    seed: NotRequired[Annotated[int, Field(ge=0, lt=1 << 32)]]
    model: NotRequired[ModelSettings]
    train: NotRequired[TrainSettings]
    tracking: NotRequired[TrackingSettings]
    promote: NotRequired[dict[str, Any]]


@with_config(_STRICT)
class Made(TypedDict):
    """A stage that the run went through."""

    key: NotRequired[str | None]
    counts: NotRequired[dict[str, Any] | None]
    sha256: NotRequired[dict[str, str] | None]


@with_config(_STRICT)
class Record(TypedDict):
    name: NotRequired[str]
    command: NotRequired[str]
    made: NotRequired[str]
    git_commit: NotRequired[str | None]
    versions: NotRequired[dict[str, str | None]]
    configuration: NotRequired[Configuration]
    stages: NotRequired[dict[str, Made]]
    test_data: NotRequired[str]
    vocabulary: NotRequired[str | None]
    judging: NotRequired[dict[str, Any]]


# --- histograms.json, alignments.json, history.json -------------------------------------------------------------------
@with_config(_STRICT)
class Series(TypedDict):
    name: str
    counts: list[_Flat]


@with_config(_STRICT)
class Histogram(TypedDict):
    title: str
    x: str
    edges: list[_Flat]
    series: list[Series]


@with_config(_STRICT)
class Weights(TypedDict):
    text: str
    what: str
    tokens: list[str]
    values: list[_Flat]


@with_config(_STRICT)
class Alignment(TypedDict):
    title: str
    label: str
    rows: list[str]
    columns: list[str]
    values: Annotated[list[list[_Flat]], BeforeValidator(_rows_alike)]
    axes: NotRequired[Annotated[list[str], Field(min_length=2, max_length=2)]]
    weights: NotRequired[list[Weights]]
    cut: NotRequired[Count]


# --- wins.jsonl -------------------------------------------------------------------------------------------------------
@with_config(_STRICT)
class Document(TypedDict):
    text: str
    relevance: float
    score: NotRequired[float | None]


@with_config(_STRICT)
class Win(TypedDict):
    query: str
    model: float
    bm25: float
    difference: float
    relevant: list[Document]
    model_top: list[Document]
    bm25_top: list[Document]


# --- captions.json ----------------------------------------------------------------------------------------------------
@with_config(_STRICT)
class Caption(TypedDict):
    """What was written about a picture; pictures are PNG in base64."""

    name: str
    picture: _Base64
    caption: str
    exact: bool
    references: list[str]
    words: list[Annotated[list[str], Field(min_length=2, max_length=2)]]  # each with its small picture


TABLES: TypeAdapter[dict[str, Table]] = TypeAdapter(dict[str, Table])
RECORD: TypeAdapter[Record] = TypeAdapter(Record)
HISTOGRAMS: TypeAdapter[list[Histogram]] = TypeAdapter(list[Histogram])
ALIGNMENTS: TypeAdapter[list[Alignment]] = TypeAdapter(list[Alignment])
HISTORY: TypeAdapter[list[dict[str, _Flat | None]]] = TypeAdapter(
    list[dict[str, _Flat | None]], config=ConfigDict(strict=True, allow_inf_nan=False)
)
CAPTIONS: TypeAdapter[list[Caption]] = TypeAdapter(list[Caption])
WIN: TypeAdapter[Win] = TypeAdapter(Win)
LINE: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def checked(adapter: TypeAdapter[Any], value: Any, path: Path) -> Any:
    """The value again, with whatever keys it has.

    Raises:
        InputError: a part of it is missing, or of another type or range; the sentence says where.
    """
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part)[:60] for part in first["loc"])
        raise wrong(path, f"{where}: {first['msg']}" if where else first["msg"]) from None
    return value


def wrong(path: Path, why: str) -> InputError:
    """The error of a file that is well formed and wrong."""
    return InputError(f"{path} is damaged ({one_line(why, 200)}): {REMAKE}")


def check_tables(tables: Mapping[str, Table], path: Path) -> None:
    """Fills in null for what a system lacks and the model has.

    Raises:
        InputError: there is no table, or none of the model's figures, or a figure without its interval.
    """
    if not tables:
        raise wrong(path, "it holds no table")
    for kind, table in tables.items():
        systems = table["systems"]
        names = systems["model"]["metrics"].keys() if "model" in systems else {}
        if not names:
            raise wrong(path, f"{kind} has no figure of the model")
        for system, found in systems.items():
            found.setdefault("difference", {})
            for part in (found["metrics"], found["difference"]):
                for name in names if part else ():
                    part.setdefault(name, {"mean": None, "low": None, "high": None})
                for name, value in part.items():
                    ends = [value[end] for end in ("mean", "low", "high")]
                    if None in ends and any(end is not None for end in ends):
                        raise wrong(path, f"{kind}: {system}'s {name} is known in part")
            if not found["metrics"]:
                raise wrong(path, f"{kind}: {system} has no figure")


def check_record(record: Record, path: Path) -> None:
    """Whether a run can be found by its record. Raises InputError."""
    for part in ("configuration", "stages", "test_data", "command"):
        if part not in record:
            raise wrong(path, f"it has no {part}")
    for stage in ("ingest", "train"):
        if not record["stages"].get(stage, {}).get("key"):
            raise wrong(path, f"it does not say which {stage} it is of")


def check_pictures(
    history: list[dict[str, Any]], histograms: list[Histogram], alignments: list[Alignment], folder: Path
) -> None:
    """Whether what is drawn beside each other has one length. Raises InputError."""
    if any(row.get("update") is None for row in history):
        raise wrong(folder / "history.json", "a row has no update")
    for one in histograms:
        if any(len(series["counts"]) != len(one["edges"]) - 1 for series in one["series"]):
            raise wrong(folder / "histograms.json", f"{one['title']!r:.60} has not one count for each bin")
    for entry in alignments:
        for weights in entry.get("weights", []):
            if len(weights["tokens"]) != len(weights["values"]):
                raise wrong(folder / "alignments.json", f"{entry['title']!r:.60} has not one weight for each token")
        rows, columns = len(entry["rows"]), len(entry["columns"])
        if not rows or not columns or len(entry["values"]) != rows or len(entry["values"][0]) != columns:
            raise wrong(folder / "alignments.json", f"{entry['title']!r:.60} has not one value for each two tokens")
