"""Opening and encoding: both backends alike, order kept, long, empty and unknown texts, damaged folders."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import __version__
from pipeline.cli import main
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError
from pipeline.serving import fetching, model_folder
from pipeline.serving.loading import open_encoder
from pipeline.serving.predict import scoring, text_encoder
from pipeline.serving.predict.scoring import Encoded
from pipeline.serving.predict.text_encoder import TextEncoder
from tests.serving.conftest import write_trained
from tests.serving.networks import config_of

Trained = Callable[..., Path]
TEXTS = ["b c", "", "a " * 300, "日本 zzz", "d e f g h", "b c"]


@pytest.mark.parametrize(("head", "pooling"), [("cosine", "max"), ("cosine", "max_mean"), ("late_interaction", "max")])
def test_both_backends_agree(trained: Trained, head: str, pooling: str) -> None:
    folder = trained(head=head, pooling=pooling)
    encoders = [open_encoder(folder, backend, threads=1) for backend in ("onnx", "mxnet")]  # type: ignore[arg-type]
    for side in ("query", "document"):
        onnx, mxnet = (encoder.encode(side, TEXTS) for encoder in encoders)
        np.testing.assert_allclose(onnx.vectors, mxnet.vectors, atol=1e-5)
        if head == "late_interaction":
            assert onnx.offsets is not None and onnx.weights is not None and mxnet.weights is not None
            np.testing.assert_array_equal(np.diff(onnx.offsets), [2, 1, 12 if side == "query" else 20, 3, 5, 2])
            np.testing.assert_allclose(onnx.weights, mxnet.weights, atol=1e-5)
        assert all(encoder.encode(side, []).vectors.shape == (0, onnx.vectors.shape[1]) for encoder in encoders)
    scores = [encoder.score(TEXTS, TEXTS[::-1]) for encoder in encoders]
    np.testing.assert_allclose(*scores, atol=1e-5)


@pytest.mark.parametrize("head", ("dot", "late_interaction"))
def test_score_all_has_the_pairs_on_its_diagonal(trained: Trained, head: str) -> None:
    encoder = open_encoder(trained(head=head), threads=1)
    query, document = encoder.encode("query", TEXTS), encoder.encode("document", TEXTS[::-1])
    everything = encoder.score_all(query, document)
    assert everything.shape == (6, 6)
    np.testing.assert_allclose(np.diag(everything), encoder.score(TEXTS, TEXTS[::-1]), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module", params=("late_interaction", "dot"))
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = write_trained(tmp_path_factory.mktemp("encoder") / "model", config_of(head=request.param))
    return open_encoder(folder, threads=1)


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text(alphabet=st.sampled_from("ab c日\n\u200b"), max_size=40), max_size=12),
    batch=st.integers(1, 30),
)
def test_batches_keep_order_and_change_nothing(encoder: TextEncoder, texts: list[str], batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_encoder, "TOKENS_PER_BATCH", batch)
        patch.setattr(text_encoder, "TEXTS_PER_WINDOW", 5)
        found = encoder.encode("document", texts)
    assert found.texts == len(texts)
    for i, text in enumerate(texts):
        alone, mine = encoder.encode("document", [text]), found.slice(i, i + 1)
        np.testing.assert_allclose(mine.vectors, alone.vectors, atol=1e-5)
        if encoder.by_token:
            assert len(alone.vectors) == max(1, len(encoder.tokens("document", text)))


def test_take_repeats_and_reorders() -> None:
    encoded = Encoded(np.arange(12).reshape(6, 2), np.arange(6), np.array([0, 1, 4, 6]))
    taken = encoded.take(np.array([2, 0, 2]))
    assert taken.offsets is not None and taken.weights is not None
    assert taken.offsets.tolist() == [0, 2, 3, 5]
    assert taken.weights.tolist() == [4, 5, 0, 4, 5]
    assert taken.vectors[:, 0].tolist() == [8, 10, 0, 8, 10]


def test_pairs_are_padded_a_bounded_number_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bound, width, held = 20_000, 4, []
    monkeypatch.setattr(scoring, "COMPARED_PER_CHUNK", bound)
    rng = np.random.default_rng(3)
    sides = []
    for longest in (20, 90):
        lengths = rng.integers(1, longest, 300)
        tokens = rng.normal(size=(lengths.sum(), width)).astype(np.float32)
        sides.append(Encoded(tokens, np.ones(len(tokens), np.float32), np.concatenate([[0], np.cumsum(lengths)])))

    def formula(query: Any, document: Any) -> np.ndarray:
        similar = query.vectors @ document.vectors.transpose(0, 2, 1)
        held.append(similar.size + query.vectors.size + document.vectors.size)
        return np.asarray(similar.sum(axis=(1, 2)))

    scores = scoring.by_chunks(formula, *sides)
    sums = [np.add.reduceat(side.vectors, side.offsets[:-1], axis=0) for side in sides]
    np.testing.assert_allclose(scores, (sums[0] * sums[1]).sum(axis=1), rtol=1e-3, atol=1e-3)
    assert max(held) <= bound and len(held) < 150


def test_words_the_vocabulary_lacks_and_very_long_texts_are_scored(trained: Trained) -> None:
    encoder = open_encoder(trained(), threads=1)
    scores = encoder.score(["zzz yyy", "a " * 100_000, ""], ["b", "b", "b"])
    assert np.isfinite(scores).all()
    assert len(encoder.tokens("query", "a " * 100_000)) == 12
    unknown = encoder.encode("query", ["zzz", "yyy", ""]).vectors
    np.testing.assert_allclose(unknown[0], unknown[1], atol=1e-6)
    np.testing.assert_allclose(unknown[0], unknown[2], atol=1e-6)


def test_a_side_that_is_none_is_named(trained: Trained) -> None:
    with pytest.raises(InputError, match="title"):
        open_encoder(trained(), threads=1).encode("title", ["a"])


def test_grades_need_a_pointwise_model(trained: Trained) -> None:
    with pytest.raises(InputError, match="pointwise"):
        open_encoder(trained(), threads=1).grades(["a"], ["b"])
    graded = open_encoder(trained({"kind": "pointwise", "grades": 3}, seed=1), threads=1)
    chances = graded.grades(["a", "b c"], ["b", "d"])
    assert chances.shape == (2, 3)
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(graded.score(["a", "b c"], ["b", "d"]), chances @ np.arange(3), atol=1e-5)


def test_the_cache_is_whole_and_follows_the_parameters(trained: Trained) -> None:
    folder = trained()
    before = open_encoder(folder, threads=1).encode("query", ["a b"]).vectors
    cache = folder / "onnx"
    assert manifest.load(cache, "export", "x").extra == {}
    (cache / "encoder.onnx").write_bytes(b"cut")  # a damaged cache is made again
    np.testing.assert_array_equal(open_encoder(folder, threads=1).encode("query", ["a b"]).vectors, before)
    arrays = model_folder.read_parameters(folder)
    np.savez(folder / "parameters.npz", **{name: array * 0.5 for name, array in arrays.items()})
    assert np.abs(open_encoder(folder, threads=1).encode("query", ["a b"]).vectors - before).max() > 1e-3


def test_a_folder_that_cannot_be_written_has_its_cache_elsewhere(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)  # root may write everywhere
    open_encoder(folder, threads=1)
    assert list((tmp_path / "cache").glob("duplet/*/encoder.onnx"))
    assert not (folder / "onnx").exists()


def test_onnx_needs_no_mxnet(trained: Trained) -> None:
    code = f"""
