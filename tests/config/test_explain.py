"""Every setting is described: in the JSON Schema, by `duplet config explain` and in docs/settings.md."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from jobs.spec import SETTABLE, JobFile, JobSpec
from pipeline.cli.main import main
from pipeline.config import Settings, config_model, explain
from pipeline.core.errors import InputError

DOCS = Path(__file__).parents[2] / "docs"


def properties(model: type[Settings]) -> Iterator[tuple[str, str]]:
    """All settings of a model's JSON Schema, those of its sections too: MODEL.NAME, and what is said of it.

    Of a section that is what its own model says, to which an editor follows the reference.
    """
    schema = model.model_json_schema()
    for name, one in {model.__name__: schema, **schema["$defs"]}.items():
        for field, setting in one["properties"].items():
            section = schema["$defs"].get(setting.get("$ref", "").rpartition("/")[2], {})
            yield f"{name}.{field}", setting.get("description", section.get("description", ""))


@pytest.mark.parametrize(
    ("model", "some"),
    [
        (
            config_model(),
            {"LossConfig.grades", "Columns.group", "NumbersSource.count", "IngestConfig.source", "Config.model"},
        ),
        (JobFile, {"SlurmOptions.extra", "KubernetesOptions.claim", "JobFile.workers", "JobFile.slurm"}),
        (JobSpec, {"JobSpec.min_workers", "JobSpec.retries"}),
    ],
)  # fmt: skip
def test_every_setting_is_described(model: type[Settings], some: set[str]) -> None:
    found = dict(properties(model))
    assert some <= set(found)
    for name, description in found.items():
        assert description.endswith((".", "…")), f"{name}: {description!r}"


def models(schema_of: type[Settings]) -> Iterator[type[Settings]]:
    below = [schema_of]
    while below:
        model = below.pop()
        yield model
        for field in model.model_fields.values():
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(kind, type) and issubclass(kind, Settings):
                    below.append(kind)


@pytest.mark.parametrize("whole", [config_model(), JobFile])
def test_every_example_may_be_written(whole: type[Settings]) -> None:
    tried = 0
    for model in models(whole):
        for name, field in model.model_fields.items():
            for example in field.examples or ():
                given = TypeAdapter(model.__pydantic_fields__[name].rebuild_annotation())
                given.validate_json(json.dumps(example), strict=True)
                tried += 1
    assert tried > 5


def test_a_setting_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", "train.loss.grades"]) == 0
    out = capsys.readouterr().out
    assert "train.loss.grades\n  whole number at least 2; default: 2\n  pointwise: number of grades" in out
    assert "train.loss.margin" not in out


@pytest.mark.parametrize(
    ("path", "paths"),
    [
        ("train.schedule", ["train.schedule.kind", "train.schedule.warmup_updates", "train.schedule.final_share"]),
        ("ingest.source.numbers", [f"ingest.source.{name}" for name in ("format", "direction", "count")]),
        ("ingest.source.tsv.columns.query", ["ingest.source.columns.query"]),
        ("ingest.source.columns.query", 2 * ["ingest.source.columns.query"]),  # of pairs, and of click logs
        ("ingest.source.quoting", ["ingest.source.quoting"]),
        ("ingest.source.text.path", ["ingest.source.path"]),
        ("promote.floors.map@100", ["promote.floors"]),
        ("ingest.source.queries.train", ["ingest.source.queries"]),
        ("slurm.partition", ["slurm.partition"]),
        ("task", ["task"]),
    ],
)
def test_a_path_leads_to_its_settings(path: str, paths: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", path, "--json"]) == 0
    assert [one["path"] for one in json.loads(capsys.readouterr().out)] == paths


def test_without_a_path_all_settings_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", "--json"]) == 0
    found = [one["path"] for one in json.loads(capsys.readouterr().out)]
    assert {"name", "ingest.split.valid", "ingest.source.size_px", "tagging.crf", "kubernetes.image"} <= set(found)


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("train.los", "train.loss"),
        ("temperature", "train.loss.temperature"),
        ("train.loss.temprature", "train.loss.temperature"),
        ("tsv", "ingest.source.tsv"),
        ("ingest.source.tsvv", "ingest.source.tsv"),
        ("train.epochs.more", "train.epochs"),
    ],
)
def test_a_path_that_is_not_there_is_refused(path: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", path]) == 2
    assert f"there is no setting {path}, did you mean {near}?" in capsys.readouterr().err


def test_nothing_near_points_to_the_list() -> None:
    with pytest.raises(InputError, match="there is no setting 0000; `duplet config explain` lists them all"):
        explain.chosen(explain.sections(config_model()), "0000")


def test_markdown_belongs_to_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", "--markdown"]) == 2
    assert "--markdown needs the word explain" in capsys.readouterr().err


def test_the_page_of_settings_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", "--markdown"]) == 0
    page = capsys.readouterr().out
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == page, "docs/settings.md is old: make settings"
    for row in (line for line in page.splitlines() if line.startswith("|")):
        assert row.replace("\\|", "").count("|") == 5, row
    assert "| `temperature` | number above 0 |" in page
    assert all(f"| `{name}` |" in page or f"## Job file: {name}\n" in page for name in SETTABLE)
