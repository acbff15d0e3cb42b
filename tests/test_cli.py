"""The command line: the order of its words, its version, and what is said of a verb that is none."""

import argparse
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import __version__
from pipeline.cli import examples, main


def parse(*given: str) -> argparse.Namespace:
    return main._arguments(list(given))


@pytest.mark.parametrize(
    "given",
    [
        ("search", "i", "alpha", "--hybrid", "--k", "1"),
        ("search", "i", "--hybrid", "alpha", "--k", "1"),
        ("search", "i", "--hybrid", "--k", "1", "alpha"),
        ("search", "--k", "1", "--hybrid", "i", "alpha"),
        ("search", "--k=1", "i", "--hybrid", "alpha"),
    ],
)
def test_options_stand_before_or_after_the_query(given: tuple[str, ...]) -> None:
    args = parse(*given)
    assert (args.verb, args.index, args.query, args.hybrid, args.k) == ("search", Path("i"), "alpha", True, 1)


def test_a_query_is_not_needed_and_may_begin_with_a_dash() -> None:
    assert parse("search", "i", "--hybrid").query is None
    assert parse("search", "i", "--", "-x").query == "-x"
    assert parse("search", "i", "").query == ""


@pytest.mark.parametrize(
    "given",
    [
        ("run", "my.yaml", "a=1", "b.c=2", "--workers", "2"),
        ("run", "my.yaml", "--workers", "2", "a=1", "b.c=2"),
        ("run", "--workers", "2", "my.yaml", "a=1", "b.c=2"),
        ("run", "my.yaml", "a=1", "--workers", "2", "b.c=2"),
    ],
)
def test_settings_stand_before_or_after_the_options(given: tuple[str, ...]) -> None:
    args = parse(*given)
    assert (args.config, args.overrides, args.workers) == ("my.yaml", ["a=1", "b.c=2"], 2)


