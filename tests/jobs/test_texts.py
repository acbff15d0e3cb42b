"""Texts made from settings: whatever names, paths and settings hold, each generated text says it and nothing more."""

import ast
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from jobs import airflow, cron, kubernetes, kubernetes_schedule, local, slurm, slurm_schedule, texts
from jobs import schedule as schedules
from jobs import spec as specs
from jobs.schedule import Schedule
from jobs.spec import JobSpec
from pipeline.cli.commands.stages import pages
from pipeline.cli.main import main
from pipeline.core.errors import InputError

Spec = Callable[..., JobSpec]
PLAIN = {
    "name": "faq",
    "config": "faq.yaml",
    "config_text": "",
    "overrides": (),
    "root": "/r",
    "cwd": "/",
    "python": "python",
}
MARK = "mark-of-a-text-that-ran"
HOSTILE = [
    f"a\ntouch {MARK}\n#",
    f"a\rtouch {MARK}\r#",
    f"a\u2028touch {MARK}",
    f"$(touch {MARK})",
    f"`touch {MARK}`",
    f"'; touch {MARK}; '",
    f'"; touch {MARK}; "',
    f"a & touch {MARK} &",
    f"x%touch {MARK}",
    rf"\\'; touch {MARK} #\%",
    "{{ 7 * 7 }}{% raw %}{# x",
    '"""\nimport os\n"""',
    "coding: utf-7",
    "a: b # c\t- d",
    "\x1b[2J\x00\x07",
    "-rf *",
    "!!python/object/apply:os.system [x]",
]


def hostile(job_spec: Spec, text: str, **settings: Any) -> JobSpec:
    """A job that holds a text wherever one can stand, past the check that refuses control characters."""
    return job_spec(**settings).model_copy(
        update={"name": text, "config": text, "overrides": (f"name={text}",), "root": f"/r/{text}", "cwd": f"/c/{text}",
                "python": f"/p/{text}/python"}
    )  # fmt: skip


def scheduled(job: JobSpec, target: str) -> Schedule:
    made = schedules.check({
        "name": "faq-1a2b3c4d", "cron": "0 2 * * *", "target": target, "zone": "UTC",
        "created": "2026-11-20T12:00+00:00", "job": job.model_copy(update=PLAIN).model_dump(mode="json"),
    })  # fmt: skip
    return made.model_copy(update={"job": job})


def words_of(script: str, folder: Path, shell: str = "bash") -> list[list[str]]:
    """What a script would do: its commands with their words, each of them a stand-in that writes them down."""
    said, bin = folder / "said", folder / "bin"
    bin.mkdir(exist_ok=True)
    for program in ("sbatch", "sleep", "touch"):
        body = "" if program == "touch" else f'printf "%s\\0" {program} "$@" >>"{said}"; printf "\\n\\0" >>"{said}"'
        (bin / program).write_text(f"#!/bin/sh\n{body}\n" if body else f'#!/bin/sh\n: >>"{folder}/{MARK}"\n')
        (bin / program).chmod(0o755)
    note = f'{{ printf "%s\\0" "$@"; printf "\\n\\0"; }} >>"{said}"'
    stubs = f'cd() {{ set -- cd "$@"; {note}; }}\nrun() {{ {note}; }}\n'
    # `exec` is a keyword of dash, which no function replaces: there and in bash it becomes the word of a function
    body = re.sub(r"^exec ", "run exec ", script, flags=re.M)
    done = subprocess.run(
        [shell, "-c", stubs + body], cwd=folder, env={"PATH": f"{bin}{os.pathsep}/usr/bin:/bin"}, capture_output=True
    )
    assert not (folder / MARK).exists(), "a setting was run"
    assert sorted(path.name for path in folder.iterdir()) in (["bin", "said"], ["bin"]), "a file was made"
    assert done.returncode == 0, done.stderr
    read = said.read_bytes().decode() if said.exists() else ""
    said.unlink(missing_ok=True)
    return [command.split("\0")[:-1] for command in read.split("\n\0")[:-1]]


