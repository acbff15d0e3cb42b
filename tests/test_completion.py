"""What Tab offers, asked of the command, and of bash itself."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.cli.commands.completion import SCRIPTS, candidates


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("")
    (tmp_path / "notes.index").mkdir()
    (tmp_path / "notes.index" / "index.json").write_text("{}")
    (tmp_path / "other").mkdir()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["se"], ["search"]),
        (["search", "--hy"], ["--hybrid"]),
        (["search", "no"], ["notes.index"]),
        (["search", "notes.index", "--backend", ""], ["mxnet", "onnx"]),
        (["run", "m"], ["my.yaml"]),
        (["run", "my.yaml", "train.loss.k"], ["train.loss.kind="]),
        (["run", "my.yaml", "model.head=la"], ["model.head=late_interaction"]),
        (["run", "my.yaml", "task=ma"], ["task=matching"]),
        (["run", "my.yaml", "model.pooling=max_"], ["model.pooling=max_mean"]),
        (["run", "my.yaml", "tokenize.lowercase="], ["tokenize.lowercase=false", "tokenize.lowercase=true"]),
        (["demo", "wiki"], ["wikiqa"]),
        (["completion", "f"], ["fish"]),
        (["config", "explain", "train.lo"], None),
        (["nonsense", ""], []),
    ],
)
def test_what_the_last_word_may_become(words: list[str], found: list[str] | None) -> None:
    if found is None:
        assert "train.loss" in candidates(words)
    else:
        assert candidates(words) == found


def words_of(verb: str) -> set[str]:
    """The names of the words that a verb takes, as its usage shows them."""
    usage = main._parsers(verb)[1][verb].format_usage()
    return {word.strip("[]. \n") for word in usage.split() if "-" not in word}


@pytest.mark.parametrize("verb", main.VERBS)
def test_each_verb_is_completed(verb: str) -> None:
    words = words_of(verb)
    assert verb in candidates([""]) and verb in candidates([verb[:3]])
    assert {"--help", "--json"} <= set(candidates([verb, "--"]))
    configured = bool(words & {"config", "model", "run", "RUN", "CONFIG|list|remove|run|check|ready"})
    assert ("my.yaml" in candidates([verb, "m"])) == configured, words
    assert ("notes.index" in candidates([verb, "no"])) == ("index" in words and verb != "index"), words
    settings = bool(words & {"key=value", "key=…", "NAME|key=value"})
    given = "notes.index" if verb == "train-on" else "my.yaml"
    assert ("train.epochs=" in candidates([verb, given, "train.ep"])) == settings, words


def test_bash_completes(tmp_path: Path) -> None:
    """Bash's own variables are set as its Tab does, and the function is called."""
    duplet = Path(sys.executable).with_name("duplet")
    script = (
        f'PATH={duplet.parent}:$PATH\neval "$(duplet completion bash)"\n'
        "COMP_WORDS=(duplet run my.yaml model.head=la)\nCOMP_CWORD=3\n_duplet 2>/dev/null\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\ncomplete -p duplet\n'
    )
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["model.head=late_interaction", "complete -o default -F _duplet duplet"], done


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_read_its_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert subprocess.run([shell, "-n", "/dev/stdin"], input=SCRIPTS[shell], text=True).returncode == 0
