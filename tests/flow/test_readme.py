"""README's own path, with README's own text: its configuration and every `duplet` command, in a folder of a user's."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.flow.pages import PROJECT, THINGS, commands_of, run, served

README = (PROJECT / "README.md").read_text(encoding="utf-8")
# Commands that need a cluster, or change the machine's crontab, are shown and not sent.
SHOWN_ONLY = {"submit": "duplet run my.yaml", "schedule": "0 2 * * *"}  # and a part of what is shown


def the_configuration() -> str:
    """README's first block of YAML that is named my.yaml."""
    found = re.search(r"```yaml\n(# my\.yaml\n.*?)```", README, re.DOTALL)
    assert found, "README has no block that begins with `# my.yaml`"
    return found[1]


def the_commands() -> list[str]:
    """Every `duplet …` command of README that names a file of the user's, in order, without its comment."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    commands = commands_of([block for _, block in blocks] + re.findall(r"(?<!`)`(duplet [^`]+)`", README))
    return list(dict.fromkeys(command for command in commands if len(shlex.split(command)) > 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is not the checkout, with the files that README names."""
    folder = tmp_path_factory.mktemp("a user's folder")
    (folder / "my.yaml").write_text(the_configuration(), encoding="utf-8")
    pairs = [("question", "answer", "label")]
    pairs += [(f"where do I buy a {thing}", f"the shop at the corner sells a {thing} today", "1") for thing in THINGS]
    pairs += [
        (f"where do I buy a {one}", f"the shop at the corner sells a {other} today", "0")
        for one, other in zip(THINGS, THINGS[7:])
    ]
    (folder / "pairs.tsv").write_text("".join("\t".join(row) + "\n" for row in pairs), encoding="utf-8")
    documents = [{"id": str(i), "title": thing, "text": f"a {thing} is sold here"} for i, thing in enumerate(THINGS)]
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents), encoding="utf-8")
    notes = folder / "home" / "notes"
    notes.mkdir(parents=True)
    for thing in THINGS:
        told = f"A {thing} is sold at the corner today. Who buys a {thing} there pays less than at the market.\n\n"
        more = f"The shop keeps each {thing} in a cool and dark room. Nobody sells a {thing} on Sundays."
        (notes / f"{thing}.md").write_text(f"# The {thing}\n\n{told}{more}", encoding="utf-8")
    rows = [{"query": "a red apple", "document": f"{thing} here"} for thing in THINGS[:5]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def forget_limits(trained: Path) -> None:
    """Makes a trained folder as older versions wrote it: config.json without the limits that are defaults."""
    settings = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    assert settings["tokenize"]["max_tokens"] == {"query": 64, "document": 256}
    settings["tokenize"]["max_tokens"] = {}
    (trained / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    manifest = json.loads((trained / "manifest.json").read_text(encoding="utf-8"))
    del manifest["files"]["config.json"]
    (trained / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.timeout(900)
def test_readme_runs_as_written(folder: Path) -> None:
    commands = the_commands()
    verbs = {shlex.split(command)[1] for command in commands}
    assert {
        "init",
        "train-on",
        "run",
        "index",
        "search",
        "predict",
        "export",
        "report",
        "compare",
        "submit",
        "schedule",
    } <= verbs
    run_id, trained = "", Path()
    for command in commands:
        words = shlex.split(command.replace("RUN_ID", run_id))
        if words[1] in SHOWN_ONLY:
            shown = run(folder, [*words, "--dry-run"])
            assert SHOWN_ONLY[words[1]] in shown.stdout
        elif "--serve" in words:
            answer = served(folder, words)
            assert answer["results"], answer
        elif words[1] == "run":
            result = json.loads(run(folder, [*words, "--json"]).stdout.splitlines()[-1])
            run_id = run_id or result["run_id"]
            if "--seeds" not in words:  # one folder for each of the seeds
                trained = folder / result["stages"]["train"]["folder"]
            figure = result["metrics"]["test/mrr@10"]
            assert 0 < (figure["mean"] if "--seeds" in words else figure) <= 1
        elif words[1] == "init":
            run(folder, [*words, "--output", "init.yaml"])
            run(folder, ["duplet", "ingest", "init.yaml"])
            (folder / "init.yaml").unlink()
        elif words[1] == "train-on":
            run(folder, [*words, "train.epochs=1", "--pairs", "200"])
        else:
            run(folder, words)
    predicted = [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(predicted) == 5 and all(-10 < row["score"] < 10 for row in predicted)
    left = {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}
    made = {"runs", "docs.index", "out.jsonl", "home", "notes.index", "notes.index.training"}
    assert left - {"my.yaml", "pairs.tsv", "docs.jsonl", "rows.jsonl"} - made <= {"matcher-onnx", "my-onnx"}, left
    results = json.loads(run(folder, ["duplet", "search", "docs.index", "green plum", "--json"]).stdout)["results"]
    assert len(results) == 10
    forget_limits(trained)
    run(folder, ["duplet", "index", str(trained), "--documents", "docs.jsonl", "--output", "older.index"])
    assert json.loads(run(folder, ["duplet", "search", "older.index", "green plum", "--json"]).stdout)["results"]
