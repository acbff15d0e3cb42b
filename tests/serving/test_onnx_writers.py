"""The graphs of networks that write texts or answer about images against those networks on MXNet."""

import itertools
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest
from mxnet import nd

from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.serving.export import onnx_export
from pipeline.serving.loading import open_predictor
from pipeline.serving.onnx import graph_cache, pictures
from pipeline.serving.onnx.written import DECODER_STEP, SOURCE_ENCODER, Writer
from pipeline.tokenization import shards
from tests.serving.task_models import WORDS, config_of, data_url, rows_of, write_task
from tests.serving.test_onnx_matcher import CELLS, POOLINGS, TOLERANCE
from tests.serving.test_onnx_tasks import DEEP, TEXTS, check

BORDER = len(WORDS) + 2
VECTOR, GRID = (5,), (6, 5)
TASKS = ("translation", "captioning", "visual_question")


def change(folder: Path, token: int, by: float) -> None:
    """Makes a token likelier at every step, or less so."""
    arrays = dict(np.load(folder / "parameters.npz"))
    arrays["words.bias"][token] += by
    np.savez(folder / "parameters.npz", **arrays)


def check_texts(folder: Path, rows: list[dict[str, Any]], field: str) -> None:
    """Both backends' texts and scores are the same; the border is made less likely, so that none is empty."""
    change(folder, BORDER, -3)
    check(folder, rows)
    assert all(row[field] for row in open_predictor(folder, threads=1).predict(rows))


# --- the same texts ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("attention", ("scaled", "luong", "bahdanau"))
def test_translator_equals_mxnet(cell: str, attention: str, tmp_path: Path) -> None:
    deep = DEEP | {"directions": 1} if attention == "bahdanau" else {}
    write_task(tmp_path / "m", config_of("translation", {"cell": cell, **deep}, translation={"attention": attention}))
    check_texts(tmp_path / "m", rows_of("translation", TEXTS), "target")


@pytest.mark.parametrize("copied", (True, False))
def test_unknown_words_are_copied_on_either_backend(copied: bool, tmp_path: Path) -> None:
    """A network that writes the unknown word and little else."""
    config = config_of("translation", translation={"copy_unknown": copied})
    write_task(tmp_path / "m", config)
    change(tmp_path / "m", 1, 6)
    change(tmp_path / "m", BORDER, -3)
    rows = [{"german": text} for text in ("Zugspitze a b", "list Rhein", "a Donau Elbe", "b b")]
    check(tmp_path / "m", rows)
    said = " ".join(row["target"] for row in open_predictor(tmp_path / "m", "onnx", threads=1).predict(rows))
    assert any(word in said for word in ("zugspitze", "rhein", "donau", "elbe")) == copied, said


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("inject", ("first", "every", "attention"))
@pytest.mark.parametrize("features", ("trained", "given"))
def test_captioner_equals_mxnet(cell: str, inject: str, features: str, tmp_path: Path) -> None:
    image = (16, 16, 3) if features == "trained" else GRID if inject == "attention" else VECTOR
    model = {"cell": cell, "directions": 1}
    options = {"inject": inject, "features": features, "beam": 1 if cell == "gru" else 3}
    write_task(tmp_path / "m", config_of("captioning", model, captioning=options), image)
    check_texts(tmp_path / "m", rows_of("captioning", TEXTS, image), "caption")


@pytest.mark.parametrize("fusion", ("concat", "product", "attention"))
@pytest.mark.parametrize("features", ("trained", "given"))
def test_answerer_equals_mxnet(fusion: str, features: str, tmp_path: Path) -> None:
    image = (16, 16, 3) if features == "trained" else GRID if fusion == "attention" else VECTOR
    kinds = itertools.cycle(zip(CELLS, POOLINGS[1:]))
    cell, pooling = next(itertools.islice(kinds, ("concat", "product", "attention").index(fusion), None))
    options = {"fusion": fusion, "features": features}
    write_task(
        tmp_path / "m", config_of("visual_question", {"cell": cell, "pooling": pooling}, visual_question=options), image
    )
    check(tmp_path / "m", rows_of("visual_question", TEXTS, image))


