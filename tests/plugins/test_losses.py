"""Losses of another package: their formulas in an update, from installation to a page, and bad packages."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mxnet import nd

from pipeline.config import LossConfig, check_config, config_model
from pipeline.config.losses import LOSSES
from pipeline.config.plugins import Brought, Plugins
from pipeline.core import manifest
from pipeline.core.errors import InputError
from pipeline.orchestration.model_stages import Train
from pipeline.serving.mlflow_model import pack
from tests.plugins.conftest import (
    Run,
    folders_of,
    install,
    pairs,
    printed,
    refused,
    stopped_and_resumed,
    works_without,
    write_lines,
)
from tests.plugins.losses_package import duplet_losses

MODULE = Path(duplet_losses.__file__)
POINTS = {name: f"duplet_losses:{name.upper()}" for name in ("circle", "logistic", "expected")}
SCORES = np.array([[0.9, 0.3, -0.2, 0.8], [0.2, 0.1, 0.7, -0.6]], np.float32)


@pytest.fixture
def installed() -> Iterator[None]:
    """The package's losses in this process."""
    losses = (duplet_losses.CIRCLE, duplet_losses.LOGISTIC, duplet_losses.EXPECTED)
    LOSSES.__dict__["plugins"] = Plugins({loss.name: Brought("duplet-losses", loss) for loss in losses}, ())
    config_model.cache_clear()
    yield
    del LOSSES.__dict__["plugins"]
    config_model.cache_clear()


def config_of(loss: dict[str, Any], **sections: Any) -> Any:
    source = {"format": "jsonl", "path": "pairs.jsonl"}
    return check_config({"name": "t", "ingest": {"source": source}, "train": {"loss": loss}, **sections}, "test")


def test_formulas_take_their_own_settings(installed: None) -> None:
    loss = config_of({"kind": "circle", "circle": {"scale": 2.0}}).train.loss
    wanted = 0.0
    for row, own, barred in ((0, 0, [3]), (1, 2, [])):
        p, others = SCORES[row, own], [SCORES[row, j] for j in range(4) if j not in (own, *barred)]
        pushed = sum(np.exp(2 * (n + 0.25) * (n - 0.25)) for n in others)
        wanted += np.log(1 + pushed * np.exp(-2 * (1.25 - p) * (p - 0.75))) / 2
    excluded = nd.array([[0, 0, 0, 1], [0, 0, 0, 0]])
    value = loss.formula.value(nd, nd.array(SCORES), nd.array([0, 2]), excluded, None, loss.formula_options)
    assert value.asscalar() == pytest.approx(wanted, rel=1e-5)
    assert (loss.drawn, loss.outputs, loss.graded, loss.grade_link) == (0, 0, False, "")


def test_what_a_loss_says_of_itself_shapes_the_network_and_the_negatives(installed: None) -> None:
    assert config_of({"kind": "logistic"}).train.loss.drawn == 2
    graded = config_of(
        {"kind": "expected", "grades": 3}, evaluate={"kinds": ["graded"]}, model={"head": "cosine"}
    ).train.loss
    assert (graded.drawn, graded.outputs, graded.graded, graded.grade_link) == (0, 3, True, "softmax")
    with pytest.raises(InputError, match="kind=pointwise or expected, which alone predicts grades"):
        config_of({"kind": "circle"}, evaluate={"kinds": ["graded"]})
    with pytest.raises(InputError, match=r"train\.loss\.kind in_batch_softmax or hinge or circle or logistic"):
        config_of({"kind": "expected"}, evaluate={"kinds": ["ranking"], "candidates": "collection"})


def test_settings_of_losses_that_a_training_has_not_are_kept_nowhere(
    installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "versions", lambda *names: {})  # the package is installed in this process alone
    with_circle, without = config_of({"kind": "circle"}), config_of({})
    for kept in (lambda config: config.shown, lambda config: Train().key(config, {}).config):
        assert kept(with_circle)["train"]["loss"]["circle"] == {"margin": 0.25, "scale": 8.0}
        assert kept(without)["train"]["loss"].keys() == LossConfig.model_fields.keys()
    assert (with_circle.packages, with_circle.data_packages) == (("duplet-losses",), ())
    assert without.packages == ()
    tags = config_of({"kind": "circle"}, task="classification")
    assert tags.packages == ()  # which has a loss of its own


def test_refusals_name_the_loss(installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"train.loss.kind='circl'.*did you mean circle\?"):
        config_of({"kind": "circl"})
    with pytest.raises(InputError, match=r"did you mean scale"):
        config_of({"kind": "circle", "circle": {"scales": 1}})
    monkeypatch.setattr(pack, "read_config", lambda _: config_of({"kind": "circle"}))
    (tmp_path / "encoder.onnx").touch()
    with pytest.raises(InputError, match=r"its loss circle comes from the package duplet-losses"):
        pack.pack(tmp_path, tmp_path / "code")


