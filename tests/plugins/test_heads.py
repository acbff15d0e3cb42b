"""Heads of another package: one formula in MXNet, NumPy and ONNX; from installation to an index; and bad packages."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from mxnet import autograd, nd

from pipeline.config import ModelConfig, config_model
from pipeline.config.heads import HEADS, SETTINGS
from pipeline.config.plugins import Brought, Plugins
from pipeline.config.poolings import POOLINGS
from pipeline.config.schema import problems
from pipeline.core import manifest
from pipeline.core.errors import InputError
from pipeline.models.parameters import parameters_of
from pipeline.orchestration.model_stages import Train
from pipeline.search.open_index import stamp_of
from pipeline.serving.mlflow_model import pack
from pipeline.serving.onnx import matcher
from pipeline.serving.predict.scoring import Encoded, Scorer
from tests.plugins.conftest import (
    DUPLET,
    Run,
    folders_of,
    install,
    names_of,
    pairs,
    printed,
    refused,
    stopped_and_resumed,
    works_without,
    write_lines,
)
from tests.plugins.heads_package import duplet_heads
from tests.serving.networks import config_of, random_network, random_texts, represent

MODULE = Path(duplet_heads.__file__)
POINTS = {"gauss": "duplet_heads:GAUSS", "soft_late": "duplet_heads:SOFT_LATE", "bent": "duplet_heads:BENT",
          "unsearchable": "duplet_heads:UNSEARCHABLE"}  # fmt: skip


@pytest.fixture
def installed() -> Iterator[None]:
    """The package's heads in this process."""
    heads = (duplet_heads.GAUSS, duplet_heads.SOFT_LATE, duplet_heads.BENT, duplet_heads.UNSEARCHABLE)
    HEADS.__dict__["plugins"] = Plugins({head.name: Brought("duplet-heads", head) for head in heads}, ())
    POOLINGS.__dict__["plugins"] = Plugins({"quadratic": Brought("duplet-heads", duplet_heads.QUADRATIC)}, ())
    config_model.cache_clear()
    yield
    del HEADS.__dict__["plugins"], POOLINGS.__dict__["plugins"]
    config_model.cache_clear()


def formula(head: str, scale: float, arrays: dict[str, np.ndarray], q: Encoded, d: Encoded) -> np.ndarray:
    """(N,) scores by loops over pairs."""
    found = []
    for i in range(q.texts):
        one, other = q.slice(i, i + 1), d.slice(i, i + 1)
        if head == "gauss":
            apart = one.vectors[0] - other.vectors[0]
            found.append(-sum(arrays["head.importance"][0] * apart**2) / scale)
            continue
        if head == "bent":
            joined = np.concatenate([one.vectors[0], other.vectors[0]])
            found.append(np.tanh(arrays["head.layer.weight"] @ joined).sum())
            continue
        assert one.weights is not None
        total = 0.0
        for vector, weight in zip(one.vectors, one.weights):
            similar = other.vectors @ vector
            total += weight * (np.exp(8 * similar) @ similar) / np.exp(8 * similar).sum()
        found.append(total / one.weights.sum())
    return np.array(found)


@pytest.mark.parametrize("head", ["gauss", "soft_late", "bent"])
@pytest.mark.parametrize("loss", [None, {"kind": "pointwise", "grades": 3}])
def test_one_formula_scores_alike_in_training_prediction_and_onnx(
    installed: None, head: str, loss: dict[str, Any] | None
) -> None:
    more = {"gauss": {"scale": 2.5}} if head == "gauss" else {}
    config = config_of(loss, head=head, **more)
    network, arrays = random_network(config, seed=3)
    rng = np.random.default_rng(4)
    sides = {"query": random_texts(rng, 6, 5, 5), "document": random_texts(rng, 6, 9, 12)}
    query, document = (represent(network, side, *texts) for side, texts in sides.items())
    q, d = (_encoded(r, texts[1], head) for r, texts in zip((query, document), sides.values()))
    wanted = formula(head, 2.5, arrays, q, d)
    scorer = Scorer(config, arrays)
    feeds = {f"{s}_{name}": array for s, texts in sides.items() for name, array in zip(("ids", "lengths"), texts)}
    session = onnxruntime.InferenceSession(
        matcher.matcher(config, arrays).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds)))
    assert np.ptp(wanted) > 0.01
    if loss is None:
        every = network.score_all(query, document).asnumpy()
        np.testing.assert_allclose(network.score_pairs(query, document).asnumpy(), wanted, atol=1e-5)
        np.testing.assert_allclose(np.diag(every), wanted, atol=1e-5)
        np.testing.assert_allclose(scorer.score_all(q, d), every, atol=1e-5)
        np.testing.assert_allclose(scorer.score_pairs(q, d), wanted, atol=1e-5)
        np.testing.assert_allclose(found["score"], wanted, atol=1e-4)
    else:
        logits = wanted[:, None] @ arrays["output.weight"].T + arrays["output.bias"]
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(network.pair_outputs(query, document).asnumpy(), logits, atol=1e-4)
        np.testing.assert_allclose(scorer.grades(q, d), chances, atol=1e-4)
        np.testing.assert_allclose(found["probabilities"], chances, atol=1e-4)