@pytest.mark.parametrize(("blocks", "net", "features"), [(0, "light", "trained"), (2, "light", "trained"),
                                                         (1, "deep", "trained"), (2, "deep", "given")])  # fmt: skip
def test_steered_answerer_equals_mxnet(blocks: int, net: str, features: str, tmp_path: Path) -> None:
    image = (24, 24, 3) if features == "trained" else (9, 5)
    options = {"blocks": blocks, "net": net, "features": features}
    write_task(tmp_path / "m", config_of("visual_question", visual_question=options), image)
    check(tmp_path / "m", rows_of("visual_question", TEXTS, image))


@pytest.mark.parametrize("backend", ("onnx", "mxnet"))
def test_a_captioner_trained_with_undivided_scores_is_refused(backend: str, tmp_path: Path) -> None:
    """Its attention's parameters fit in shape; divided, they would write other texts and nobody would see it."""
    write_task(tmp_path / "m", config_of("captioning", captioning={"inject": "attention"}))
    arrays = dict(np.load(tmp_path / "m" / "parameters.npz"))
    arrays["decoder.attention.keys.weight"] = arrays.pop("decoder.attention.places.weight")
    np.savez(tmp_path / "m" / "parameters.npz", **arrays)
    with pytest.raises(InputError, match=r"attention\.places"):
        open_predictor(tmp_path / "m", backend, threads=1)


# --- the numbers behind them ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("attention", ("scaled", "luong", "bahdanau"))
def test_attention_and_nats_are_those_of_teacher_forcing(attention: str, tmp_path: Path) -> None:
    """Step by step against all steps at once; a longer source beside it changes nothing."""
    config = config_of("translation", translation={"attention": attention})
    _, network = write_task(tmp_path / "m", config)
    writer = Writer(graph_cache.ensure_graphs(tmp_path / "m"), SOURCE_ENCODER, BORDER)
    sources = [np.array(ids, np.int32) for ids in ([2, 3, 4], [5], [6, 7, 8, 2, 3])]
    targets = [np.array(ids, np.int32) for ids in ([4, 4, 5, 6], [2, 3], [8])]
    ids, lengths = shards.padded(sources)
    losses = writer.nats({"ids": ids, "lengths": lengths}, *shards.padded(targets))
    for source, target, row in zip(sources, targets, losses):
        memory, state = network.encode(nd.array(source[:, None], dtype="int32"), nd.array([len(source)], dtype="int32"))
        inputs = nd.array([[BORDER], *target[:, None].tolist()], dtype="int32")
        features, weights = network(inputs, state, memory)
        wanted = network.words.losses(features[:, 0], nd.array([*target, BORDER], dtype="int32")).asnumpy()
        np.testing.assert_allclose(row[: len(target) + 1], wanted, atol=TOLERANCE)
        assert not row[len(target) + 1 :].any()
        found = writer.attention({"ids": source[None], "lengths": np.array([len(source)], np.int32)}, target.tolist())
        np.testing.assert_allclose(found, weights[0].asnumpy(), atol=TOLERANCE)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=TOLERANCE)


def test_a_page_shows_where_each_word_of_a_caption_looked(tmp_path: Path) -> None:
    """What the task draws, all steps and images at once, against the steps of the exported graph, one by one."""
    task: Any
    other: Any
    task, network = write_task(tmp_path / "m", config_of("captioning", captioning={"inject": "attention"}))
    raw = np.random.default_rng(2).integers(0, 255, (3, 16, 16, 3)).astype(np.uint8)
    task.images.raw = raw  # in place of what ingest leaves
    written = [[2, 3, 4], [], [5, 6]]
    looked = task._looked(network, np.arange(3), written, mx.cpu())
    writer = Writer(graph_cache.ensure_graphs(tmp_path / "m"), "image_encoder.onnx", BORDER)
    for image, ids, weights in zip(raw, written, looked):
        assert weights.shape == (len(ids), 4)
        wanted = writer.attention({"images": image[None]}, ids)[: len(ids)]
        np.testing.assert_allclose(weights, wanted, atol=TOLERANCE)
    other, network = write_task(tmp_path / "other", config_of("captioning"))
    assert other._looked(network, np.arange(3), written, mx.cpu()) == []


