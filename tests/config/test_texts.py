"""Texts of settings: names and paths that become part of scripts and folders, variables, secrets."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs import schedule, spec
from pipeline.cli import main
from pipeline.config import Config, check_config, load_config, variables
from pipeline.core import manifest
from pipeline.core.errors import InputError
from pipeline.core.redaction import hide_all

SOURCE = {"format": "tsv", "path": "pairs.tsv"}


def read(**data: Any) -> Config:
    return check_config({"name": "faq", "ingest": {"source": SOURCE}, **data}, "faq.yaml")


def with_source(**source: Any) -> dict[str, Any]:
    return {"ingest": {"source": source}}


CONTROLS = ["\n", "\r", "\r\n", "\t", "\0", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029"]
PLACES: list[tuple[str, Any]] = [
    ("name", lambda text: {"name": text}),
    ("root", lambda text: {"root": text}),
    ("tracking.experiment", lambda text: {"tracking": {"experiment": text}}),
    ("tracking.uri", lambda text: {"tracking": {"uri": text}}),
    ("promote.name", lambda text: {"promote": {"name": text}}),
    ("train.start_from", lambda text: {"train": {"start_from": text}}),
    ("ingest.source.path", lambda text: with_source(format="tsv", path=text)),
    ("ingest.source.paths", lambda text: with_source(format="tsv", paths={"train": text})),
    ("ingest.source.packages", lambda text: with_source(format="docstrings", packages=[text])),
]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize(("key", "settings"), PLACES, ids=[key for key, _ in PLACES])
def test_no_text_of_a_setting_holds_a_line_end(key: str, settings: Any, control: str) -> None:
    with pytest.raises(InputError, match="must not hold a line end or another control character") as caught:
        read(**settings(f"a{control}touch pwned{control}#"))
    assert key in str(caught.value)
    read(**settings("a b'\"$(x);é 語 😀"))


def test_a_column_and_a_label_may_hold_any_character() -> None:
    source = {**SOURCE, "columns": {"query": "Question\n(of a person)"}, "grades": {"so\tso": 1}}
    assert read(ingest={"source": source}).ingest.source.columns.query == "Question\n(of a person)"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "must not be empty$"), (" ", "must not be blank"), ("\u3000", "must not be blank"), ("x" * 251, "250")],
)
def test_a_name_has_1_to_250_characters(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(name=name)
    for section in ("promote", "tracking"):
        if name:
            with pytest.raises(InputError, match=message):
                read(**{section: {"name" if section == "promote" else "experiment": name}})
    assert read(name="x" * 250).tracking.experiment == "x" * 250


JOB = {
    "id": "a", "name": "faq", "config": "faq.yaml", "config_text": "ingest:\n", "root": "/r", "cwd": "/c",
    "python": "/p",
}  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [{"name": "a\nb"}, {"root": "/r\nx"}, {"cwd": "/c\nx"}, {"python": "/p\nx"}, {"config": "f\n"},
     {"overrides": ["name=a\nb"]}, {"slurm": {"partition": "a\nb"}}, {"slurm": {"account": "a\rb"}},
     {"slurm": {"extra": ["mem=1\ntouch x"]}}, {"kubernetes": {"image": "a\nb"}},
     {"kubernetes": {"mount": "/a\nb"}}, {"kubernetes": {"node_selector": {"a\nb": "c"}}},
     {"kubernetes": {"node_selector": {"a": "b\nc"}}}, {"target": "local\n"}],
)  # fmt: skip
def test_no_text_of_a_job_holds_a_line_end(settings: dict[str, Any]) -> None:
    assert spec.check(JOB).name == "faq"
    with pytest.raises(InputError, match="must not hold a line end"):
        spec.check({**JOB, **settings})


# --- paths ------------------------------------------------------------------------------------------------------------
def test_a_tilde_is_the_home_folder_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home = str(tmp_path)
    config = read(root="~/runs", train={"start_from": "~/a"}, task="captioning", tracking={"uri": "~/m"},
                  captioning={"features": "alexnet", "weights": "~/w.params"},
                  **with_source(format="captions", captions="~/c", images="~/i.zip",
                                splits={"test": "~/t"}))  # fmt: skip
    source: Any = config.ingest.source
    assert (config.root, config.train.start_from, config.tracking.uri) == (f"{home}/runs", f"{home}/a", f"{home}/m")
    assert config.captioning.weights == f"{home}/w.params"
    assert (source.captions, source.images, source.splits) == (f"{home}/c", f"{home}/i.zip", {"test": f"{home}/t"})
    source = read(**with_source(format="trec", documents="~/d", queries={"test": "~/q"}, judgements="~")).ingest.source
    assert (source.documents, source.queries, source.judgements) == (f"{home}/d", {"test": f"{home}/q"}, home)
    source = read(**with_source(format="lines", paths={"train": {"source": "~/s"}}), task="translation").ingest.source
    assert source.paths == {"train": {"source": f"{home}/s"}}


def test_only_a_leading_tilde_of_a_path_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("a/~/b", "s3://bucket/~/x", "x~", "~nobody-of-that-name/x", "./~"):
        assert read(**with_source(format="tsv", path=path)).ingest.source.path == path  # type: ignore[union-attr]


def test_a_configuration_is_found_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "faq.yaml").write_text("ingest: {source: {format: docstrings}}\n")
    assert load_config("~/faq.yaml").name == "faq"


# --- variables --------------------------------------------------------------------------------------------------------
def test_one_pattern_of_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("DUPLET_A", "1${DUPLET_B}"), ("DUPLET_B", "2"), ("DUPLET_SEED", "7")):
        monkeypatch.setenv(name, value)
    path = tmp_path / "faq.yaml"
    path.write_text("ingest: {source: {format: docstrings}}\nseed: ${DUPLET_SEED}\nroot: $DUPLET_B/${DUPLET_A}/$${X}\n")
    config = load_config(path, ["name=${DUPLET_B}$DUPLET_B$$"])
    assert config.root == "$DUPLET_B/1${DUPLET_B}/${X}"  # neither $NAME nor what stands in a value is looked at
    assert (config.seed, config.name) == (7, "2$DUPLET_B$$")
    assert check_config(config.shown, "again") == config  # nor is it in a stored configuration


def test_a_schedule_keeps_the_variables_that_are_expanded_and_no_others(tmp_path: Path) -> None:
    text = "ingest: {source: {format: tsv, path: '${DUPLET_T_A}/$DUPLET_T_B/$${DUPLET_T_C}'}}\nroot: RUNS\n"
    path = tmp_path / "faq.yaml"
    path.write_text(text.replace("RUNS", str(tmp_path / "runs")))
    environment = {"DUPLET_T_A": "a", "T_B": "b", "T_D": "d", "T_E": "e", "PATH": "/bin"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        made = schedule.make(str(path), ["name=x${T_D}$T_E"], {}, {"cron": "0 2 * * *", "target": "cron"})
    schedule.save(made)
    schedule.keep_environment(made, environment)
    kept = json.loads((made.folder / schedule.ENVIRONMENT).read_text())
    assert kept == {"DUPLET_T_A": "a", "T_D": "d"}


def test_a_job_hands_its_name_and_root_on_as_they_are(tmp_path: Path) -> None:
    job = spec.check({**JOB, "name": "a ${B} 😀 '\"", "root": "/r/${C}"})
    path = tmp_path / "faq.yaml"
    path.write_text("ingest: {source: {format: docstrings}}\n")
    config = load_config(path, job.settings(1))
    assert (config.name, config.root) == ("a ${B} 😀 '\"", "/r/${C}")


def test_escaping_comes_back() -> None:
    for text in ("a", "$", "${A}", "$${A}", "$$${A}", "${", "a$${"):
        assert variables.expand(variables.escaped(text), {}) == text


# --- secrets ----------------------------------------------------------------------------------------------------------
def test_only_addresses_lose_their_secrets_in_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """PARTITION_KEY=question: the column keeps its name (case 28)."""
    monkeypatch.setenv("PARTITION_KEY", "question")
    monkeypatch.setenv("API_TOKEN", "abcdefg")
    source = {**SOURCE, "columns": {"query": "question"}, "grades": {"question": 1}, "path": "data/question.tsv"}
    config = read(name="question", ingest={"source": source}, tracking={"uri": "http://ann:abcdefg@host/abcdefg"})
    shown = config.shown
    assert check_config(shown, "config.json").ingest == config.ingest
    assert (shown["name"], shown["tracking"]["uri"]) == ("question", "http://***@host/***")
    source = {"format": "tsv", "path": "https://host/pairs.tsv?page=2&token=abcdefg", "columns": {"query": "question"}}
    shown = read(ingest={"source": source}).shown
    assert shown["ingest"]["source"]["path"] == "https://host/pairs.tsv?page=2&token=***"
    assert shown["ingest"]["source"]["columns"]["query"] == "question"


def test_a_manifest_keeps_labels_and_finds_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTITION_KEY", "question")
    settings = {"columns": "question", "path": "http://ann:pw@host/question"}
    parts = manifest.KeyParts(1, {"source": settings}, {}, {})
    written = manifest.write(tmp_path, "ingest", parts, {}, 0.0, {"configuration": "question"})
    kept = manifest.load(tmp_path, "ingest", "")
    assert kept.extra == {"configuration": "question"}
    assert kept.key_parts["config"]["source"] == {"columns": "question", "path": "http://***@host/***"}
    assert parts.changed_since(kept.key_parts) == []
    assert written.key == kept.key


def test_hide_all_is_json(tmp_path: Path) -> None:
    value = {"a": ["http://u:p@h", "u:p"], "b": None, "c": 1, "password=x": "?token=abc"}
    assert hide_all(value) == {"a": ["http://***@h", "u:p"], "b": None, "c": 1, "password=x": "?token=abc"}
    assert os.environ


def test_options_of_the_command_line_know_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shell expands `--root ~/x` and not `--root=~/x`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for verb, arguments in {
        "index": ["model", "--output=~/x"], "export": ["model", "--to=onnx", "--output=~/x"], "sync": ["--root=~/x"],
        "report": ["run", "--output=~/x"], "promote": ["--root=~/x"], "search": ["~/x"], "replay": ["~/x"],
    }.items():  # fmt: skip
        found = vars(main.parser(verb).parse_args([verb, *arguments]))
        assert tmp_path / "x" in found.values(), verb


def test_no_folder_is_named_by_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    Path("p.tsv").write_text("query\tdocument\n" + "".join(f"q{i} a\td{i} a\n" for i in range(40)))
    Path("c.yaml").write_text("ingest: {source: {format: tsv, path: p.tsv}}\nroot: ~/runs\ntracking: {max_wait_s: 0}\n")
    assert main.main(["tokenize", "c.yaml"]) == 0
    for stage in ("ingest", "tokenize"):
        assert list((tmp_path / "home" / "runs").glob(f"{stage}/[0-9a-f]*/manifest.json"))
    assert sorted(path.name for path in Path().iterdir()) == ["c.yaml", "p.tsv"]


def test_a_root_is_a_folder_here_or_in_a_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = lambda root: check_config(
        {"name": "t", "root": root, "ingest": {"source": {"format": "docstrings"}}}, "test"
    )
    monkeypatch.setenv("DUPLET_CACHE", str(tmp_path / "cache"))
    copies = [read(root).local_root for root in ("s3://bucket/runs", "s3://bucket/runs/", "s3://bucket/runs2")]
    assert copies[0] == copies[1] != copies[2]
    assert {copy.parent for copy in copies} == {tmp_path / "cache" / "roots"}
    assert read(str(tmp_path)).local_root == tmp_path
    monkeypatch.delenv("DUPLET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "theirs"))
    assert read("s3://bucket/runs").local_root == tmp_path / "theirs" / "duplet" / "roots" / copies[0].name
    for root in ("file:///runs", "http://host/runs"):
        with pytest.raises(InputError, match="must be a path on this machine, or an address of an object store"):
            read(root)
    with pytest.raises(InputError, match="must hold no password or token: credentials come from the environment"):
        read("s3://ann:secret@bucket/runs")


@pytest.mark.parametrize("path", ["s3://bucket/runs", "file:///runs", "hdfs://name/x"])
def test_what_is_written_here_is_no_address(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder `s3:` would be made, of which nobody knows."""
    source = {"source": {"format": "docstrings"}}
    for given in (
        {"train": {"start_from": path}},
        {"captioning": {"weights": path}},
        {"tokenize": {"more_words": path}},
        {"model": {"vectors": path}},
        {"teach": {"scores": path}},
    ):
        with pytest.raises(InputError, match="must be a path on this machine, not an address"):
            check_config({"name": "t", "ingest": source, **given}, "test")
    for command in (["sync", "--root", path], ["predict", "m", "--input", "i.csv", "--output", path],
                    ["index", "m", "--documents", "d.csv", "--output", path], ["report", "m", "--output", path],
                    ["jobs", "list", "--root", path], ["schedule", "list", "--root", path]):  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            main.main(command)
        assert caught.value.code == 2
        assert f"{path!r} is an address: give a path on this machine" in capsys.readouterr().err
