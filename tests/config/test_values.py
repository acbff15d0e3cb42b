"""A value without quotes is read as its setting takes it: in a file, an override, a sweep, a gate or a job file."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import spec
from pipeline.config import Config, load_config, safe_yaml, values
from pipeline.config.axes import axes_of
from pipeline.core.errors import InputError
from pipeline.orchestration.sweep import Sweep

SOURCE = {"format": "tsv", "path": "pairs.tsv"}
# setting, text without quotes, value: by YAML 1.2's core schema where the setting takes numbers or flags
TABLE: list[tuple[str, str, Any]] = [
    ("train.optimizer.learning_rate", "1e-3", 0.001),
    ("train.optimizer.learning_rate", "1E-3", 0.001),
    ("train.optimizer.learning_rate", "1.5e+1", 15.0),
    ("train.optimizer.learning_rate", ".5", 0.5),
    ("train.optimizer.learning_rate", "5.", 5.0),
    ("train.optimizer.learning_rate", "1", 1.0),
    ("train.optimizer.learning_rate", "1e-05", 1e-05),
    ("train.optimizer.weight_decay", "1e-16", 1e-16),
    ("promote.min_difference", "-1e-2", -0.01),
    ("promote.floors.mrr@10", "3e-1", 0.3),
    ("evaluate.bm25_k1", "+1.2", 1.2),
    ("train.optimizer.clip_norm", "null", None),
    ("train.optimizer.clip_norm", "~", None),
    ("train.optimizer.clip_norm", "2e0", 2.0),
    ("train.epochs", "010", 10),
    ("train.epochs", "0x10", 16),
    ("train.epochs", "0o10", 8),
    ("train.max_updates", "Null", None),
    ("model.layers", "2", 2),
    ("model.directions", "1", 1),
    ("model.layer_norm", "true", True),
    ("model.layer_norm", "False", False),
    ("model.layer_norm", "yes", True),
    ("model.layer_norm", "OFF", False),
    ("name", "2024", "2024"),
    ("name", "007", "007"),
    ("name", "1.10", "1.10"),
    ("name", "1e3", "1e3"),
    ("name", "yes", "yes"),
    ("name", "No", "No"),
    ("name", "true", "true"),
    ("name", "null", "null"),
    ("name", "~", "~"),
    ("name", "2:8", "2:8"),
    ("name", "12:30:45", "12:30:45"),
    ("name", "2024-11-05", "2024-11-05"),
    ("name", "2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
    ("name", "0x1F", "0x1F"),
    ("name", "1_000", "1_000"),
    ("name", ".inf", ".inf"),
    ("name", "a#b", "a#b"),
    ("name", "=", "="),
    ("root", "2024", "2024"),
    ("tracking.experiment", "2024", "2024"),
    ("tracking.experiment", "null", "faq"),  # its default: the configuration's name
    ("tracking.uri", "~", None),
    ("ingest.source.encoding", "437", "437"),
    ("ingest.source.columns.query", "2024-11-05", "2024-11-05"),
    ("ingest.source.columns.query", "yes", "yes"),
    ("ingest.source.columns.query", "~", "~"),
    ("ingest.source.columns.query", "3", 3),
    ("ingest.source.columns.query", "03", "03"),
    ("ingest.source.columns.query", "1e3", "1e3"),
    ("ingest.source.columns.id", "~", None),
    ("ingest.source.grades.yes", "1", 1.0),
    ("ingest.source.grades.off", "1e0", 1.0),
    ("ingest.source.grades.1.0", "2", 2.0),
    ("ingest.source.grades.2:8", "2", 2.0),
]
IDS = [f"{key}={text}" for key, text, _ in TABLE]


def at(config: Config, key: str) -> Any:
    """The value of a setting; what is left of the path within a mapping is one key."""
    found: Any = config
    names = key.split(".")
    while names:
        if isinstance(found, dict):
            return found[".".join(names)]
        found = getattr(found, names.pop(0))
    return found


def write(folder: Path, settings: dict[str, Any], key: str | None = None, text: str = "") -> Path:
    """A configuration as YAML, with the text as it is at a setting's place."""
    settings = json.loads(json.dumps(settings))
    if key:
        section, names = settings, key.split(".")
        free = 3 if key.startswith("ingest.source.grades") else len(names) - 1
        for name in names[:free]:
            section = section.setdefault(name, {})
        section[".".join(names[free:])] = "HERE"
    written = yaml.safe_dump(settings).replace("HERE", text)
    # yaml.safe_dump puts keys such as yes in quotes, a person does not
    written = (
        written.replace("'yes':", "yes:").replace("'off':", "off:").replace("'1.0':", "1.0:").replace("'2:8':", "2:8:")
    )
    path = folder / "faq.yaml"
    path.write_text(written, encoding="utf-8")
    return path


