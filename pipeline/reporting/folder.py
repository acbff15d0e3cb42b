"""An evaluation's folder: what is in it, and the record of the run that it carries so that nothing else is needed."""

import json
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from pipeline.config import Config, task_spec
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError
from pipeline.core.redaction import hide
from pipeline.evaluation import fusion, judged
from pipeline.evaluation.judged import FUSED, MODEL, Judged
from pipeline.reporting import stored
from pipeline.reporting.stored import REMAKE

RECORD, HISTORY, METRICS, WINS, REPORT = "run.json", "history.json", "metrics.json", "wins.jsonl", "report.html"
FUSION = fusion.NAME
PREDICTIONS, WRITTEN = "predictions.jsonl", "written.txt"
COLLECTION, VOCABULARY = "collection.parquet", "vocabulary.json"
HISTORY_POINTS = 400
WRITTEN_CHARACTERS = 4000


class Evaluation(NamedTuple):
    """What an evaluation found; whatever its folder does not hold is empty."""

    folder: Path
    run: dict[str, Any]  # what `record` wrote
    compared: dict[str, Any]  # kind -> table of evaluation.report, with means, intervals and differences
    judged: dict[str, Judged]  # kind -> rows
    history: list[dict[str, Any]]
    histograms: list[dict[str, Any]]
    alignments: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return str(self.run.get("name") or self.folder.name)

    @property
    def metric(self) -> tuple[str, str]:
        """The kind and metric that the training was after, else the first of the first kind."""
        wanted = self.run.get("configuration", {}).get("train", {}).get("metric")
        for kind, table in self.compared.items():
            if wanted in table["systems"]["model"]["metrics"]:
                return kind, wanted
        kind, table = next(iter(self.compared.items()))
        return kind, next(iter(table["systems"]["model"]["metrics"]))

    def answers(self, kind: str) -> str:
        """The system by which the trained folder itself answers: `fused` where it holds what the network is joined
        with. A ranking is mixed with BM25 by an index, so there it is `model`."""
        return FUSED if kind != "ranking" and FUSED in self.compared[kind]["systems"] else MODEL

    def of_other_tokens(self, other: "Evaluation") -> list[str]:
        """Metrics that mean other things in both, as they are means over tokens of unlike vocabularies."""
        task, vocabularies = (
            self.run.get("configuration", {}).get("task"),
            {one.run.get("vocabulary") for one in (self, other)},
        )
        if task is None or None in vocabularies or len(vocabularies) == 1:
            return []
        listed = task_spec(task).metrics
        return [] if callable(listed) else [metric.name for metric in listed if metric.per_token]

    @property
    def samples(self) -> int:
        """Bootstrap samples, as in its tables."""
        return int(next(iter(self.compared.values())).get("samples", 1000))

    @property
    def seed(self) -> int:
        return int(self.run.get("configuration", {}).get("seed", 1))

    def wins(self) -> Iterator[dict[str, Any]]:
        """The queries, the model's wins first and its losses last; none where it ranks nothing."""
        yield from _lines(self.folder / WINS, stored.WIN)

    def predictions(self) -> Iterator[dict[str, Any]]:
        """What was said of each example, in the order of the judged rows; none where the task does not write it."""
        yield from _lines(self.folder / PREDICTIONS, stored.LINE)

    @property
    def written(self) -> str:
        """The beginning of what the model wrote by itself, "" where it writes nothing."""
        path = self.folder / WRITTEN
        return path.read_text(encoding="utf-8")[:WRITTEN_CHARACTERS] if path.exists() else ""


