"""A teacher that is an encoder in ONNX: its vectors against those by hand, and folders that are none."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.config import check_config
from pipeline.core.errors import InputError
from pipeline.orchestration import flow, onnx_teacher, teach_pairs
from pipeline.orchestration.onnx_teacher import OnnxTeacher
from pipeline.tokenization import shards
from tests.conftest import last_json, reversed_pairs, small_configuration
from tests.tasks.teachers import WIDTH, records, texts, vectors_of

tokenizers = pytest.importorskip("tokenizers")
FILES = {"pooling": "1_Pooling/config.json", "layers": "modules.json", "length": "sentence_bert_config.json",
         "prompts": "config_sentence_transformers.json"}  # fmt: skip
WORDS = [f"w{i}" for i in range(30)]


def folder_of(folder: Path, words: list[str], graph: str = "onnx/model.onnx", rank: int = 3, **more: Any) -> Path:
    """A folder whose encoder gives each token the vector that `vectors_of` draws for its word; `more` are further
    files by their names, dots and slashes as underscores."""
    folder.mkdir(parents=True)
    names = ["[PAD]", "[UNK]", *words, "query:"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_padding(length=40)  # as some folders have it: it must not come into the mean
    tokenizer.save(str(folder / "tokenizer.json"))
    vectors = np.concatenate([np.full((2, WIDTH), 9, np.float32), vectors_of(names[2:])])
    table = numpy_helper.from_array(vectors, "table")
    asked = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in asked]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "t", WIDTH])]
    axes = [numpy_helper.from_array(np.array([axis]), f"axis{axis}") for axis in (1, 2)]
    if rank == 2:  # pooled by the graph itself: the sum
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "axis2"], ["kept"]),
            helper.make_node("Mul", ["last_hidden_state", "kept"], ["known"]),
            helper.make_node("ReduceSum", ["known", "axis1"], ["sentence_embedding"], keepdims=0),
        ]
        outputs += [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["n", WIDTH])]
    model = helper.make_model(helper.make_graph(nodes, "encoder", inputs, outputs, [table, *axes]),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=8)  # fmt: skip
    (folder / graph).parent.mkdir(exist_ok=True)
    onnx.save(model, str(folder / graph))
    for name, content in more.items():
        path = folder / FILES[name]
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


SENTENCES = ["w1 w2 w3", "w4", "w5 w5 w1 w9 w8 w7", "w2 w3"]


def mean_of(sentences: list[str]) -> np.ndarray:
    return vectors_of(sentences) / np.array([[len(text.split())] for text in sentences])


@pytest.mark.parametrize("cells", [3, 4096])  # a text alone, and all together with padding
def test_a_text_is_the_mean_of_its_tokens(cells: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_teacher, "CELLS", cells)
    found = OnnxTeacher(folder_of(tmp_path / "m", WORDS)).vectors("document", SENTENCES)
    np.testing.assert_allclose(found, mean_of(SENTENCES), rtol=1e-5, atol=1e-6)


def test_sentence_transformers_files_are_heeded(tmp_path: Path) -> None:
    first = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "word_embedding_dimension": WIDTH}
    teacher = OnnxTeacher(folder_of(tmp_path / "cls", WORDS, pooling=first))
    expected = vectors_of([text.split()[0] for text in SENTENCES])
    np.testing.assert_allclose(teacher.vectors("query", SENTENCES), expected, rtol=1e-5)
    more = {"length": {"max_seq_length": 2}, "prompts": {"prompts": {"query": "query: ", "passage": ""}},
            "layers": [{"type": "sentence_transformers.models.Transformer"}]}  # fmt: skip
    teacher = OnnxTeacher(folder_of(tmp_path / "short", WORDS, graph="model.onnx", **more))
    cut = [" ".join(text.split()[:2]) for text in SENTENCES]
    np.testing.assert_allclose(teacher.vectors("document", SENTENCES), mean_of(cut), rtol=1e-5, atol=1e-6)
    asked = [f"query: {text.split()[0]}" for text in SENTENCES]
    np.testing.assert_allclose(teacher.vectors("query", SENTENCES), mean_of(asked), rtol=1e-5, atol=1e-6)


def test_a_graph_may_pool_itself(tmp_path: Path) -> None:
    found = OnnxTeacher(folder_of(tmp_path / "m", WORDS, rank=2)).vectors("document", SENTENCES)
    np.testing.assert_allclose(found, vectors_of(SENTENCES), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("more", "told"), [
    ({"layers": [{"type": "sentence_transformers.models.Dense"}]}, "has the layer 'Dense', and Transformer"),
    ({"pooling": {"pooling_mode_max_tokens": True}}, "wants pooling_mode_max_tokens, and mean or cls is known"),
    ({"pooling": {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 3}},
     "gives 16 numbers a vector; .* says 3"),
    ({"length": "{"}, "sentence_bert_config.json: "),
    ({"length": []}, "its settings are not as sentence-transformers writes them"),
    ({"length": {"max_seq_length": "9"}}, "has max_seq_length '9', which is not a number of tokens"),
    ({"pooling": [1]}, "its settings are not as sentence-transformers writes them"),
    ({"layers": ["a"]}, "its settings are not as sentence-transformers writes them"),
])  # fmt: skip
def test_what_is_not_known_is_refused(more: dict[str, Any], told: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", WORDS, **more)
    with pytest.raises(InputError, match=rf"teach.onnx=.*m cannot be used \(.*{told}.*\): export the encoder again"):
        OnnxTeacher(folder).vectors("document", SENTENCES)


def test_a_folder_that_is_none_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = folder_of(tmp_path / "m", WORDS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"teach.onnx=.*empty has no model.onnx or onnx/model.onnx: give the folder"):
        OnnxTeacher(tmp_path / "empty")
    for number, name in enumerate(("onnx/model.onnx", "tokenizer.json")):
        damaged = folder_of(tmp_path / f"damaged{number}", WORDS) / name
        damaged.write_bytes(damaged.read_bytes()[:40])
        with pytest.raises(InputError, match="cannot be used"):
            OnnxTeacher(tmp_path / f"damaged{number}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"needs the package tokenizers, .*: pip install 'duplet\[teach\]'"):
        OnnxTeacher(whole)
    monkeypatch.undo()
    (whole / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"teach.onnx=.*m has no tokenizer.json: give the folder"):
        onnx_teacher.files(whole)


def test_the_stage_keeps_what_the_encoder_says(tmp_path: Path) -> None:
    """As if the same vectors had come in a file; documents that two splits share are encoded once."""
    rows = reversed_pairs(240)
    often = [{"qid": f"s{i}", "query": f"{rows[0]['document']} {row['query'].split()[0]}",
              "document": rows[0]["document"]} for i, row in enumerate(rows[1:61])]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *often]))
    base = small_configuration(tmp_path, tracking={"send": "later"})
    stages: dict[str, Any] = flow.run(check_config(base, "test"), "test", "tokenize", lambda line: None).stages
    folders = teach_pairs.Folders(*(Path(stages[name]["folder"]) for name in ("ingest", "tokenize")), tmp_path / "out")
    known = texts(records(folders.ingested, "train", "valid"))
    words = sorted({word for text in known for word in text.split()})
    teacher = folder_of(tmp_path / "sage", words)
    folders.output.mkdir()
    said: list[str] = []
    config = check_config({**base, "teach": {"onnx": str(teacher)}}, "test")
    assert config.teach.who == "sage"
    counts = teach_pairs.keep(config, folders, said.append)
    train, valid = (records(folders.ingested, name) for name in ("train", "valid"))
    texts_of = {side: {row[f"{side}_id"]: row[side] for row in train} for side in ("query", "document")}
    shared = [{row["document_id"] for row in split} for split in (train, valid)]
    assert shared[0] & shared[1], "no document is in both splits"
    assert said[-1] == f"sage: {len(set.union(*shared))} of {len(set.union(*shared))} documents encoded"
    split = shards.open_split(folders.tokenized, "train")
    for side, by_id in texts_of.items():
        expected = vectors_of([by_id[key] for key in split.fields[side].keys])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(np.load(folders.output / f"{side}.npy"), expected, atol=1e-5)
    assert counts["width"] == WIDTH and counts["vectors"]["value"] > counts["vectors"]["chance"]
    assert said[0].startswith("sage: ") and said[0].endswith(" queries encoded")


def test_an_encoding_that_was_cut_off_goes_on_with_the_texts_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = small_configuration(tmp_path, tracking={"send": "later"})
    stages: dict[str, Any] = flow.run(check_config(base, "test"), "test", "tokenize", lambda line: None).stages
    made = [Path(stages[name]["folder"]) for name in ("ingest", "tokenize")]
    words = sorted({word for text in texts(records(made[0], "train", "valid")) for word in text.split()})
    config = check_config({**base, "teach": {"onnx": str(folder_of(tmp_path / "sage", words))}}, "test")
    monkeypatch.setattr(teach_pairs.teacher_files, "ROWS", 50)
    encode, encoded = OnnxTeacher.vectors, list[int]()

    def run(name: str, work: Path | None, after: int | None = None) -> dict[str, bytes]:
        def vectors(teacher: OnnxTeacher, side: str, some: list[str]) -> np.ndarray:
            if len(encoded) == after:
                raise KeyboardInterrupt
            encoded.append(len(some))
            return encode(teacher, side, some)

        encoded.clear()
        monkeypatch.setattr(OnnxTeacher, "vectors", vectors)
        (tmp_path / name).mkdir()
        teach_pairs.keep(config, teach_pairs.Folders(made[0], made[1], tmp_path / name, work))
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    alone, every = run("whole", None), len(encoded)
    assert every > 6
    with pytest.raises(KeyboardInterrupt):
        run("cut", tmp_path / "work", 5)
    assert run("again", tmp_path / "work") == alone
    assert len(encoded) == every - 5


def test_it_teaches_from_the_command_line_and_another_encoder_is_another_stage(
    duplet: Callable[..., Any], tmp_path: Path
) -> None:
    base = small_configuration(tmp_path, tracking={"send": "later", "system_metrics": False}, train={"epochs": 1})
    words = sorted({word for line in (tmp_path / "pairs.jsonl").read_text().splitlines()
                    for word in json.loads(line)["query"].split()})  # fmt: skip
    teacher = folder_of(tmp_path / "sage", words)
    config = {**base, "teach": {"onnx": str(teacher)}}
    done = duplet("train", config, "--json")
    assert "teach: sage, by vectors, has mrr@10" in done.stderr + done.stdout
    first = last_json(done)["stages"]["teach"]
    again = last_json(duplet("teach", config, "--json"))["stages"]["teach"]
    assert (again["folder"], again["state"]) == (first["folder"], "up to date")
    (teacher / "sentence_bert_config.json").write_text('{"max_seq_length": 30}')
    other = last_json(duplet("teach", config, "--json"))["stages"]["teach"]
    assert other["folder"] != first["folder"]


@pytest.mark.parametrize(("changes", "told"), [
    ({"task": "tagging", "teach": {"onnx": "m"}}, "teach.onnx is for task matching, not tagging"),
    ({"teach": {"onnx": "m", "vectors": ["v.npz"]}}, "two teachers of vectors: keep one of them"),
])  # fmt: skip
def test_settings_that_contradict_each_other(changes: dict[str, Any], told: str) -> None:
    data = {"name": "t", "ingest": {"source": {"format": "jsonl", "path": "x"}}, **changes}
    with pytest.raises(Exception, match=told):
        check_config(data, "test")