def plain(text: str) -> str:
    """A text as a shell's argument can hold it."""
    return text.replace("\x00", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_scripts_do_what_they_are_for_and_no_more(job_spec: Spec, text: str, tmp_path: Path) -> None:
    job = hostile(job_spec, plain(text), target="slurm")
    assert words_of(local.Local().render(job)["job.sh"], tmp_path, "sh") == [
        ["cd", job.cwd], ["exec", job.python, "-P", "-m", "jobs.supervise", str(job.folder)],
    ]  # fmt: skip
    assert words_of(slurm.script(job), tmp_path) == [
        ["cd", job.cwd], ["exec", job.python, "-P", "-m", "jobs.on_cluster", str(job.folder)],
    ]  # fmt: skip
    script = slurm_schedule.script(scheduled(job, "slurm"))
    assert words_of(script, tmp_path)[-1][:6] == ["exec", job.python, "-P", "-m", "pipeline.cli", "schedule"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_crontab_s_line_is_one_command(job_spec: Spec, text: str) -> None:
    made = scheduled(hostile(job_spec, plain(text)), "cron")
    if texts.controls(plain(text)):
        with pytest.raises(InputError, match="one line"):
            cron.block(made)
        return
    first, line, last = cron.block(made).splitlines()
    assert (first, last) == cron.markers("faq-1a2b3c4d")
    command = re.sub(r"\\([\\%])|%.*", lambda found: found[1] or "", line.split(" ", 5)[5])  # as cron reads it
    said = shlex.split(command)
    assert said[:3] == ["cd", made.job.cwd, "&&"]
    assert said[3:11] == [made.job.python, "-P", "-m", "pipeline.cli", "schedule", "run", "faq-1a2b3c4d", "--root"]
    assert said[11] == made.job.root and len(said) == 14
    assert slurm_schedule.scrontab_block(made).count("\n0 2 * * * ") == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_a_dag_holds_its_commands_as_texts(job_spec: Spec, text: str) -> None:
    made = scheduled(hostile(job_spec, plain(text)), "airflow")
    tree = ast.parse(airflow.dag(made).encode())  # as Python reads the file, whatever its first lines look like
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
    commands = ast.literal_eval(loops[0].iter)
    [told] = [
        ast.literal_eval(call.args[0]) for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "run"
    ]  # fmt: skip
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(imports) == 10 and plain(text) in str(ast.get_docstring(tree, clean=False))

    class End:
        def in_timezone(self, zone: str) -> "End":
            assert zone == "UTC"
            return self

        def strftime(self, form: str) -> str:
            return "2026-11-24T02:00"

    rendered = jinja2.Environment(keep_trailing_newline=True)
    cwd, root = (path.replace("\r", "\n") for path in (made.job.cwd, made.job.root))
    assert [name for name, _ in commands] == ["ingest", "tokenize", "train", "verdict"]
    for name, command in commands:
        run = rendered.from_string(command).render(data_interval_end=End())
        words = [word.replace("\r", "\n") for word in shlex.split(run)]  # Jinja knows one line end
        at = words.index("--root")
        assert words[:3] == ["cd", cwd, "&&"] and words[at + 1 : at + 4] == [root, "--date", "2026-11-24T02:00"]
        assert words[at + 4] == ("--json" if name == "verdict" else "--stages")
    assert told[:2] == ["/bin/sh", "-c"] and shlex.split(told[2])[:3] == ["cd", made.job.cwd, "&&"]


@pytest.mark.parametrize("text", HOSTILE)
def test_manifests_hold_settings_as_texts(job_spec: Spec, text: str) -> None:
    job = hostile(job_spec, text, target="kubernetes", config_text=text, kubernetes={"claim": "c"})
    config, mpijob = yaml.safe_load_all(kubernetes.target().render(job)["job.yaml"])
    inside = json.loads(config["data"]["spec.json"])
    assert (config["data"]["config.yaml"], inside["name"], inside["overrides"]) == (text, text, [f"name={text}"])
    assert text not in str(mpijob)
    config, _ = yaml.safe_load_all(kubernetes.as_yaml(kubernetes_schedule.manifests(scheduled(job, "kubernetes"))))
    assert config["data"]["config.yaml"] == text


@pytest.mark.parametrize("setting", ["root", "--override"])
@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\u2028", "\x85", "\udcff"])
def test_control_characters_are_refused_in_a_sentence(
    setting: str, character: str, tmp_path: Path, small_config: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_config()))
    given = f"root={tmp_path}/a{character}b" if setting == "root" else f"tracking.experiment=a{character}b"
    for target in ("local", "slurm", "kubernetes"):
        options = ["kubernetes.claim=c"] if target == "kubernetes" else []
        assert main(["submit", str(path), given, "--target", target, *options]) == 2
        [sentence] = capsys.readouterr().err.splitlines()
        assert not texts.controls(sentence)
    assert not (tmp_path / "runs").exists() and sorted(p.name for p in tmp_path.iterdir()) == [
        "pairs.jsonl",
        "small.yaml",
    ]


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("export MLFLOW_TRACKING_PASSWORD=hunter22", True),
        ('export HF_TOKEN="abc"', True),
        ("--export=ALL,AWS_SECRET_ACCESS_KEY=abc", True),
        ("export HF_TOKEN=$(cat ~/.token)", False),
        ('export HF_TOKEN="$OTHER"', False),
        ("module load cuda/11.7", False),
    ],
)
def test_a_shell_line_with_a_secret_is_not_kept(
    line: str, refused: bool, tmp_path: Path, small_config: Callable[..., Any]
) -> None:
    path, job = tmp_path / "small.yaml", tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(small_config()))
    where = "extra" if line.startswith("--") else "setup"
    job.write_text(yaml.safe_dump({"config": str(path), "target": "slurm", "slurm": {where: [line]}}))
    if not refused:
        assert line in slurm.script(specs.read(str(job), [], {}))
        return
    with pytest.raises(InputError, match="holds a password or token") as error:
        specs.read(str(job), [], {})
    assert "hunter22" not in str(error.value) and "abc" not in str(error.value)


@pytest.mark.parametrize("text", [text for text in HOSTILE if not texts.controls(text)])
def test_a_command_to_copy_hands_over_the_root_as_it_is(text: str, tmp_path: Path) -> None:
    stand_in = tmp_path / "duplet"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(pages(f"/r/{text}", "3a5e"), shell=True, cwd=tmp_path, capture_output=True, env=environment)
    assert done.stdout.decode() == f"ui\n3a5e\n--root\n/r/{text}\n", done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["duplet"]