@pytest.mark.parametrize("over_places", (True, False))
def test_alexnets_features_are_those_of_the_model_zoo(over_places: bool, tmp_path: Path) -> None:
    """The parameters are read without MXNet from the file that it wrote."""
    from pipeline.config import CaptioningConfig
    from pipeline.serving.onnx.graphs import Graph
    from tests.networks import alexnet
    from tests.serving.test_onnx_matcher import opened

    net, images, x = alexnet(tmp_path / "alexnet.params")
    inject: Any = "attention" if over_places else "first"
    options = CaptioningConfig(features="alexnet", weights=str(tmp_path / "alexnet.params"), inject=inject)
    graph = Graph("alexnet")
    seen = pictures.seen(graph, pictures.input_of(graph, options, (0,)), options, {})
    graph.output(seen, "seen", np.float32, ("N", "L", "W") if over_places else ("N", "D"))
    (found,) = opened(graph.model()).run(None, {"images": images})
    if over_places:
        wanted = net.features[:8](x).asnumpy().reshape(2, 256, 36).transpose(0, 2, 1)
    else:
        wanted = net.features(x).asnumpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    assert np.abs(wanted).mean() > 1e-2


@pytest.mark.parametrize("form", ["first", "oldest"])
def test_the_zoos_own_file_is_older_than_gluons_names(form: str, tmp_path: Path) -> None:
    """Its arrays have no storage and the layers' own names; the oldest files have shapes of 32 bits and no number."""
    layers = {f"conv{i}": 0 for i in range(5)} | {f"dense{i}": 0 for i in range(3)}
    arrays = {f"{layer}_{part}": np.full((2, 3), len(layer) + i, np.float32)
              for i, (layer, part) in enumerate(itertools.product(layers, ("weight", "bias")))}  # fmt: skip
    content = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        shape = struct.pack("<IIqq", 0xF993FAC8, 2, 2, 3) if form == "first" else struct.pack("<III", 2, 2, 3)
        content += shape + struct.pack("<iii", 1, 0, 0) + array.tobytes()
    content += struct.pack("<Q", len(arrays))
    content += b"".join(struct.pack("<Q", len(name)) + name.encode() for name in arrays)
    (tmp_path / "zoo.params").write_bytes(content)
    loaded = {name: array.asnumpy() for name, array in nd.load(str(tmp_path / "zoo.params")).items()}
    read = pictures.alexnet_arrays(tmp_path / "zoo.params")
    for old, new in (
        ("conv0", 0),
        ("conv1", 2),
        ("conv2", 4),
        ("conv3", 5),
        ("conv4", 6),
        ("dense0", 9),
        ("dense1", 11),
    ):
        for part in ("weight", "bias"):
            np.testing.assert_array_equal(read[f"features.{new}.{part}"], loaded[f"{old}_{part}"])


@pytest.mark.parametrize("content", (b"", b"nothing at all", b"\x12\x01" + bytes(14) + b"\xff" * 40))
def test_a_file_that_is_no_alexnet_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.params").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.params holds no parameters of the model zoo's AlexNet \([^\n]+\)$"):
        pictures.alexnet_arrays(tmp_path / "w.params")
    nd.save(str(tmp_path / "others.params"), {"features.0.weight": nd.zeros((2, 3))})
    with pytest.raises(InputError, match=r"features\.0\.bias is missing"):
        pictures.alexnet_arrays(tmp_path / "others.params")


