"""What a person may ask of a job, and the sentence for what makes no sense; nothing is left behind by a refusal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs import spec as specs
from jobs.spec import JobSpec
from pipeline.cli.main import main
from pipeline.core.errors import InputError

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def config(small_config: Make, tmp_path: Path) -> str:
    """A configuration as a file."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_config()))
    return str(path)


def job_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return str(path)


NONSENSE = {
    "wall time of nothing": (["--walltime-min", "0"], "walltime_min=0"),
    "wall time in words": (["--walltime-min", "soon"], "walltime_min='soon'"),
    "wall time in base 60": (["--walltime-min", "1:30"], "walltime_min='1:30'"),
    "wall time of centuries": (["--walltime-min", "99999999"], "walltime_min=99999999"),
    "no workers": (["--workers", "0"], "workers=0"),
    "half a worker": (["--workers", "1.5"], "workers=1.5"),
    "range the wrong way round": (["--workers", "8:2"], "workers=8:2"),
    "more workers than pairs": (["--workers", "100"], "max_pairs_per_update"),
    "more per host than there are": (["--workers", "2", "--workers-per-host", "3"], "workers_per_host=3"),
    "two GPUs for one worker": (["--gpus-per-worker", "2"], "gpus_per_worker=2"),
    "no memory": (["--mem-gb", "0"], "mem_gb=0"),
    "memory in words": (["--mem-gb", "lots"], "mem_gb='lots'"),
    "memory that is no number": (["--mem-gb", "nan"], "mem_gb='nan'"),
    "less memory than an update needs": (["--mem-gb", "0.1"], "a host with mem_gb=0.1 has 107,374,182 (0.1 GiB)"),
    "more memory than here": (["--mem-gb", "65536"], "this machine has"),
    "no cores": (["--cpus-per-worker", "0"], "cpus_per_worker=0"),
    "more cores than here": (["--cpus-per-worker", "1024"], "this machine has"),
    "two hosts here": (["--workers", "2", "--workers-per-host", "1"], "target local has one"),
    "negative retries": (["--retries", "-1"], "retries=-1"),
    "unknown target": (["--target", "slum"], "did you mean slurm"),
    "unknown option of a target": (["slurm.acount=x"], "did you mean account"),
    "section as a value": (["slurm=gpu"], "slurm='gpu'"),
    "setting below a value": (["retries.max=3"], "no setting retries.max"),
    "unknown setting": (["modle.layers=1"], "did you mean model"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_one_sentence_and_leaves_nothing(
    name: str, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = NONSENSE[name]
    assert main(["submit", config, *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (sentence,) = said.err.splitlines()
    assert expected in sentence
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
def test_gpus_that_are_not_here_are_refused(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", config, "--gpus-per-worker", "1"]) == 2
    assert "needs 1 GPUs, this process may use 0" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_refused(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["submit", config, f"root={tmp_path / 'file'}"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "cannot be written" in sentence


def test_a_dry_run_shows_all_and_writes_nothing(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["submit", config, "--workers", "2", "--dry-run", "train.epochs=7", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sorted(tmp_path.rglob("*")) == before
    assert found["files"]["config.yaml"] == Path(config).read_text()
    script = found["files"]["job.sh"]
    assert f"-m jobs.supervise {tmp_path / 'runs' / 'jobs' / found['id']}\n" in script
    assert "train.epochs=7" in script


def test_the_local_script_is_the_golden_one(
    job_spec: Callable[..., JobSpec], golden: Callable[[str, str], None]
) -> None:
    from jobs.local import Local

    spec = job_spec(min_workers=2, max_workers=8, cpus_per_worker=4, retries=5, root="/data/my runs", name="my faq")
    rendered = Local().render(spec)
    assert list(rendered) == ["job.sh", "config.yaml"]
    assert rendered["config.yaml"] == spec.config_text
    golden("local.sh", rendered["job.sh"])


def test_a_job_file_its_settings_and_options_come_in_this_order(config: str, tmp_path: Path) -> None:
    path = job_file(
        tmp_path,
        f"""
        config: {config}
        overrides: [train.epochs=3]
        target: slurm
        workers: 2:4
        retries: 1
        walltime_min: 90
        slurm: {{partition: gpu, account: us}}
        """,
    )
    spec = specs.read(path, ["slurm.account=them", "train.epochs=4", "retries=2"], {"retries": "7", "mem_gb": "1.5"})
    assert (spec.min_workers, spec.max_workers) == (2, 4)  # and not the number 124 that YAML 1.1 reads there
    assert (spec.slurm.partition, spec.slurm.account) == ("gpu", "them")
    assert spec.overrides == ("train.epochs=3", "train.epochs=4")
    assert (spec.retries, spec.mem_gb, spec.walltime_min) == (7, 1.5, 90)
    assert spec.config == config
    assert spec.name == "small"


def test_a_job_file_with_a_wrong_key_names_the_right_one(config: str, tmp_path: Path) -> None:
    path = job_file(tmp_path, f"config: {config}\nwalltime: 90\n")
    with pytest.raises(InputError, match="unknown key walltime, did you mean walltime_min"):
        specs.read(path, [], {})


def test_without_options_a_job_is_what_the_configuration_says(config: str, tmp_path: Path) -> None:
    spec = specs.read(config, ["train.workers=3"], {})
    assert (spec.target, spec.min_workers, spec.max_workers, spec.gpus_per_worker) == ("local", 3, 3, 0)
    assert spec.root == str(tmp_path / "runs")


@given(
    low=st.integers(1, 12),
    more=st.integers(0, 12),
    cpus=st.none() | st.integers(1, 64),
    mem=st.none() | st.floats(0.5, 1e4),
    text=st.text(),
    line=st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])),
)
def test_a_spec_survives_its_file(
    low: int, more: int, cpus: int | None, mem: float | None, text: str, line: str
) -> None:
    spec = JobSpec(
        id="a", name=line, config=line, config_text=text, overrides=(line,), root="/r", cwd="/", python="p",
        min_workers=low, max_workers=low + more, cpus_per_worker=cpus, mem_gb=mem,
    )  # fmt: skip
    assert specs.check(json.loads(spec.model_dump_json())) == spec


@given(name=st.text(min_size=1, max_size=80))
def test_any_name_gives_an_id_that_names_a_folder(name: str) -> None:
    from types import SimpleNamespace

    identity = specs._identity(SimpleNamespace(name=name))  # type: ignore[arg-type]
    assert specs.ID.fullmatch(identity)
    assert len(identity) <= 63


LARGE = ("train.max_pairs_per_update=12000", "train.max_tokens_per_update=192000", "model.hidden=1024")


@pytest.mark.parametrize(
    ("options", "settings", "refused"),
    [
        (["--target", "slurm", "--gpus-per-worker", "1"], ["slurm.gpu_type=t4"], "a GPU of t4 has 17,179,869,184"),
        (["--target", "slurm", "--gpus-per-worker", "1"], ["slurm.gpu_type=h200"], None),
        (["--target", "slurm", "--gpus-per-worker", "1"], ["slurm.gpu_type=fast"], None),
        (["--target", "slurm", "--gpus-per-worker", "1"], [], None),
        (["--target", "kubernetes", "--gpus-per-worker", "1"],
         ["kubernetes.claim=runs", "kubernetes.node_selector={product: NVIDIA-A100-PCIE-40GB}"], None),
        (["--target", "kubernetes", "--gpus-per-worker", "1"],
         ["kubernetes.claim=runs", "kubernetes.node_selector={product: Tesla-T4}"], "a GPU of Tesla-T4 has"),
        (["--target", "slurm", "--mem-gb", "16"], [], "a host with mem_gb=16 has"),
        (["--target", "slurm", "--mem-gb", "16", "--stages", "ingest,tokenize"], [], None),
        (["--target", "slurm", "--mem-gb", "64"], [], None),
        (["--target", "slurm"], [], None),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_at_submission(
    options: list[str], settings: list[str], refused: str | None, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["submit", config, *LARGE, *settings, *options, "--dry-run"])
    said = capsys.readouterr().err
    assert code == (2 if refused else 0), said
    if refused:
        assert refused in said and "lower train.max_tokens_per_update=192000, or raise train.accumulate=1" in said
