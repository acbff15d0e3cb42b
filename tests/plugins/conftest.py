"""Packages that bring something to Duplet, put where Python finds installed ones: no registry is asked."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.config import Settings
from tests.conftest import last_json

PACKAGE = Path(__file__).with_name("rating_package")
DUPLET = ("-m", "pipeline.cli")
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Bad = dict[str, tuple[str, str, str]]
WORDS = [a + b for a in ("ba", "do", "ku", "li", "mo") for b in ("ran", "sel", "tip", "vom")]


def install(site: Path, name: str, version: str, entry_points: dict[str, dict[str, str]], *modules: Path) -> None:
    """What pip writes for a package: its modules, and a folder NAME-VERSION.dist-info with its entry points."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line for group, points in entry_points.items() for line in (f"[{group}]", *map(" = ".join, points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module in modules:
        (site / module.name).write_text(module.read_text())


def environment(site: Path) -> dict[str, str]:
    """That of a process which finds the packages of a folder, and this very Duplet."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parents[2])])}


def sentences(run: Run, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """A configuration without anything of a package as `duplet config` shows it, and a line for each bad thing."""
    (folder / "t.yaml").write_text(yaml.safe_dump({"name": "t", "ingest": {"source": {"format": "docstrings"}}}))
    done = run(*DUPLET, "config", "t.yaml")
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout), done.stderr.splitlines()


def refused(run_with: Callable[[Path], Run], folder: Path, group: str, bad: Bad, code: str) -> dict[str, Any]:
    """Installs packages that cannot be used, each of which must cost its sentence; `sentences`' configuration.

    Args:
        bad: by name what its class holds (or a line that begins with import), its entry point, and the sentence.
        code: a module that defines THING, with a place for `body`.
    """
    site = folder / "site"
    for name, (body, point, _) in bad.items():
        install(site, f"duplet-{name}", "1.0", {group: {point: f"plugin_{name}:THING"}})
        text = body if body.startswith("import") else code.format(body=body or f'name = "{point}"')
        (site / f"plugin_{name}.py").write_text(text)
    shown, lines = sentences(run_with(site), folder)
    assert len(lines) == len(bad)
    for name, (_, _, sentence) in bad.items():
        [line] = [line for line in lines if f"package duplet-{name}:" in line]
        assert sentence in line
    return shown


def pairs(folder: Path) -> list[dict[str, str]]:
    """120 pairs that share two words of three, also written to pairs.jsonl."""
    rng = np.random.default_rng(3)
    rows = [{"query": f"{a} {b}", "document": f"{b} {a} {c}"} for a, b, c in (rng.choice(WORDS, 3) for _ in range(120))]
    write_lines(folder / "pairs.jsonl", rows)
    return rows


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    """A JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def printed(run: Run, *command: str) -> str:
    """What a command that succeeds prints."""
    done = run(*DUPLET, *command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def folders_of(whole: dict[str, Any], folder: Path, package: str, version: str) -> dict[str, Path]:
    """The stages' folders of a run, of which train's names the package that it needs, and ingest's does not."""
    folders = {name: folder / stage["folder"] for name, stage in whole["stages"].items()}
    made = {name: json.loads((stage / "manifest.json").read_text()) for name, stage in folders.items()}
    assert made["train"]["extra"]["package"] == package
    assert made["train"]["key_parts"]["libraries"][package] == version
    assert package not in made["ingest"]["key_parts"]["libraries"]
    return folders


def works_without(without: Run, folders: dict[str, Path], sentence: str) -> None:
    """Where a package is not installed its model is refused by a sentence, and its evaluation still has a page."""
    done = without(*DUPLET, "predict", str(folders["train"]), "--input", "ask.jsonl", "--output", "refused.jsonl")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert without(*DUPLET, "report", str(folders["evaluate"])).returncode == 0


def names_of(section: type[Settings]) -> set[str]:
    """What a section's settings, and what it computes of them, are called."""
    own = {name for name in vars(section) if not name.startswith("_") and not hasattr(Settings, name)}
    return own | section.model_fields.keys()


def stopped_and_resumed(run: Run, site: Path, folder: Path, config: str) -> dict[str, Any]:
    """Stops a training once it has a checkpoint, and runs the configuration to its end; what that says with --json."""
    process = subprocess.Popen(
        [sys.executable, "-P", *DUPLET, "train", config],
        cwd=folder, env=environment(site), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and not list(folder.glob("runs/work/train-*/checkpoints/update-*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    done = run(*DUPLET, "run", config, "--json")
    assert "going on from update-" in done.stderr
    return last_json(done)


@pytest.fixture(scope="session")
def rating_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rating package, installed by pip from its folder (nothing is downloaded)."""
    site, copy = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("rating") / "package"
    shutil.copytree(PACKAGE, copy)  # building leaves files behind
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*command, "--target", str(site), str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def with_site(tmp_path: Path) -> Callable[[Path], Run]:
    """Runs Python or `duplet` with the packages of a folder installed beside Duplet."""

    def of(site: Path) -> Run:
        def run(*command: str) -> subprocess.CompletedProcess[str]:
            command = (sys.executable, "-P", *command)
            env = environment(site)
            return subprocess.run(command, capture_output=True, text=True, timeout=280, env=env, cwd=tmp_path)

        return run

    return of