def test_verbs_with_actions_are_parsed_as_before() -> None:
    args = parse("jobs", "logs", "x", "--follow")
    assert (args.verb, args.action, args.id, args.follow) == ("jobs", "logs", "x", True)
    args = parse("schedule", "run", "faq", "--root=r")
    assert (args.config, args.overrides, args.root) == ("run", ["faq"], Path("r"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["serach", "i"], "there is no verb 'serach'; did you mean search? (verbs: init, demo, run, ingest"),
        (["xyzzy"], "there is no verb 'xyzzy' (verbs: init, demo, run, ingest"),
        ([], "the following arguments are required: VERB"),
        (["report"], "the following arguments are required: run\n"),
        (["submit"], "the following arguments are required: config\n"),
        (["run", "my.yaml", "--bad", "1"], "there is no option --bad; a setting is written without dashes: bad=VALUE"),
        (["run", "my.yaml", "--root=r"], "there is no option --root; a setting is written without dashes: root=VALUE"),
        (["run", "my.yaml", "--workrs", "2"], "there is no option --workrs; did you mean --workers?"),
        (["search", "i", "--wheer=x"], "there is no option --wheer; did you mean --where?"),
        (["search", "i", "how", "are", "you"], "unrecognized arguments: are you"),
        (["sync", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(given)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options of a verb, and of its actions."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from actions(inner)


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_whole_number_has_bounds(verb: str) -> None:
    for action in actions(main._parsers(verb)[1][verb]):
        assert action.type is not int or action.choices, action.option_strings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["by-hand", "--seed", "-1"], "--seed: must be a whole number from 0 to 2,147,483,647, not '-1'"),
        (["by-hand", "--seed", "4294967296"], "--seed: must be a whole number from 0 to 2,147,483,647, not '42949"),
        (["by-hand", "--updates", "0"], "--updates: must be a whole number of at least 1, not '0'"),
        (["by-hand", "--rate", "nan"], "--rate: must be a number above 0, not 'nan'"),
        (["generate", "m", "--seed", "2147483648"], "--seed: must be a whole number from 0 to 2,147,483,647"),
        (["run", "my.yaml", "--workers", "0"], "--workers: must be a whole number of at least 1, not '0'"),
        (["sweep", "my.yaml", "a=1,2", "--workers", "0"], "--workers: must be a whole number of at least 1, not '0'"),
        (["sweep", "my.yaml", "a=1,2", "--trials", "-2"], "--trials: must be a whole number of at least 1, not '-2'"),
        (["search", "i", "x", "--k", "0"], "--k: must be a whole number of at least 1, not '0'"),
        (["ask", "i", "x", "--k", "0"], "--k: must be a whole number of at least 1, not '0'"),
        (["train-on", "i", "--pairs", "10"], "--pairs: must be a whole number of at least 100, not '10'"),
        (["search", "i", "--threads", "two"], "--threads: must be a whole number of at least 1, not 'two'"),
        (["search", "i", "--port", "65536"], "--port: must be a whole number from 0 to 65,535, not '65536'"),
        (["ui", "--port", "-1"], "--port: must be a whole number from 0 to 65,535, not '-1'"),
        (["submit", "my.yaml", "--at-most", "0"], "--at-most: must be a whole number of at least 1, not '0'"),
        (["gc", "--keep-nights", "0"], "--keep-nights: must be a whole number of at least 1, not '0'"),
    ],
)
def test_a_number_out_of_its_bounds_is_told(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(given)
    assert caught.value.code == 2
    assert f"argument {said}" in capsys.readouterr().err


def test_a_sweep_takes_the_workers_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.orchestration import sweep

    taken: list[list[str]] = []

    class Noted:
        def __init__(self, path: str, overrides: list[str], *_: object) -> None:
            taken.append(overrides)

        def run(self) -> dict[str, object]:
            return {"table": "", "best": {}, "folder": "x"}

    monkeypatch.setattr(sweep, "Sweep", Noted)
    assert main.main(["sweep", "my.yaml", "a=1,2", "--workers", "2"]) == 0
    assert main.main(["sweep", "my.yaml", "a=1,2"]) == 0
    assert taken == [["a=1,2", "train.workers=2"], ["a=1,2"]]


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"duplet {__version__}\n"


@pytest.mark.parametrize("verb", main.VERBS)
def test_each_verb_has_its_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main([verb, "--help"])
    assert caught.value.code == 0
    assert f"usage: duplet {verb}" in capsys.readouterr().out


def test_nothing_is_imported_from_where_the_person_stands(tmp_path: Path) -> None:
    for name in ("pipeline.py", "jobs.py", "pydantic.py", "yaml.py", "argparse.py", "numpy.py", "sitecustomize.py"):
        (tmp_path / name).write_text("open('imported', 'w')\nraise SystemExit(9)\n")
    (tmp_path / "c.yaml").write_text("ingest: {source: {format: docstrings}}\n")
    duplet = Path(sys.executable).with_name("duplet")
    done = subprocess.run([duplet, "status", "c.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "imported").exists()


def test_an_output_that_is_not_utf8_ends_no_command(tmp_path: Path) -> None:
    """A text may hold what the terminal's encoding does not have, and a file's name what no encoding has."""
    duplet = Path(sys.executable).with_name("duplet")
    (tmp_path / "c.yaml").write_text(
        "name: caf\u00e9 \u95ee\ningest: {source: {format: docstrings}}\n", encoding="utf-8"
    )
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([duplet, "config", "c.yaml"], cwd=tmp_path, capture_output=True, env=ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(rb"name: caf\xe9 \u95ee")
    done = subprocess.run([duplet, "status", b"\xff.yaml"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(rb"duplet status: no configuration at \udcff.yaml")


@pytest.mark.parametrize("verb", main.VERBS)
def test_each_verb_has_examples_that_it_understands(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert examples.EXAMPLES[verb]
    for command, _ in examples.EXAMPLES[verb]:
        inside = command.removeprefix('eval "$(').removesuffix(')"').partition(" | ")[0]
        program, *given = shlex.split(inside)
        assert (program, given[0]) == ("duplet", verb)
        parse(*given)
    with pytest.raises(SystemExit):
        main.main([verb, "--help"])
    assert examples.shown(verb) in capsys.readouterr().out


def test_search_talks_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.cli.commands import search
    from pipeline.core.errors import InputError
    from pipeline.search import open_index

    def answer(_: object, __: object, query: str, ___: object) -> None:
        if query == "bad":
            raise InputError("no such field")
        print(f"answer to {query}")

    typed = io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"one\nbad\ntwo words\n\nnever\n")))
    typed.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", typed)
    monkeypatch.setattr(open_index, "open_searcher", lambda *_: None)
    monkeypatch.setattr(search, "_answer", answer)
    assert main.main(["search", "i"]) == 0
    said = capsys.readouterr()
    assert said.out.replace("? ", "").splitlines() == ["answer to one", "answer to two words"]
    assert "duplet search: no such field" in said.err