import sys
from pathlib import Path
from pipeline.serving.loading import open_encoder
print(open_encoder(Path({str(trained())!r})).score(["a"], ["b"]))
assert not {{"mxnet", "gluonnlp", "horovod", "mlflow"}} & set(sys.modules), sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- folders that are not whole ---------------------------------------------------------------------------------------
def _cut(folder: Path) -> None:
    path = folder / "parameters.npz"
    path.write_bytes(path.read_bytes()[:-20])


DAMAGE = {
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "not a finished train folder"),
    "cut parameters": (_cut, "parameters.npz has"),
    "changed vocabulary": (
        lambda folder: (folder / "vocabulary.json").write_text(
            (folder / "vocabulary.json").read_text().replace("sort", "tort", 1)
        ),
        "vocabulary.json has changed",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "manifest of another stage": (
        lambda folder: (folder / "manifest.json").write_text(
            json.dumps(json.loads((folder / "manifest.json").read_text()) | {"stage": "ingest"})
        ),
        "is of stage ingest",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_model_that_is_not_whole_is_refused(trained: Trained, tmp_path: Path, damage: str) -> None:
    change, sentence = DAMAGE[damage]
    folder = trained()
    assert fetching.fetch(str(folder), tmp_path, None) == folder
    change(folder)  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match=sentence):
        fetching.fetch(str(folder), tmp_path, None)


@pytest.mark.parametrize("name", ("nonsense", "0" * 32, "models:/none@champion", "models:/none", "models:/a/b/c"))
def test_unknown_models_are_one_sentence_and_make_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        fetching.fetch(name, tmp_path, None)
    assert name in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_pickles_are_never_loaded(trained: Trained, tmp_path: Path) -> None:
    folder = trained()
    np.savez(folder / "parameters.npz", embedding=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"parameters\.npz"):
        model_folder.read_parameters(folder)


def test_a_graph_that_is_none_is_refused(trained: Trained) -> None:
    folder = trained()
    (folder / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"encoder.onnx is not an ONNX graph"):
        open_encoder(folder, threads=1)


def rewrite(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Changes a folder's configuration and manifest as if another version had written them."""
    config, listed = (json.loads((folder / name).read_text()) for name in ("config.json", "manifest.json"))
    change(config, listed)
    (folder / "config.json").write_text(json.dumps(config))
    listed["files"]["config.json"] = {
        "bytes": (folder / "config.json").stat().st_size,
        "sha256": atomic_files.sha256(folder / "config.json"),
    }
    (folder / "manifest.json").write_text(json.dumps(listed))


def test_every_folder_says_which_version_wrote_it(trained: Trained) -> None:
    assert json.loads((trained() / "manifest.json").read_text())["versions"]["duplet"] == __version__
    assert importlib.metadata.version("duplet") == __version__


def test_settings_of_another_version_are_one_sentence(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained()

    def change(config: dict[str, Any], listed: dict[str, Any]) -> None:
        config["model"]["zoneout"] = 0.1
        listed |= {"git_commit": "0123456789abcdef", "created": "2031-02-03T04:05:06Z"}
        listed["versions"]["duplet"] = "7.1.0"

    rewrite(folder, change)
    for verb in (["export"], ["predict", "--input", "-", "--output", "-"]):
        assert main.main([verb[0], str(folder), *verb[1:], "--root", str(tmp_path)]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert "was written by Duplet 7.1.0 at commit 0123456789ab on 2031-02-03" in said
        assert "model.zoneout=0.1" in said
        assert said.endswith("train the model again, or use the version that wrote it")

    rewrite(folder, lambda config, listed: listed["versions"].pop("duplet"))
    with pytest.raises(InputError, match=r"Duplet before 0\.1\.0 at commit 0123456789ab"):
        open_encoder(folder)
