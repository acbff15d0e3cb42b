"""Where the image enters, drawn scenes, images that are none, given vectors, AlexNet's features, judging, the page."""

import functools
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd
from PIL import Image

from pipeline.config import Config, ModelConfig, check_config
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation import captions
from pipeline.ingest import images, pictures, scenes
from pipeline.ingest import stage as ingest
from pipeline.ingest.rows import BadRow
from pipeline.models.captioner import Captioner
from pipeline.orchestration import flow
from pipeline.reporting import captions_page
from pipeline.tasks.base import task_of
from pipeline.tasks.image_reading import GRID, VECTOR
from pipeline.tasks.images import Images
from tests.networks import alexnet, fresh
from tests.tasks.examples import drawn


# --- where the image enters -------------------------------------------------------------------------------------------
def captioner(inject: str, shape: tuple[int, ...], cell: str = "rnn_tanh") -> Captioner:
    network = Captioner(ModelConfig(cell=cell, embedding=3, hidden=4, dropout=0.0), 7, inject, shape)
    mx.random.seed(2)
    np.random.seed(2)
    network.initialize()
    for parameter in network.collect_params().values():
        parameter.set_data(nd.random.uniform(-0.7, 0.7, parameter.shape))
    return network


@pytest.mark.parametrize("inject", ["first", "every"])
def test_the_image_is_added_inside_the_first_step_or_every_one(inject: str) -> None:
    """Against the recurrence written out: h_t = tanh(W_hx x_t + W_hh h_t-1 + b + [t = 1] W_ih v)."""
    network = captioner(inject, (5,))
    ids, vector = np.array([[7, 7], [2, 3], [4, 5]]), np.random.default_rng(0).normal(size=(2, 5))
    state, memory = network.look(nd.array(vector))
    features, _, weights = network(nd.array(ids, dtype="int32"), state, memory)
    assert weights is None
    w = {name: p.data().asnumpy() for name, p in network._collect_params_with_prefix().items()}
    layer = "decoder.layers.0.f_"
    w_hx, w_ih = w[f"{layer}i2h_weight"][:, :3], w[f"{layer}i2h_weight"][:, 3:]
    h = np.zeros((2, 4))
    for t in range(3):
        before = w["words.table"][ids[t]] @ w_hx.T + h @ w[f"{layer}h2h_weight"].T
        before += w[f"{layer}i2h_bias"] + w[f"{layer}h2h_bias"]
        if t == 0 or inject == "every":
            before += vector @ w_ih.T
        h = np.tanh(before)
        expected = np.tanh(h @ w["decoder.features.weight"].T + w["decoder.features.bias"])
        np.testing.assert_allclose(features[t].asnumpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("inject", "shape"), [("first", (5,)), ("every", (16, 16, 3)), ("attention", (6, 4))])
def test_step_by_step_is_all_steps_at_once(inject: str, shape: tuple[int, ...]) -> None:
    network = captioner(inject, shape, "lstm")
    ids = nd.array([[7, 7], [2, 3], [4, 5]], dtype="int32")
    pictures = nd.array(np.random.default_rng(0).integers(0, 255, (2, *shape)), dtype="uint8")
    state, memory = network.look(pictures if len(shape) == 3 else pictures.astype("float32") / 255)
    features, _, weights = network(ids, state, memory)
    for t in range(3):
        found, state = network.step(ids[t], state, memory)
        np.testing.assert_allclose(found.asnumpy(), network.words.log_probabilities(features[t]).asnumpy(), atol=1e-5)
    assert (weights is not None) == (inject == "attention")


# --- scenes -----------------------------------------------------------------------------------------------------------
of_scenes = functools.partial(drawn, "captioning", "scenes")


