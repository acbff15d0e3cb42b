"""What tests share: small sources, and running the command as a person would."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

os.environ.setdefault("OMP_NUM_THREADS", "1")
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")
# Runs go under each test's own root, whatever the person's environment says.
os.environ.pop("MLFLOW_TRACKING_URI", None)

# Files that take longest are begun first, so that none of them is left running alone at the end.
LONGEST = (
    "flow/test_readme.py", "jobs/test_supervise.py", "jobs/test_two_hosts.py", "flow/test_embedded_sources.py",
    "tracking/test_outages.py", "workers/test_torture.py", "plugins/test_other_packages.py", "tasks/test_every_task.py",
    "flow/test_run.py", "flow/test_engines.py", "tasks/test_learns_sentences.py", "tasks/test_captioning.py",
    "tasks/test_not_finite.py", "workers/test_resume.py", "updates/test_devices.py", "updates/test_tiny.py",
    "tracking/test_secrets.py", "jobs/test_schedule.py", "flow/test_sweep.py", "workers/test_global_batch.py",
    "training/test_full_disk.py", "tasks/test_visual_question.py", "tasks/test_translation.py", "tasks/test_served.py",
    "tasks/test_language_model.py", "reporting/test_walk.py", "models/test_kernel.py", "tasks/test_teaching.py",
    "serving/test_predict.py", "serving/test_pyfunc.py", "flow/test_learns.py", "workers/test_ranks.py",
    "null_gpu/test_whole.py", "null_gpu/test_gpu_check.py", "null_gpu/test_paths.py",
    "jobs/test_retention.py", "flow/test_seeds.py", "search/test_train_on.py", "tasks/test_learns_words.py",
)  # fmt: skip

# Folders whose tests `.ci/run` counts the lines of. Counting makes our own Python a third slower, so tests that train
# for long, watch processes or count what MXNet does stay out of it; `make coverage` counts all.
COUNTED = ("config", "evaluation", "ingest", "tokenization")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """See LONGEST and COUNTED; tests of jobs, tracking and reports look at MLflow. Pytest's own hook."""
    for item in items:
        if item.path.parent.name not in COUNTED:
            item.add_marker("no_cover")
        if item.path.parent.name in ("jobs", "tracking", "reporting"):
            item.add_marker("mlflow")
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def reversed_pairs(count: int, seed: int = 0, letters: int = 12) -> list[dict[str, Any]]:
    """Queries of random words whose document is the same words in reverse order; others have other words or orders.

    Half of the documents share their words with another one in another order, so a bag of words cannot tell them apart.
    """
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(letters)]
    rows = []
    for i in range(count):
        chosen = rng.sample(words, rng.randint(4, 7))
        rows.append({"qid": f"q{i}", "query": " ".join(chosen), "document": " ".join(reversed(chosen))})
    return rows


def small_configuration(folder: Path, **sections: Any) -> dict[str, Any]:
    """A configuration over a few hundred small pairs under a folder; arguments replace whole sections' keys."""
    source = folder / "pairs.jsonl"
    if not source.exists():
        source.write_text("".join(json.dumps(row) + "\n" for row in reversed_pairs(240)))
    base: dict[str, Any] = {
        "name": "small",
        "root": str(folder / "runs"),
        "ingest": {"source": {"format": "jsonl", "path": str(source), "columns": {"query_id": "qid"}}},
        "tokenize": {"max_tokens": {"query": 8, "document": 8}, "min_count": 1},
        "model": {"embedding": 12, "hidden": 10, "layers": 2, "dropout": 0.2, "head": "cosine"},
        "train": {
            "threads_per_worker": 1, "max_pairs_per_update": 16, "epochs": 2,
            "log_every_updates": 2, "checkpoint_every_updates": 3,
            "schedule": {"warmup_updates": 2},
        },
        "evaluate": {"bootstrap_samples": 20},
        "tracking": {"system_metrics": False},
    }  # fmt: skip
    for name, values in sections.items():
        base[name] = {**base[name], **values} if isinstance(values, dict) else values
    return base


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same drawn parameters in each test, whatever ran before it: of some draws nothing can be learnt."""
    random.seed(1)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(1)
    if "mxnet" in sys.modules:
        sys.modules["mxnet"].random.seed(1)


@pytest.fixture
def small_config(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """`small_configuration` under tmp_path; MLflow, half of a small run's work, gets it only in tests marked mlflow and
    where the test has settings of tracking."""

    def configuration(**sections: Any) -> dict[str, Any]:
        if "tracking" not in sections and not request.node.get_closest_marker("mlflow"):
            sections["tracking"] = {"send": "later"}
        return small_configuration(tmp_path, **sections)

    return configuration


@pytest.fixture(params=["own", "mxnet"])
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both kinds of recurrent layers in turn; our own where they can be had."""
    from pipeline.models.kernel import operator  # brings MXNet

    operator.use(request.param)
    yield request.param
    operator.use("auto")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once: that takes seconds."""
    from pipeline import tracking

    root = tmp_path_factory.mktemp("empty")
    # by its address: MLflow leaves that of an earlier test of this process in the environment
    tracking.connect(tracking.address(f"sqlite:///{root / 'mlflow.db'}", root))[1].search_experiments()
    return root / "mlflow.db"


@pytest.fixture
def duplet(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `duplet VERB CONFIG …` in a process of its own, as a person would."""

    def run(
        verb: str, config: dict[str, Any] | Path, *arguments: str, **kwargs: Any
    ) -> subprocess.CompletedProcess[str]:
        command = duplet_command(tmp_path, verb, config, *arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=280, **kwargs)

    return run


def duplet_command(folder: Path, verb: str, config: dict[str, Any] | Path, *arguments: str) -> list[str]:
    """The command line, with a configuration given as a dictionary written to a file in `folder`."""
    if isinstance(config, dict):
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        config = path
    return [sys.executable, "-P", "-m", "pipeline.cli", verb, str(config), *arguments]


def last_json(finished: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The object in the last line of stdout of a command run with --json."""
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found