OTHER = """import pipeline.config.losses as losses
class Own(losses.{kind}):
    name, summary = "{name}", "nothing"
THING = Own()
"""
BAD = {
    "broken": ("import a_module_that_is_not_there", "broken", "ModuleNotFoundError"),
    "hinge": ("", "hinge", "has the name of one of Duplet"),
    "liar": ('name = "hinge"', "liar", "calls itself hinge, as a loss of Duplet"),
    "setting": ('name = "grades"', "setting", "not a name for a loss"),
    "property": ('name = "graded"', "property", "not a name for a loss"),
    "older": ('name = "older"\n    interface = 0', "older", "version 0 of the interface"),
    "empty": ('name = "empty"\n    value = RankingLoss.value', "empty", "has no formula"),
    "gradeless": (OTHER.format(name="gradeless", kind="GradedLoss"), "gradeless", "has no formula"),
    "neither": (OTHER.format(name="neither", kind="Loss"), "neither", "is neither a RankingLoss nor a GradedLoss"),
    "mute": ('name = "mute"\n    summary = ""', "mute", "has no summary"),
    "asking": ('name = "asking"\n    options = Asking', "asking", "scale"),
    "plain": ('name = "plain"\n    options = dict', "plain", "has options that are not a pipeline.config.Settings"),
}
CODE = """
from pipeline.config import Settings
from pipeline.config.losses import RankingLoss
class Asking(Settings):
    scale: float
class Own(RankingLoss):
    summary = "nothing"
    def value(self, nd, scores, own, excluded, negatives, options): return scores.mean()
    {body}
THING = Own()
"""


def test_packages_whose_losses_cannot_be_used_cost_a_sentence_each(
    with_site: Callable[[Path], Run], tmp_path: Path
) -> None:
    shown = refused(with_site, tmp_path, "duplet.losses", BAD, CODE)
    assert shown["train"]["loss"]["kind"] == "in_batch_softmax"


# --- from installation to a page --------------------------------------------------------------------------------------
CONFIG: dict[str, Any] = {
    "name": "circles",
    "root": "runs",
    "ingest": {"source": {"format": "jsonl", "path": "pairs.jsonl"}, "split": {"valid": 0.2, "test": 0.2}},
    "tokenize": {"min_count": 1},
    "model": {"head": "cosine", "embedding": 8, "hidden": 8, "dropout": 0.0},
    "train": {
        "loss": {"kind": "circle", "circle": {"scale": 4.0}, "grades": 3},
        "threads_per_worker": 1, "workers": 2, "max_pairs_per_update": 16, "epochs": 60, "patience_validations": None,
        "log_every_updates": 2,
        "checkpoint_every_updates": 3, "schedule": {"warmup_updates": 2}, "optimizer": {"learning_rate": 0.02},
    },
    "evaluate": {"bootstrap_samples": 20},
    "tracking": {"system_metrics": False, "max_wait_s": 0},
}  # fmt: skip


@pytest.mark.workers
@pytest.mark.timeout(600)
def test_losses_of_another_package_from_installation_to_a_page(
    with_site: Callable[[Path], Run], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    install(site, "duplet-losses", "0.4", {"duplet.losses": POINTS}, MODULE)
    rows = pairs(tmp_path)
    (tmp_path / "circles.yaml").write_text(yaml.safe_dump(CONFIG))
    run = with_site(site)

    # the schema knows their names and their settings
    schema = json.loads(printed(run, "config", "schema"))
    assert set(POINTS) <= set(schema["$defs"]["LossConfig"]["properties"]["kind"]["enum"])
    assert "Multiplies what is left to learn" in printed(run, "config", "explain", "train.loss.circle")

    # training with two workers is stopped and goes on, and ranks better than chance (1 of 24 documents)
    whole = stopped_and_resumed(run, site, tmp_path, "circles.yaml")
    assert whole["metrics"]["test/mrr@10"] > 0.3
    folders = folders_of(whole, tmp_path, "duplet-losses", "0.4")
    assert "circle" in (folders["evaluate"] / "report.html").read_text()

    # the loss over drawn negatives, and the one of grades, which predicts grades
    for loss, kinds in (("logistic", "ranking"), ("expected", "graded")):
        more = (f"train.loss.kind={loss}", f"evaluate.kinds=[{kinds}]", "train.epochs=2")
        stages = json.loads(printed(run, "run", "circles.yaml", *more, "--json").splitlines()[-1])["stages"]
    write_lines(tmp_path / "ask.jsonl", rows[:3])
    graded, said = stages["train"]["folder"], {}
    for backend in ("onnx", "mxnet"):
        printed(run, "predict", graded, "--backend", backend, "--input", "ask.jsonl", "--output", f"{backend}.jsonl")
        said[backend] = [json.loads(line) for line in (tmp_path / f"{backend}.jsonl").read_text().splitlines()]
        assert [len(row["probabilities"]) for row in said[backend]] == [3, 3, 3]
    for one, other in zip(said["onnx"], said["mxnet"]):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)

    # without the package its models are refused by name, and everything else works
    sentence = "is of the loss circle, which no installed package brings: install duplet-losses"
    works_without(with_site(tmp_path / "nothing"), folders, sentence)