def test_scenes_of_test_show_things_never_seen_together(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    counts = ingest.run(of_scenes(tmp_path), tmp_path)
    assert counts["records"]["kept"] == 150 and counts["records"]["quarantined"] == 0
    things: dict[str, set[str]] = {}
    for split in ("train", "test"):
        table = pq.read_table(tmp_path / f"records-{split}.parquet").to_pylist()
        things[split] = {json.loads(row["metadata"])["things"] for row in table}
        for row in table:
            words = row["caption"].split()
            assert {" ".join(words[1:3]), " ".join(words[-2:])} == set(
                json.loads(row["metadata"])["things"].split(" + ")
            )
    assert len(things["test"]) > 10 and not things["train"] & things["test"]
    pictures = np.load(tmp_path / images.ARRAY)
    assert pictures.shape == (150, 48, 48, 3) and len(np.unique(pictures.reshape(150, -1), axis=0)) == 150


@pytest.mark.parametrize("relation", scenes.RELATIONS)
def test_a_scene_shows_what_its_caption_says(relation: str) -> None:
    """The colours' middles, found in the picture, lie as the relation says; the same seed draws the same."""
    one, other = scenes.Thing("red", "circle"), scenes.Thing("blue", "square")
    for seed in range(20):
        picture = scenes.draw(one, relation, other, np.random.default_rng(seed)).astype(int)
        again = scenes.draw(one, relation, other, np.random.default_rng(seed))
        np.testing.assert_array_equal(picture, again)
        red = np.argwhere((picture[:, :, 0] > 150) & (picture[:, :, 2] < 100))
        blue = np.argwhere((picture[:, :, 2] > 150) & (picture[:, :, 0] < 120))
        (y, x), (v, u) = red.mean(axis=0), blue.mean(axis=0)
        if relation == "inside":
            assert abs(x - u) < 3 and abs(y - v) < 3 and len(red) < len(blue)
        else:
            assert (u - x if relation == "left of" else v - y) > 10


@pytest.mark.learns
@pytest.mark.timeout(400)
def test_captions_say_what_the_picture_shows(tmp_path: Path) -> None:
    """The small net and the decoder, trained together: of things that were never seen together."""
    config = of_scenes(
        tmp_path / "runs",
        ingest={"source": {"format": "scenes", "count": 1500}},
        model={"embedding": 24, "hidden": 64, "dropout": 0.0},
        captioning={"inject": "every"},
        train={
            "threads_per_worker": 1, "max_pairs_per_update": 16, "epochs": 8, "patience_validations": None,
            "optimizer": {"learning_rate": 0.003},
        },
    )  # fmt: skip
    result = flow.run(config, "test", "evaluate", lambda line: None)
    # a model that does not see the picture has no more than the most frequent caption: BLEU-1 0.51, CIDEr 1.2
    assert result.metrics["test/bleu_1"] > 0.72 > 0.6 > result.metrics["test/frequent/bleu_1"], result.table
    assert result.metrics["test/cider"] > 3.5 > 2 > result.metrics["test/frequent/cider"], result.table
    page = (Path(result.stages["evaluate"]["folder"]) / "captions.html").read_text()
    assert page.count("data:image/png;base64,") > 50


# --- sources and images -----------------------------------------------------------------------------------------------
def png(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def captioned(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A source of 40 pictures in a zip, one of them no picture, with two captions each."""

    def make(**source: Any) -> dict[str, Any]:
        lines = []
        with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
            for i in range(40):
                archive.writestr(f"images/p{i}.png", png((6 * i, 0, 0)) if i != 7 else b"no picture")
                lines += [f"p{i}.png#{n}\ta red field of {'many' if i > 20 else 'few'} {n}" for n in range(2)]
        lines.append("absent.png#0\ta picture that is not there")
        (tmp_path / "captions.tsv").write_text("\n".join(lines) + "\n")
        given = {"format": "captions", "captions": str(tmp_path / "captions.tsv"), "size_px": 16}
        given |= {"images": str(tmp_path / "pictures.zip")} | source
        return {
            "ingest": {"source": given, "split": {"valid": 0.2, "test": 0.2}, "max_quarantined_share": 0.1},
            "tokenize": {"min_count": 1},
        }

    return make


def test_pictures_of_a_zip_are_read_and_bad_ones_put_aside(captioned: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    counts = ingest.run(of_scenes(tmp_path, **captioned()), folder)
    assert counts["records"]["kept"] == 78 and counts["quarantine_reasons"] == {"image": 2}
    names, array = json.loads((folder / images.NAMES).read_text()), np.load(folder / images.ARRAY)
    assert array.shape == (40, 16, 16, 3) and len(names) == 40
    np.testing.assert_array_equal(array[names.index("p20.png")], np.broadcast_to([120, 0, 0], (16, 16, 3)))


def test_a_folder_of_pictures_is_the_same_as_a_zip_of_them(captioned: Callable[..., Any], tmp_path: Path) -> None:
    zipped = captioned()
    with zipfile.ZipFile(tmp_path / "pictures.zip") as archive:
        archive.extractall(tmp_path)
    arrays = []
    for number, data in enumerate((zipped, captioned(images=str(tmp_path / "images")))):
        (folder := tmp_path / f"out{number}").mkdir()
        config = of_scenes(tmp_path, **data)
        ingest.run(config, folder)
        arrays.append((folder / images.ARRAY).read_bytes())
    assert arrays[0] == arrays[1]
    before = ingest.parts(config).key
    (tmp_path / "images" / "p3.png").write_bytes(png((0, 9, 0)))
    assert ingest.parts(config).key != before


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "no readable image"), (b"GIF89a", "no readable image"), (png((1, 2, 3))[:60], "no")]
)
def test_what_is_no_image_is_said_to_be_none(content: bytes, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadRow, match=sentence):
        images.picture(content, 8)


def test_an_image_of_too_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 599)
    with pytest.raises(BadRow, match="30 x 20 pixels are too many"):
        images.picture(png((1, 2, 3)), 8)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 600)
    assert images.picture(png((1, 2, 3)), 8).shape == (8, 8, 3)


def trained_task(config: Config) -> Any:
    folder = Path(flow.run(config, "test", "tokenize", lambda line: None).stages["tokenize"]["folder"])
    task = task_of(config, folder)
    return task, fresh(task)


@pytest.mark.parametrize("shape", [(40, 6), (40, 3, 5)], ids=["vectors", "grids"])
def test_given_vectors_are_used_as_they_are(
    shape: tuple[int, ...], captioned: Callable[..., Any], tmp_path: Path
) -> None:
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    (tmp_path / "names.txt").write_text("".join(f"p{i}.png\n" for i in range(40)))
    source = {"images": str(tmp_path / "vectors.npy"), "names": str(tmp_path / "names.txt")}
    inject = "first" if len(shape) == 2 else "attention"
    options = {"features": "given", "inject": inject}
    task, network = trained_task(of_scenes(tmp_path / "runs", **captioned(**source), captioning=options))
    batch = task.batch([np.arange(10)], 0, [1, 0, 0, 0])
    keys = [task.train.ids[i] for i in range(10)]
    assert batch.images.shape == (10, *shape[1:]) and len(set(keys)) == 10
    known = {v.tobytes() for v in vectors}
    assert all(image.tobytes() in known for image in batch.images)
    metrics = task.validate(network, World())
    assert set(task.config.metrics) <= set(metrics) and np.isfinite(metrics["nats"])
    np.save(tmp_path / "new.npy", vectors[3])
    np.save(tmp_path / "odd.npy", vectors[3][..., :-1])
    [one, other] = task.predict(network, [{"image": str(tmp_path / "new.npy")}, {"image": "p3.png"}], mx.cpu())
    assert one == other and isinstance(one["caption"], str)
    with pytest.raises(InputError, match="finite numbers, this one has shape"):
        task.predict(network, [{"image": str(tmp_path / "odd.npy")}], mx.cpu())
    with pytest.raises(InputError, match=r"cannot be read as numpy's \.npy"):
        task.predict(network, [{"image": str(tmp_path / "names.txt")}], mx.cpu())


def test_an_image_that_is_none_is_a_clear_error(prepared: Callable[..., Any], tmp_path: Path) -> None:
    config, _, tokenized = prepared("captioning")
    task = task_of(config, tokenized)
    network = task.network()
    network.initialize()
    (tmp_path / "text.jpg").write_text("no picture")
    for name, sentence in (("text.jpg", "cannot be used"), ("absent.jpg", "No such file"), ("", "cannot be read")):
        with pytest.raises(InputError, match=sentence):
            task.predict(network, [{"image": str(tmp_path / name)}], mx.cpu())
    (tmp_path / "picture.png").write_bytes(png((200, 10, 10)))
    [answer] = task.predict(network, [{"image": str(tmp_path / "picture.png")}], mx.cpu())
    assert isinstance(answer["caption"], str) and answer["score"] < 0


def test_photographs_are_read_after_horovod_was_loaded(tmp_path: Path) -> None:
    """In processes of their own: this one may have loaded Pillow before."""
    photograph = str(tmp_path / "photograph.jpg")
    draw = f"from PIL import Image; Image.new('RGB', (30, 20), (200, 10, 10)).save({photograph!r})"
    look = (
        "import horovod.mxnet, pathlib; from pipeline.ingest import images; "
        f"print(images.picture(pathlib.Path({photograph!r}).read_bytes(), 4).shape)"
    )
    for script, said in ((draw, ""), (look, "(4, 4, 3)\n")):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert done.stdout == said, done.stderr


def images_of(options: dict[str, Any], folder: Path) -> Images:
    source = {"format": "scenes", "count": 9}
    sections = {"task": "captioning", "captioning": options, "ingest": {"source": source}}
    return Images(check_config({"name": "t", **sections}, "test"), folder)


@pytest.mark.parametrize("inject", ["first", "attention"])
def test_alexnets_features_are_those_of_the_model_zoo(inject: str, tmp_path: Path) -> None:
    net, pictures, x = alexnet(tmp_path / "alexnet.params")
    vector = net.features(x).asnumpy()
    (tmp_path / images.SHAPE).write_text(json.dumps({"shape": [224, 224, 3]}))
    options = {"features": "alexnet", "weights": str(tmp_path / "alexnet.params"), "inject": inject}
    found = images_of(options, tmp_path).seen(pictures, mx.cpu())
    if inject == "first":
        assert found.shape == (2, *VECTOR)
        np.testing.assert_allclose(found, vector, rtol=1e-4, atol=1e-5)
    else:
        assert found.shape == (2, *GRID)
        grid = net.features[:8](x).asnumpy()
        assert grid.shape == (2, 256, 6, 6)
        np.testing.assert_allclose(found[1, 7], grid[1, :, 1, 1], rtol=1e-4, atol=1e-5)
    (tmp_path / "wrong.params").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"wrong\.params holds no parameters of the model zoo's AlexNet"):
        images_of(options | {"weights": str(tmp_path / "wrong.params")}, tmp_path).seen(pictures, mx.cpu())


@pytest.mark.parametrize(
    ("options", "shape", "sentence"),
    [
        ({"features": "given"}, [48, 48, 3], "does not fit a source whose images are pictures"),
        ({}, [9], "does not fit a source whose images are vectors"),
        ({"features": "given", "inject": "attention"}, [9], "attention needs pictures"),
        ({"features": "given"}, [4, 9], "needs one vector for an image"),
        ({"features": "alexnet", "weights": "w"}, [48, 48, 3], "needs ingest.source.size_px=224"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_refused(
    options: dict[str, Any], shape: list[int], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / images.SHAPE).write_text(json.dumps({"shape": shape}))
    with pytest.raises(InputError, match=sentence):
        images_of(options, tmp_path)


# --- judging ----------------------------------------------------------------------------------------------------------
def test_scores_are_those_of_the_kept_library() -> None:
    said = [["a", "red", "dog", "runs"], ["the", "cat"]]
    references = [[["a", "red", "dog", "runs"], ["a", "dog"]], [["a", "cat", "sleeps"]]]
    found = captions.scores(said, references)
    assert found["exact"] == 0.5
    # clipped unigram matches 4 + 1 of 6 words, references of 4 and 3 words against 6: brevity exp(1 - 7 / 6)
    assert found["bleu_1"] == pytest.approx(5 / 6 * np.exp(1 - 7 / 6), rel=1e-6)
    assert found["bleu_2"] == pytest.approx(np.sqrt(5 / 6 * 3 / 4) * np.exp(1 - 7 / 6), rel=1e-6)
    assert 0 < found["cider"] < 10
    np.testing.assert_array_equal(captions.exact(said, references), [1, 0])


def test_the_nearest_image_is_the_one_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    known = rng.integers(0, 255, (30, 4, 4, 3)).astype(np.uint8)
    asked = (known[[5, 17]].astype(int) + rng.integers(-3, 3, (2, 4, 4, 3))).clip(0, 255).astype(np.uint8)
    assert captions.nearest(known, asked).tolist() == [5, 17]


def test_no_caption_becomes_markup_and_nothing_is_loaded(tmp_path: Path) -> None:
    bad = "<script>alert('x')</script> & \"q\""
    shown = captions_page.Shown(bad, np.zeros((4, 4, 3), np.uint8), bad, [bad], True)
    captions_page.write(tmp_path / "page.html", bad, bad, [shown, shown._replace(image=None, exact=False)])
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") == 2 + 1 + 2 * 3 + 1
    assert page.count("<img") == 1 and "http" not in page.replace("http-equiv", "")