# --- export and command line ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", TASKS)
def test_an_exported_folder_says_the_same(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`duplet predict` over the exported folder, with no backend named, against MXNet over the trained one."""
    config = config_of(task)
    write_task(tmp_path / "m", config)
    onnx_export.export(tmp_path / "m", tmp_path / "out", False, lambda _: None)
    rows = rows_of(task, TEXTS)
    bad = {"german": ""} if task == "translation" else {**rows[0], "image": str(tmp_path / "none.png")}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, bad]))
    command = ["predict", str(tmp_path / "out"), "--input", str(tmp_path / "in.jsonl")]
    assert main.main([*command, "--output", str(tmp_path / "said.jsonl")]) == 0
    assert "MXNet alone" not in capsys.readouterr().err
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    field = {"translation": "target", "captioning": "caption", "visual_question": "answer"}[task]
    assert [row[field] for row in said] == [row[field] for row in open_predictor(tmp_path / "m", "mxnet").predict(rows)]
    [aside] = (tmp_path / "said.jsonl.quarantine.jsonl").read_text().splitlines()
    assert ("'german'" if task == "translation" else "none.png cannot be read") in json.loads(aside)["reason"]
    readme = (tmp_path / "out" / "README.md").read_text()
    for graph in (tmp_path / "out").glob("*.onnx"):
        assert f"`{graph.name}`" in readme
        onnx.checker.check_model(onnx.load(graph), full_check=True)


@pytest.mark.parametrize("backend", ("onnx", "mxnet"))
@pytest.mark.parametrize(
    ("features", "image", "sentence"),
    [
        ("trained", "no such file.png", "cannot be read"),
        ("trained", "a\0b", "NUL character"),
        ("trained", "/dev/zero", "is not a file"),
        ("trained", "data:image/png;base64,bm90aGluZw==", "cannot be used"),
        ("trained", "data:image/png;base64,***", "not a data URL with base64"),
        ("given", "data:;base64,bm90aGluZw==", "cannot be read as numpy's .npy"),
        ("given", data_url(np.zeros((4,))), r"must be \(5,\) finite numbers, this one has shape \(4,\)"),
        ("given", data_url(np.full((5,), np.nan)), "finite numbers"),
    ],
)
def test_an_image_that_is_none_is_one_sentence(
    features: str, image: str, sentence: str, backend: Any, tmp_path: Path
) -> None:
    shape = VECTOR if features == "given" else (16, 16, 3)
    write_task(tmp_path / "m", config_of("captioning", captioning={"features": features}), shape)
    with pytest.raises(InputError, match=rf"^[^\n]*{sentence}[^\n]*$"):
        open_predictor(tmp_path / "m", backend, threads=1).predict([{"image": image}])
    assert open_predictor(tmp_path / "m", backend, threads=1).predict([]) == []


def test_graphs_of_two_trainings_are_refused(tmp_path: Path) -> None:
    """One whose attention has a memory, with the step of one that has none; and a vocabulary of another size."""
    for name, inject in (("one", "attention"), ("two", "every")):
        write_task(tmp_path / name, config_of("captioning", captioning={"inject": inject}))
        onnx_export.export(tmp_path / name, tmp_path / f"{name}-out", False, lambda _: None)
    row = rows_of("captioning", ["a"])
    graphs = graph_cache.ensure_graphs(tmp_path / "one")
    with pytest.raises(InputError, match="not of one training: export the model again"):
        Writer(graphs, "image_encoder.onnx", BORDER - 1).write(
            {"images": np.zeros((1, 16, 16, 3), np.uint8)}, np.array([3]), 1, 0.0, ()
        )
    assert open_predictor(tmp_path / "one", threads=1).predict(row)
    shutil.copy(tmp_path / "two-out" / DECODER_STEP, graphs / DECODER_STEP)
    with pytest.raises(InputError, match=r"image_encoder\.onnx and decoder_step\.onnx do not fit each other"):
        Writer(graphs, "image_encoder.onnx", BORDER)