def _encoded(made: Any, lengths: np.ndarray, head: str) -> Encoded:
    vectors, weights = (array.asnumpy() for array in made)
    if head != "soft_late":
        return Encoded(vectors)
    there = np.arange(vectors.shape[1]) < lengths[:, None]
    return Encoded(vectors[there], weights[there], np.concatenate([[0], np.cumsum(lengths)]))


def test_a_pooling_of_another_package_pools_alike_in_training_and_onnx(installed: None) -> None:
    config = config_of(head="dot", pooling="quadratic")
    network, arrays = random_network(config, seed=2)
    ids, lengths = random_texts(np.random.default_rng(5), 5, 7, 9)
    found = represent(network, "document", ids, lengths).vectors.asnumpy()
    table = network.embedding.data()
    wanted = []
    for text, length in zip(ids, lengths.tolist()):  # by the formula, from the states of the text alone
        one = nd.array(text[:length, None], dtype="int32")
        embedded = nd.Embedding(one, table, input_dim=table.shape[0], output_dim=table.shape[1])
        states = network.query_tower.encoder(embedded, nd.zeros((length, 1, 1)))[:, 0].asnumpy()
        name = "document_tower.pooling.wide"  # shared: each array is kept by its first name
        wide = states @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]
        wanted.append(np.sqrt((wide**2).mean(axis=0)))
    np.testing.assert_allclose(found, np.array(wanted), atol=1e-5)
    assert found.shape == (5, config.model.vector_width) == (5, 4 * config.model.hidden)
    session = onnxruntime.InferenceSession(
        matcher.encoder(config, arrays, "document").SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(session.run(None, {"ids": ids, "lengths": lengths})[0], found, atol=1e-4)
    assert config.model_packages == {"pooling quadratic": "duplet-heads"}
    with pytest.raises(InputError, match=r"model.pooling='quadratc'.*did you mean quadratic\?"):
        config_of(pooling="quadratc")


def test_what_a_head_learns_gets_gradients(installed: None) -> None:
    config = config_of(head="gauss")
    network, _ = random_network(config)
    texts = random_texts(np.random.default_rng(1), 4, 6, 6)
    with autograd.record():
        query, document = (represent(network, side, *texts) for side in ("query", "document"))
        loss = network.score_all(query, document).sum()
    loss.backward()
    assert np.abs(parameters_of(network)["head.importance"].grad().asnumpy()).min() > 0
    assert [p.name for p in network.scoring_parameters] == [parameters_of(network)["head.importance"].name]


def test_settings_of_heads_that_a_model_has_not_are_kept_nowhere(
    installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "versions", lambda *names: {})  # the package is installed in this process alone
    with_gauss, without = config_of(head="gauss"), config_of(head="cosine")
    assert with_gauss.shown["model"]["gauss"] == {"scale": 1.0}
    assert not {"gauss", "soft_late", "unsearchable"} & without.shown["model"].keys()
    assert (with_gauss.packages, with_gauss.data_packages) == (("duplet-heads",), ())
    assert without.packages == ()
    kept = [Train().key(config, {}).config["model"] for config in (with_gauss, without)]
    assert (kept[0]["gauss"], "gauss" in kept[1]) == ({"scale": 1.0}, False)


def test_refusals_name_the_head(installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"model.head='gaus'.*did you mean gauss\?"):
        config_of(head="gaus")

    class Encoder:
        config = config_of(head="unsearchable")

    with pytest.raises(InputError, match=r"my_run has the head unsearchable, which is not for an index: .*my_run"):
        stamp_of(tmp_path, "my_run", Encoder())  # type: ignore[arg-type]
    monkeypatch.setattr(pack, "read_config", lambda _: Encoder.config)
    (tmp_path / "encoder.onnx").touch()
    with pytest.raises(InputError, match=r"its head unsearchable comes from the package duplet-heads"):
        pack.pack(tmp_path, tmp_path / "code")


def test_no_head_may_be_called_as_a_setting() -> None:
    assert set(SETTINGS) == names_of(ModelConfig)
    assert problems() == ()


BAD = {
    "broken": ("import a_module_that_is_not_there", "broken", "ModuleNotFoundError"),
    "cosine": ("", "cosine", "has the name of one of Duplet"),
    "liar": ('name = "dot"', "liar", "calls itself dot, as a head of Duplet"),
    "setting": ('name = "hidden"', "setting", "not a name for a head"),
    "method": ('name = "json"', "method", "not a name for a head"),
    "older": ('name = "older"\n    interface = 0', "older", "version 0 of the interface"),
    "searched": ('name = "searched"\n    index = "vectors"', "searched", "has the index vectors, but is not a DotHead"),
    "nameless": ("pass", "nameless", "AttributeError"),
    "asking": ('name = "asking"\n    options = Asking', "asking", "scale"),
}
CODE = """
from pipeline.config import Settings
from pipeline.config.head import Head
class Asking(Settings):
    scale: float
class Own(Head):
    summary = "nothing"
    def features(self, m, query, document): return query.vectors
    {body}
THING = Own()
"""


def test_packages_whose_heads_cannot_be_used_cost_a_sentence_each(
    with_site: Callable[[Path], Run], tmp_path: Path
) -> None:
    shown = refused(with_site, tmp_path, "duplet.heads", BAD, CODE)
    assert shown["model"]["head"] == "late_interaction"


# --- from installation to an index ------------------------------------------------------------------------------------
CONFIG: dict[str, Any] = {
    "name": "distance",
    "root": "runs",
    "ingest": {"source": {"format": "jsonl", "path": "pairs.jsonl"}, "split": {"valid": 0.2, "test": 0.2}},
    "tokenize": {"min_count": 1},
    "model": {"head": "gauss", "embedding": 8, "hidden": 8, "dropout": 0.0, "gauss": {"scale": 3.0}},
    "train": {
        "threads_per_worker": 1, "max_pairs_per_update": 16, "epochs": 60, "patience_validations": None,
        "log_every_updates": 2,
        "checkpoint_every_updates": 3, "schedule": {"warmup_updates": 2}, "optimizer": {"learning_rate": 0.004},
    },
    "evaluate": {"bootstrap_samples": 20},
    "tracking": {"system_metrics": False, "max_wait_s": 0},
}  # fmt: skip
SEARCH = """
import json, sys
from pathlib import Path
from pipeline.search.open_index import open_searcher
searcher = open_searcher(Path("index"), None, Path("runs"), None)
results = searcher.search(sys.argv[1], 3, "model").results
print(json.dumps({result.document.id: result.score for result in results}))
"""


@pytest.mark.workers
@pytest.mark.timeout(600)
def test_a_head_of_another_package_from_installation_to_an_index(
    with_site: Callable[[Path], Run], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    install(site, "duplet-heads", "0.2", {"duplet.heads": POINTS}, MODULE)
    rows = pairs(tmp_path)
    (tmp_path / "distance.yaml").write_text(yaml.safe_dump(CONFIG))
    run = with_site(site)

    # the schema knows its name and its settings
    schema = json.loads(printed(run, "config", "schema"))
    assert "gauss" in schema["$defs"]["ModelConfig"]["properties"]["head"]["enum"]
    assert "Divides the squared distance" in printed(run, "config", "explain", "model.gauss")
    assert "did you mean scale" in run(*DUPLET, "config", "distance.yaml", "model.gauss.scales=1").stderr

    # training is stopped and goes on
    whole = stopped_and_resumed(run, site, tmp_path, "distance.yaml")

    # train's folder needs the package, ingest's does not; the page has the head's own section
    folders = folders_of(whole, tmp_path, "duplet-heads", "0.2")
    assert "What the distance gave" in (folders["evaluate"] / "report.html").read_text()

    # both backends and the exported graph say the same, and so does the index
    write_lines(tmp_path / "ask.jsonl", rows[:3])
    scores = {}
    for backend in ("onnx", "mxnet"):
        printed(
            run,
            "predict",
            "distance.yaml",
            "--backend",
            backend,
            "--input",
            "ask.jsonl",
            "--output",
            f"{backend}.jsonl",
        )
        lines = (tmp_path / f"{backend}.jsonl").read_text().splitlines()
        scores[backend] = [json.loads(line)["score"] for line in lines]
    assert scores["onnx"] == pytest.approx(scores["mxnet"], abs=1e-4)
    assert max(scores["onnx"]) < 0
    printed(run, "export", "distance.yaml", "--output", "exported")
    onnxruntime.InferenceSession(str(tmp_path / "exported" / "matcher.onnx"))
    documents = [{"id": str(i), "text": row["document"]} for i, row in enumerate(rows[:3])]
    write_lines(tmp_path / "documents.jsonl", documents)
    printed(run, "index", str(folders["train"]), "--documents", "documents.jsonl", "--output", "index")
    assert json.loads(printed(run, "search", "index", rows[0]["query"], "--json").splitlines()[0])["results"]
    found = json.loads(run("-c", SEARCH, rows[0]["query"]).stdout.splitlines()[-1])
    assert found["0"] == pytest.approx(scores["onnx"][0], abs=1e-3)

    # without the package its model is refused by name, and everything else works
    sentence = "is of the head gauss, which no installed package brings: install duplet-heads"
    works_without(with_site(tmp_path / "nothing"), folders, sentence)