BASE = {"ingest": {"source": SOURCE}, "name": "faq"}


@pytest.mark.parametrize(("key", "text", "value"), TABLE, ids=IDS)
def test_in_a_file_and_as_an_override(tmp_path: Path, key: str, text: str, value: Any) -> None:
    in_file = at(load_config(write(tmp_path, BASE, key, text)), key)
    as_override = at(load_config(write(tmp_path, BASE), [f"{key}={text}"]), key)
    assert (in_file, type(in_file)) == (value, type(value))
    assert (as_override, type(as_override)) == (value, type(value))


@pytest.mark.parametrize(("key", "text", "value"), TABLE, ids=IDS)
def test_in_a_sweep(tmp_path: Path, key: str, text: str, value: Any) -> None:
    path = write(tmp_path, BASE)
    sweep = Sweep(str(path), [f"{key}={text},{text}", "train.workers=1"], "grid", None, print)
    [axis] = sweep.axes
    found = at(sweep._config({key: axis.values[0]}), key)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("value", [1e-05, 1e16, 1.5e-7, 1e-3])
def test_a_number_that_a_search_draws_is_a_number(tmp_path: Path, value: float) -> None:
    sweep = Sweep(str(write(tmp_path, BASE)), ["train.optimizer.learning_rate=1e-5..1e-2:log"], "random", 2, print)
    assert sweep._config({"train.optimizer.learning_rate": value}).train.optimizer.learning_rate == value
    assert sweep.axes[0].low == 1e-05


@pytest.mark.parametrize("text", ["1e999..2", "0..1e999", "1e..2"])
def test_the_ends_of_a_range_are_finite_numbers(text: str) -> None:
    with pytest.raises(InputError, match="is not a finite number"):
        axes_of([f"model.dropout={text}"])


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", ".NaN", "1e999", "-1e999", "inf", "nan", "NaN", "Infinity"])
@pytest.mark.parametrize(
    "key", ["promote.min_difference", "promote.floors.map", "train.optimizer.learning_rate", "model.dropout",
            "ingest.source.grades.good", "tracking.max_wait_s", "train.min_stall_s"],
)  # fmt: skip
def test_no_number_is_infinite_or_nan(tmp_path: Path, key: str, text: str) -> None:
    for path, overrides in ((write(tmp_path, BASE, key, text), []), (None, [f"{key}={text}"])):
        with pytest.raises(InputError, match=key.rpartition(".")[2]):
            load_config(path or write(tmp_path, BASE), overrides)


def test_quotes_keep_a_text_a_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.epochs='3'"):
        load_config(write(tmp_path, BASE, "train.epochs", '"3"'))
    for quoted in ('"~"', "'~'"):
        source: Any = load_config(write(tmp_path, BASE), [f"ingest.source.columns.id={quoted}"]).ingest.source
        assert source.columns.id == "~"
    assert load_config(write(tmp_path, BASE), ["name='2024'"]).name == "2024"


def test_an_override_of_a_text_is_the_whole_text(tmp_path: Path) -> None:
    path = write(tmp_path, BASE)
    for text in ("a #b", "a: b", "[a", "{a", "- a", "[a, b]", "{a: b}", "*a", "&a", "!b", "% c", "@d", "`e`"):
        assert load_config(path, [f"ingest.source.marker={text}"]).ingest.source.marker == text  # type: ignore[union-attr]


def test_mappings_and_lists_are_typed_within(tmp_path: Path) -> None:
    path = write(tmp_path, BASE)
    columns = "{query: 2024-11-05, group: [yes, 3], relevance: no}"
    config = load_config(path, [
        "ingest.source.grades={no: 0, yes: 1e0, 1.0: 2}", "tokenize.max_tokens={query: 010}",
        f"ingest.source.columns={columns}",
    ])  # fmt: skip
    source: Any = config.ingest.source
    assert source.grades == {"no": 0.0, "yes": 1.0, "1.0": 2.0}
    assert config.tokenize.max_tokens["query"] == 10
    assert (source.columns.query, source.columns.group, source.columns.relevance) == ("2024-11-05", ("yes", 3), "no")


def test_one_file_or_one_per_split(tmp_path: Path) -> None:
    trec = {"format": "trec", "documents": "d", "queries": "q", "judgements": "j"}
    path = write(tmp_path, {**BASE, "ingest": {"source": trec}})
    source: Any = load_config(
        path, ["ingest.source.queries={test: 2024}", "ingest.source.judgements=2024"]
    ).ingest.source
    assert (source.queries, source.judgements) == ({"test": "2024"}, "2024")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "faq.yaml"
    path.write_text("ingest: {source: {format: docstrings}}\nseed: 1\nseed: 2\n")
    with pytest.raises(InputError, match=r"not valid YAML: line 3, column 1: the key 'seed' stands twice"):
        load_config(path)
    path.write_text("a: &a {seed: 1, name: x}\ningest: {source: {format: docstrings}}\n<<: *a\nname: y\n")
    with pytest.raises(InputError, match="unknown key a="):  # what is merged may be replaced
        load_config(path)


