"""Whatever a configuration holds: it loads, or one sentence names the key, the value, what is allowed, what is near."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import check_config, config_model, load_config
from pipeline.core.errors import InputError
from tests.mapped import most_traced

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
GOOD: dict[str, Any] = {"ingest": {"source": {"format": "docstrings"}}}
PAIRS = {"format": "tsv", "path": "pairs.tsv"}
slack = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        check_config({"name": "x", **data}, "run.yaml")
    message = str(caught.value)
    assert message.startswith("run.yaml: ")
    assert "\n" not in message
    assert "pydantic" not in message
    return message


def with_source(**source: Any) -> dict[str, Any]:
    return {"ingest": {"source": source}}


def test_defaults_are_valid(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, yaml.safe_dump(GOOD)))
    assert config == config_model()(name="run", **GOOD)
    assert (config.name, config.root, config.train.workers, config.model.head) == ("run", "runs", 1, "late_interaction")
    assert config.tokenize.max_tokens == {"query": 64, "document": 256}


def test_settings_are_frozen() -> None:
    config = check_config({"name": "x", **GOOD}, "run.yaml")
    with pytest.raises(pydantic.ValidationError):
        config.model.hidden = 3


def test_a_configuration_survives_its_own_dump() -> None:
    config = check_config({"name": "x", **GOOD, "evaluate": {"kinds": ["ranking"]}}, "run.yaml")
    assert check_config(config.model_dump(mode="json"), "again") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_load(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "${DUPLET_DATA}" in path.read_text(encoding="utf-8"):
        monkeypatch.setenv("DUPLET_DATA", "/data")  # loading reads no data
    assert load_config(path).name


def test_there_are_shipped_configurations() -> None:
    assert CONFIGS


# --- unknown keys -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "key", "value", "near"),
    [
        ({"modle": {}}, "modle", "{}", "model"),
        ({"model": {"hiden": 7}}, "model.hiden", "7", "hidden"),
        ({"train": {"loss": {"temprature": 0.1}}}, "train.loss.temprature", "0.1", "temperature"),
        ({"train": {"optimizer": {"learning_rat": 1}}}, "train.optimizer.learning_rat", "1", "learning_rate"),
        (with_source(**PAIRS, headr=False), "ingest.source.headr", "False", "header"),
        (with_source(**PAIRS, columns={"qery": "q"}), "ingest.source.columns.qery", "'q'", "query"),
        (with_source(format="docstrings", package=["a"]), "ingest.source.package", "['a']", "packages"),
        (with_source(format="beir", path="x", document="y"), "ingest.source.document", "'y'", "documents"),
    ],
)
def test_unknown_key_names_key_value_and_nearest(data: dict[str, Any], key: str, value: str, near: str) -> None:
    message = refusal({**GOOD, **data})
    assert f"unknown key {key}={value}" in message
    assert f"did you mean {near}?" in message
    assert "allowed: " in message
    assert near in message.split("allowed: ")[1]


def test_unknown_key_like_no_other_lists_the_allowed_ones() -> None:
    message = refusal({**GOOD, "model": {"zzzzzz": 1}})
    assert "did you mean" not in message
    assert "allowed: cell, embedding, vectors" in message


# --- wrong values -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"model": {"cell": "lstn"}}, ["model.cell='lstn'", "'lstm'", "'gru'", "did you mean lstm?"]),
        ({"model": {"hidden": "256"}}, ["model.hidden='256'", "integer"]),
        ({"model": {"hidden": 2.5}}, ["model.hidden=2.5", "integer"]),
        ({"model": {"hidden": 0}}, ["model.hidden=0", "greater than 0"]),
        ({"model": {"hidden": True}}, ["model.hidden=True", "integer"]),
        ({"model": {"directions": 3}}, ["model.directions=3", "1 or 2"]),
        ({"model": {"dropout": 1}}, ["model.dropout=1", "less than 1"]),
        ({"model": {"dropout": float("nan")}}, ["model.dropout=nan"]),
        ({"model": {"layer_norm": "yes"}}, ["model.layer_norm='yes'", "boolean"]),
        ({"model": [1]}, ["model=[1]"]),
        ({"model": "big"}, ["model='big'"]),
        ({"seed": -1}, ["seed=-1", "greater than or equal to 0"]),
        ({"seed": 2**31}, [f"seed={2**31}", "less than"]),
        ({"train": {"loss": {"kind": "hing"}}}, ["train.loss.kind='hing'", "'hinge'", "did you mean hinge?"]),
        ({"train": {"loss": {"grades": 1}}}, ["train.loss.grades=1", "2"]),
        ({"evaluate": {"kinds": ["rankin"]}}, ["evaluate.kinds.0='rankin'", "'ranking'", "did you mean ranking?"]),
        ({"tokenize": {"max_tokens": {"query": 0}}}, ["tokenize.max_tokens.query=0", "greater than 0"]),
        (
            with_source(format="tvs", path="x"),
            ["ingest.source.format='tvs': input should be", "'tsv'", "did you mean tsv?"],
        ),
        (with_source(path="x"), ["ingest.source.format is missing (one of: jsonl, tsv,"]),
        (with_source(**PAIRS, paths={"dev": "x"}), ["ingest.source.paths.dev", "'valid'"]),
        ({"ingest": {}}, ["ingest.source is missing"]),
        ({"ingest": None}, ["ingest"]),
    ],
)
def test_wrong_value_names_key_value_and_what_is_allowed(data: dict[str, Any], parts: list[str]) -> None:
    message = refusal({**GOOD, **data})
    assert [part for part in parts if part not in message] == [], message


def test_ingest_missing_says_what_to_write() -> None:
    example = "source: {format: tsv, path: pairs.tsv, columns: {query: question, document: answer}}"
    assert refusal({}).startswith(
        f"run.yaml: ingest is missing: write where the data is, such as ingest: {{{example}}}"
    )
    assert refusal({"ingest": {}}).startswith(
        f"run.yaml: ingest.source is missing: write where the data is, such as {example}"
    )
    load = check_config({"name": "x", "ingest": yaml.safe_load(f"{{{example}}}")}, "as it says")
    assert load.ingest.source.path == "pairs.tsv"  # type: ignore[union-attr]


def test_several_mistakes_come_together() -> None:
    message = refusal({**GOOD, "model": {"hidden": 0, "cell": "x"}, "sed": 1})
    assert all(part in message for part in ("model.hidden=0", "model.cell='x'", "unknown key sed=1"))


# --- contradictions ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (with_source(format="tsv"), ["path", "paths"]),
        (with_source(format="tsv", path="a", paths={"train": "b"}), ["path", "paths"]),
        (with_source(format="beir"), ["beir", "path"]),
        (with_source(format="beir", path="a", queries="b"), ["beir", "no documents"]),
        (with_source(format="trec", documents="a", queries="b"), ["trec", "judgements"]),
        (with_source(format="msmarco", documents="a", queries="b", judgements="c", path="d"), ["msmarco", "no path"]),
        ({"train": {"max_updates": 50}}, ["schedule.warmup_updates=50", "max_updates=50"]),
        ({"train": {"workers": 8, "max_pairs_per_update": 4}}, ["max_pairs_per_update=4", "8 workers", "15"]),
        ({"train": {"workers": 2, "max_pairs_per_update": 2}}, ["max_pairs_per_update=2", "2 workers", "3"]),
        ({"train": {"max_pairs_per_update": 513}, "model": {"head": "mlp"}}, ["model.head=mlp", "512"]),
        ({"evaluate": {"kinds": ["graded"]}}, ["evaluate.kinds", "train.loss.kind=pointwise"]),
        ({"train": {"max_tokens_per_update": 100}}, ["max_tokens_per_update=100", "640", "tokenize.max_tokens"]),
        ({"train": {"metric": "mrr10"}}, ["train.metric='mrr10'", "did you mean mrr@10?", "recall@100"]),
        ({"train": {"metric": "accuracy"}}, ["train.metric='accuracy'", "ndcg@10"]),
    ],
)
def test_contradiction_says_what_to_change(data: dict[str, Any], parts: list[str]) -> None:
    message = refusal({**GOOD, **data})
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize(
    "data",
    [
        {"train": {"workers": 2, "max_pairs_per_update": 3}},
        {"train": {"max_pairs_per_update": 1}},
        {"train": {"max_updates": 51}},
        {"train": {"max_updates": 5, "schedule": {"warmup_updates": 0}}},
        {"train": {"max_tokens_per_update": 640}},
        {"train": {"metric": "accuracy", "loss": {"kind": "pointwise"}}, "evaluate": {"kinds": ["graded"]}},
        {"train": {"optimizer": {"clip_norm": None}}},
        with_source(**PAIRS, columns={"query": 0, "document": 1}, header=False),
        with_source(format="tsv", paths={"train": "a", "test": "b"}),
        with_source(format="trec", documents="a", queries={"train": "b", "test": "c"}, judgements="d"),
    ],
)
def test_what_only_just_agrees_is_taken(data: dict[str, Any]) -> None:
    check_config({"name": "x", **GOOD, **data}, "run.yaml")


# --- files ------------------------------------------------------------------------------------------------------------
def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "x", "wikiqa.yaml")
    write(tmp_path, "x", "demo.yaml")
    with pytest.raises(InputError, match=r"no configuration at .*wikqa\.yaml; did you mean .*wikiqa\.yaml\?"):
        load_config(tmp_path / "wikqa.yaml")
    with pytest.raises(InputError, match=r"no configuration at \S*nothere\.yaml$"):  # nothing is near
        load_config(tmp_path / "nothere.yaml")
    with pytest.raises(InputError, match=r"no configuration at .*nowhere"):
        load_config(tmp_path / "nowhere" / "demo.yaml")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"- a\n- b\n", "must hold a mapping of settings, found list"),
        (b"", "run.yaml is empty: it must hold at least ingest.source"),
        (b"# nothing\n", "run.yaml is empty"),
        (b"hello", "found str"),
        (b"3", "found int"),
        (b"a: [1", "is not valid YAML"),
        (b"a:\n\t- b", "is not valid YAML: line 2, column 1: found character"),
        (b"a:\n  b:\n    c: d\n   e: f\n", "is not valid YAML: line 4, column 4: expected <block end>"),
        (b"a: b: c", "is not valid YAML"),
        (b"\xff\xfe\xfa", "cannot be read"),
        (b"a: \x00", "is not valid YAML"),
        (b"? [1, 2]\n: 3", "is not valid YAML"),
        (b"? {a: 1}\n: 3", "is not valid YAML"),
        (b"a: 2020-13-45", "unknown key a='2020-13-45'"),
        (b"[" * 5000, "is not valid YAML"),
        (b"a: &a [*a]", "is not valid YAML: an alias holds itself"),
        (b"a: &a\n  b: *a", "is not valid YAML: an alias holds itself"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir [{}]",
        "!!python/object/new:pathlib.Path [{}]",
        "!!python/name:os.system",
        "!own {}",
    ],
)
def test_yaml_tags_build_no_objects(tmp_path: Path, tag: str) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(InputError, match="is not valid YAML"):
        load_config(write(tmp_path, f"name: {tag.format(mark)}\n"))
    assert not mark.exists()
    path = write(tmp_path, yaml.safe_dump(GOOD))
    with pytest.raises(InputError):  # nor do those in an override: they stay text, which is no number
        load_config(path, [f"seed={tag.format(mark)}"])
    assert not mark.exists()


# --- size ------------------------------------------------------------------------------------------------------------
BOMBS = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")),
    "merged": "a: &a {x: 1}\n"
    + "".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi")),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", BOMBS)
def test_aliases_that_unfold_to_gigabytes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is not valid YAML: its aliases unfold to more than 100,000 values"):
        load_config(write(tmp_path, BOMBS[name]))
    path = write(tmp_path, yaml.safe_dump(GOOD))
    with pytest.raises(InputError, match=r"^[^\n]*tokenize.max_tokens"):  # in an override it stays text
        load_config(path, [f"tokenize.max_tokens={BOMBS[name]}"])


def test_aliases_are_welcome(tmp_path: Path) -> None:
    text = "ingest: {source: {format: docstrings}}\nmodel: &m {hidden: 7}\ntrain: {epochs: &e 3, max_updates: *e}\n"
    config = load_config(write(tmp_path, text.replace("max_updates: *e", "keep_checkpoints: *e")))
    assert (config.train.epochs, config.train.keep_checkpoints, config.model.hidden) == (3, 3, 7)


@pytest.mark.timeout(60)
def test_a_file_of_a_gigabyte_is_refused_and_not_held(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\n")
    with path.open("ab") as file:
        file.truncate(1 << 30)

    def refused() -> None:
        with pytest.raises(InputError, match=r"is not valid YAML: .* characters are more than"):
            load_config(path)

    assert most_traced(refused)[1] < 10_000_000


def test_a_key_with_a_line_end_is_told_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^[^\n]*unknown key a b") as caught:
        load_config(write(tmp_path, yaml.safe_dump(GOOD)), ["a\nb=1"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["!!int ''", "!!bool x", "!!timestamp x", "!!float ''", "0x" + "f" * 5000])
def test_a_value_that_its_tag_does_not_fit_is_refused(tmp_path: Path, value: str) -> None:
    for text in (f"seed: {value}\n", f"{value}: 1\n"):
        with pytest.raises(InputError) as caught:
            load_config(write(tmp_path, f"ingest: {{source: {{format: docstrings}}}}\n{text}"))
        assert "\n" not in str(caught.value)


# --- variables --------------------------------------------------------------------------------------------------------
def test_variables_are_expanded_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUPLET_TEST", "/there")
    data = with_source(
        format="trec", documents="${DUPLET_TEST}/a", queries={"test": "${DUPLET_TEST}/b"}, judgements="c"
    )
    config = load_config(write(tmp_path, yaml.safe_dump(data)), ["root=${DUPLET_TEST}/runs"])
    source = config.ingest.source
    assert (source.documents, source.queries) == ("/there/a", {"test": "/there/b"})  # type: ignore[union-attr]
    assert config.root == "/there/runs"


def test_unset_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DUPLET_TEST", raising=False)
    data = with_source(format="tsv", path="${DUPLET_TEST}/pairs.tsv")
    with pytest.raises(InputError, match=re.escape("'${DUPLET_TEST}/pairs.tsv'")) as caught:
        load_config(write(tmp_path, yaml.safe_dump(data)))
    assert "environment variable DUPLET_TEST" in str(caught.value)
    assert "export DUPLET_TEST=" in str(caught.value)


@pytest.mark.parametrize("text", ["${", "${}", "${a b}", "${1}"])
def test_a_broken_variable_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"run\.yaml"):
        load_config(write(tmp_path, yaml.safe_dump({**GOOD, "root": text})))


def test_a_dollar_alone_is_a_dollar(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, yaml.safe_dump({**GOOD, "root": "a$b"}))).root == "a$b"


# --- overrides --------------------------------------------------------------------------------------------------------
def test_overrides_replace_by_dotted_path(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump({**GOOD, "model": {"hidden": 9}, "train": None}))
    config = load_config(
        path,
        [
            "model.hidden=12",
            "train.loss.kind=hinge",
            "train.optimizer.clip_norm=null",
            "tokenize.max_tokens={query: 5}",
        ],
    )
    assert (config.model.hidden, config.train.loss.kind, config.train.optimizer.clip_norm) == (12, "hinge", None)
    assert config.tokenize.max_tokens == {"query": 5, "document": 256}
    assert load_config(path, ["train.workers=1", "model.hidden=3", "model.hidden=4"]).model.hidden == 4
    assert load_config(path, ["train.workers=1", "name=a=b"]).name == "a=b"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.workers", ["'train.workers'", "key=value"]),
        ("=3", ["'=3'", "key=value"]),
        ("name.deeper=3", ["'name.deeper=3'", "name is a value, not a section"]),
        ("model.hiden=3", ["unknown key model.hiden=3", "did you mean hidden?"]),
        ("model.hidden=many", ["model.hidden='many'", "integer"]),
        ("model..hidden=3", ["model."]),
        ("model.=3", ["model."]),
        (".model=3", ["run.yaml"]),
        ("model=3", ["model=3"]),
        ("model.hidden=", ["model.hidden"]),
        ("model.hidden=[1", ["model.hidden='[1'"]),
        ("seed=2020-13-45", ["seed"]),
        ("seed=2020-10-05", ["seed"]),
        ("seed=" + "[" * 5000, ["seed"]),
        ("seed=" + "9" * 5000, ["seed"]),
        ("ingest.source.format=tvs", ["ingest.source", "'tvs'"]),
        ("ingest.source.format=[tsv]", ["ingest.source"]),
        ("ingest.source=3", ["ingest.source"]),
        ("ingest.source={format: tsv, path: a, x: 1}", ["unknown key ingest.source.x=1"]),
    ],
)
def test_bad_override(tmp_path: Path, override: str, parts: list[str]) -> None:
    path = write(tmp_path, yaml.safe_dump({**GOOD, "name": "x"}))
    with pytest.raises(InputError) as caught:
        load_config(path, [override])
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message


# --- anything ---------------------------------------------------------------------------------------------------------
def loads_or_refuses(path: Path, overrides: list[str]) -> None:
    try:
        load_config(path, overrides)
    except InputError as error:
        assert str(error)


@given(st.text(max_size=60))
@slack
def test_any_text_loads_or_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    loads_or_refuses(path, [])


@given(st.binary(max_size=40))
@slack
def test_any_bytes_load_or_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    loads_or_refuses(path, [])


SECTIONS = ("name", "seed", "ingest", "source", "format", "path", "paths", "columns", "model", "hidden", "train",
            "loss", "tokenize", "max_tokens", "evaluate", "kinds", "metric", "query", "x")  # fmt: skip
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(
    ("tsv", "beir", "trec", "docstrings", "pointwise", "mlp", "${HOME}", "ranking")
) | st.dates()  # fmt: skip
trees = st.recursive(
    leaves,
    lambda child: (
        st.lists(child, max_size=3) | st.dictionaries(st.sampled_from(SECTIONS) | st.integers(0, 3), child, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(SECTIONS), trees, max_size=5), trees)
@slack
def test_any_tree_loads_or_is_refused(tmp_path: Path, data: dict[str, Any], source: Any) -> None:
    for tree in (data, {**GOOD, **data}, {**data, "ingest": {"source": source}}):
        loads_or_refuses(write(tmp_path, yaml.safe_dump(tree)), [])


@given(
    st.lists(st.sampled_from(SECTIONS) | st.text(max_size=4), min_size=1, max_size=4),
    st.text(max_size=10) | trees.map(lambda tree: yaml.safe_dump(tree, default_flow_style=True)),
)
@slack
def test_any_override_loads_or_is_refused(tmp_path: Path, names: list[str], value: str) -> None:
    path = write(tmp_path, yaml.safe_dump(GOOD))
    loads_or_refuses(path, [f"{'.'.join(names)}={value}"])
    loads_or_refuses(path, [value])


def test_the_environment_is_left_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    load_config(write(tmp_path, yaml.safe_dump(GOOD)), ["root=${HOME}"])
    assert dict(os.environ) == before


def test_settings_are_read_without_numpy_and_pyarrow() -> None:
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", "import sys, pipeline.config; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert "pydantic" in loaded
    assert not {"numpy", "pyarrow", "mxnet", "mlflow"} & set(loaded)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"format": "captions", "images": "i"}, "ingest.source.captions is missing"),
        ({"format": "tsv", "path": "p", "text": "x"}, "unknown key ingest.source.text='x'"),
        ({"format": "tsv", "path": "p", "columns": {"text": [1]}}, "ingest.source.columns.text"),
    ],
)
def test_a_key_that_is_called_as_a_format_is_named(source: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        check_config({"name": "c", "ingest": {"source": source}}, "run.yaml")
    assert sentence in str(caught.value)