def _lines(path: Path, form: TypeAdapter[Any]) -> Iterator[dict[str, Any]]:
    """Raises InputError at a line that is not of the form."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in _decoded(file, path):
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise stored.wrong(path, str(error)) from None
                yield stored.checked(form, value, path)


def _decoded(file: Iterable[str], path: Path) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise stored.wrong(path, str(error)) from None


def load(folder: Path) -> Evaluation:
    """Reads an evaluation's folder: the one door to it, whose types `stored` holds.

    Raises:
        InputError: it is none, or a file of it is damaged, or well formed and wrong.
    """
    if not (folder / METRICS).exists():
        raise InputError(f"{folder} holds no evaluation (no {METRICS}): give the folder that `duplet evaluate` wrote")
    compared = read(folder, METRICS, stored.TABLES, {})
    stored.check_tables(compared, folder / METRICS)
    run = read(folder, RECORD, stored.RECORD, {})
    history = read(folder, HISTORY, stored.HISTORY, [])
    histograms = read(folder, "histograms.json", stored.HISTOGRAMS, [])
    alignments = read(folder, "alignments.json", stored.ALIGNMENTS, [])
    stored.check_pictures(history, histograms, alignments, folder)
    if task := run.get("configuration", {}).get("task"):
        try:
            task_spec(task)
        except InputError as error:
            raise InputError(f"{folder} cannot be shown: {error}") from None
    return Evaluation(
        folder,
        run,
        compared,
        {
            kind: judged.read(folder / f"judged-{kind}.parquet")
            for kind in compared
            if (folder / f"judged-{kind}.parquet").exists()
        },
        history,
        histograms,
        alignments,
    )


def read(folder: Path, name: str, form: TypeAdapter[Any], absent: Any) -> Any:
    """A JSON file of the folder, of a form, or `absent`. Raises InputError where it is damaged or of another form."""
    return stored.checked(form, read_json(folder / name, absent), folder / name)


def read_json(path: Path, absent: Any) -> Any:
    """A JSON file of the folder, or `absent`. Raises InputError where it is damaged."""
    if not path.exists():
        return absent
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): {REMAKE}") from None


def read_record(folder: Path) -> dict[str, Any]:
    """What a run was made from. Raises InputError where the folder does not say so, or its record is damaged."""
    if not (folder / RECORD).exists():
        raise InputError(f"{folder} does not say what it was made from (no {RECORD}): {REMAKE}")
    record: dict[str, Any] = read(folder, RECORD, stored.RECORD, {})
    stored.check_record(record, folder / RECORD)  # type: ignore[arg-type]
    return record


# --- the record -------------------------------------------------------------------------------------------------------
def record(folder: Path, config: Config, command: str, stages: dict[str, Path]) -> None:
    """Writes run.json and history.json: where the figures come from, and how to get them again.

    Args:
        command: the configuration as the person gave it, with its overrides.
        stages: "ingest", "tokenize", "train" -> their folders.
    """
    manifests = {name: read_json(path / manifest.NAME, {}) for name, path in stages.items()}
    written = {
        "format": 1,
        "name": config.name,
        "command": hide(f"duplet run {command}"),
        "made": manifest.utc(),
        "git_commit": manifest.git_commit(),
        "versions": {
            "python": platform.python_version(),
            **manifest.versions(
                "mxnet", "gluonnlp", "horovod", "mlflow", "numpy", "pyarrow", "ir-measures", "bm25s", "pystemmer"
            ),
        },
        "configuration": config.shown,
        "stages": {
            name: {
                "key": entry.get("key"),
                "created": entry.get("created"),
                "seconds": entry.get("seconds"),
                "counts": entry.get("counts"),
                "sha256": {
                    file: about["sha256"] for file, about in entry.get("files", {}).items() if file.endswith(".parquet")
                },
            }
            for name, entry in manifests.items()
        },
        "test_data": test_data(manifests.get("ingest", {}), config),
        "vocabulary": _vocabulary(manifests),
        "judging": judging(config),
    }
    (folder / RECORD).write_text(atomic_files.as_json(written, indent=1, ensure_ascii=False), encoding="utf-8")
    history = read_json(stages["train"] / HISTORY, [])
    (folder / HISTORY).write_text(atomic_files.as_json(thinned(history)), encoding="utf-8")


def test_data(ingest: dict[str, Any], config: Config) -> str:
    """A digest of the test split's records and the documents that they are looked for in."""
    names, listed = ["records-test.parquet", COLLECTION], ingest.get("files", {})
    settings = config.evaluate
    ranked = config.spec.relevance and "ranking" in settings.kinds
    if ranked and (settings.candidates, settings.collection) == ("collection", "all"):
        names += [] if COLLECTION in listed else ["records-train.parquet", "records-valid.parquet"]
    return atomic_files.digest({name: listed[name]["sha256"] for name in names if name in listed})[:16]


def _vocabulary(manifests: dict[str, dict[str, Any]]) -> str | None:
    """A digest of the vocabulary that texts were read with; None where no stage says."""
    listed = [manifests.get(stage, {}).get("files", {}).get(VOCABULARY) for stage in ("tokenize", "train")]
    return next((about["sha256"][:16] for about in listed if about), None)


def judging(config: Config) -> dict[str, Any]:
    """The settings that two evaluations must share for their figures to mean the same."""
    settings = config.evaluate.model_dump(mode="json")
    return {name: settings[name] for name in ("kinds", "candidates", "collection", "depth") if name in settings}


def thinned(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most about HISTORY_POINTS rows evenly taken; rows with validation metrics all stay, up to as many again."""
    measured = [row for row in history if any(name.startswith("valid/") for name in row)]
    others = [row for row in history if not any(name.startswith("valid/") for name in row)]
    parts = [part[:: max(1, -(-len(part) // HISTORY_POINTS))] for part in (measured, others)]
    return sorted(parts[0] + parts[1], key=lambda row: row["update"])