def test_an_empty_section_is_one_of_defaults(tmp_path: Path) -> None:
    path = tmp_path / "faq.yaml"
    path.write_text("ingest:\n  source:\n    format: docstrings\ntrain:\n  # epochs: 3\nmodel: ~\n")
    assert load_config(path).train.epochs == 10


# --- jobs -------------------------------------------------------------------------------------------------------------
JOB: list[tuple[str, str, Any]] = [
    ("slurm.partition", "2024", "2024"),
    ("slurm.account", "0123", "0123"),
    ("slurm.constraint", "no", "no"),
    ("slurm.qos", "~", None),
    ("slurm.save_before_s", "060", 60),
    ("kubernetes.image", "1.10", "1.10"),
    ("kubernetes.namespace", "10", "10"),
    ("kubernetes.shared_memory_gb", "1e-1", 0.1),
    ("mem_gb", "1e1", 10.0),
    ("pause_s", "1e-1", 0.1),
    ("target", "slurm", "slurm"),
]


@pytest.mark.parametrize(("key", "text", "value"), JOB, ids=[f"{key}={text}" for key, text, _ in JOB])
def test_in_a_job_file_and_as_an_override_of_a_job(tmp_path: Path, key: str, text: str, value: Any) -> None:
    config = write(tmp_path, BASE)
    section, _, name = key.rpartition(".")
    job = tmp_path / "job.yaml"
    job.write_text(f"config: {config}\n" + (f"{section}:\n  {name}: {text}\n" if section else f"{name}: {text}\n"))
    for made in (spec.read(str(job), [], {}), spec.read(str(config), [f"{key}={text}"], {})):
        found: Any = getattr(made, section) if section else made
        assert getattr(found, name) == value
        assert type(getattr(found, name)) is type(value)


def test_the_rest_of_a_job_file(tmp_path: Path) -> None:
    config = write(tmp_path, BASE)
    job = tmp_path / "job.yaml"
    job.write_text(
        f"config: {config}\nworkers: 2:8\noverrides: [seed=7, name=2024]\n"
        "slurm: {setup: [module load cuda, yes], extra: [2024-11-05]}\n"
        "kubernetes: {node_selector: {gpu: true, on: yes, zone: 010}}\n"
    )
    made = spec.read(str(job), ["kubernetes.node_selector.cloud.example.com/pool=no"], {})
    assert (made.min_workers, made.max_workers, made.name) == (2, 8, "2024")
    assert (made.slurm.setup, made.slurm.extra) == (("module load cuda", "yes"), ("2024-11-05",))
    selector = {"gpu": "true", "on": "yes", "zone": "010", "cloud.example.com/pool": "no"}
    assert made.kubernetes.node_selector == selector
    for text in (".inf", "1e999", ".nan"):
        with pytest.raises(InputError, match="mem_gb"):
            spec.read(str(config), [f"mem_gb={text}"], {})


# --- the core schema --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "value"),
    # the table of YAML 1.2.2, section 10.3.2, and what YAML 1.1 took otherwise
    [("null", None), ("Null", None), ("NULL", None), ("~", None), ("true", True), ("True", True), ("TRUE", True),
     ("false", False), ("tRUE", "tRUE"), ("yes", "yes"), ("On", "On"), ("n", "n"), ("0", 0), ("-19", -19), ("+12", 12),
     ("0o7", 7), ("0x3A", 58), ("010", 10), ("0.", 0.0), ("-0.0", 0.0), (".5", 0.5), ("+12e03", 12000.0),
     ("-2E+05", -200000.0), (".inf", float("inf")), ("-.Inf", float("-inf")), ("1_000", "1_000"), ("2:8", "2:8"),
     ("0b1", "0b1"), ("2024-11-05", "2024-11-05"), ("1e3", 1000.0), ("e3", "e3"), (".", "."), ("<", "<"), ("=", "=")],
)  # fmt: skip
def test_the_core_schema(text: str, value: Any) -> None:
    found = safe_yaml.core(safe_yaml.load(text))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("!!str 2024", "2024"), ("!!int 010", 10), ("!!float 3", 3.0), ("!!bool true", True), ("!!null ~", None),
     ("'2024'", "2024"), ('"yes"', "yes")],
)  # fmt: skip
def test_tags_and_quotes_say_the_type(text: str, value: Any) -> None:
    found = values.typed(safe_yaml.load(text), (Any,))
    assert found == value
    assert type(found) is type(value)
