"""PyTorch's layout: names there and back, equality with PyTorch itself where the peer's environment is, damage."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mxnet import nd
from safetensors.numpy import load_file, save_file

from pipeline.core.errors import InputError
from pipeline.models.encoder import padding_of
from pipeline.serving import fetching
from pipeline.serving.export import torch_export
from pipeline.serving.loading import open_predictor
from tests.conftest import last_json
from tests.serving.networks import config_of, random_network, random_texts
from tests.serving.task_models import config_of as task_config
from tests.serving.task_models import write_task

Trained = Callable[..., Path]
PEER = Path(__file__).resolve().parents[2] / ".peer" / "bin" / "python"
ROWS = [{"query": "a b", "document": "sort c"}, {"query": "d", "document": "e e"}]


@pytest.mark.skipif(not PEER.exists(), reason="no PyTorch: benchmarks/setup_peer.sh makes its environment, .peer")
def test_pytorch_gives_the_same_states(tmp_path: Path) -> None:
    """Every cell, shallow and deep, in one process: importing torch takes longer than all of them."""
    wanted = {}
    for cell in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        for layers, directions in ((1, 1), (2, 2)):
            config = config_of(cell=cell, layers=layers, directions=directions)
            network, arrays = random_network(config)
            folder = tmp_path / f"{cell}-{layers}-{directions}"
            folder.mkdir()
            save_file(torch_export.to_torch(arrays), str(folder / "model.safetensors"))
            sizes = {"cell": cell, "hidden": config.model.hidden, "layers": layers, "directions": directions}
            (folder / "sizes.json").write_text(json.dumps(sizes))
            ids, lengths = random_texts(np.random.default_rng(0), 5, 7, 7)
            lengths[0], ids[0] = 7, np.arange(1, 8)  # so that PyTorch's padded output is as long
            np.savez(folder / "inputs.npz", ids=ids, lengths=lengths)
            table = network.embedding.data()
            embedded = nd.Embedding(nd.array(ids.T), table, input_dim=table.shape[0], output_dim=table.shape[1])
            states = network.query_tower.encoder(embedded, padding_of(nd.array(lengths, dtype="int32"), 7))
            wanted[folder] = states.asnumpy().transpose(1, 0, 2), np.arange(7) < lengths[:, None]
    script = str(Path(__file__).with_name("peer_lstm.py"))
    done = subprocess.run([str(PEER), script, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for folder, (states, there) in wanted.items():
        with np.load(folder / "states.npz") as found:
            np.testing.assert_allclose(found["states"][there], states[there], atol=1e-5, err_msg=folder.name)
        assert np.abs(states[there]).mean() > 1e-3


def test_names_go_there_and_back() -> None:
    config = config_of({"kind": "pointwise", "grades": 3}, head="late_interaction", layers=3, layer_norm=True)
    _, arrays = random_network(config)
    torch_names = torch_export.to_torch(arrays)
    lstm = {name.rpartition(".")[2] for name in torch_names if ".rnn." in name}
    assert {"weight_ih_l0", "weight_hh_l2_reverse", "bias_ih_l1", "bias_hh_l0_reverse"} <= lstm
    assert len(lstm) == 3 * 2 * 4
    assert "document_tower.encoder.norms.1.weight" in torch_names
    back = torch_export.from_torch(torch_names)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def test_export_and_import_again(trained: Trained, tmp_path: Path) -> None:
    folder = trained(layers=2)
    exported, back = tmp_path / "torch", tmp_path / "back"
    for command in (["export", str(folder), "--to", "torch", "--output", str(exported)],
                    ["import", str(exported), "--output", str(back)]):  # fmt: skip
        last_json(
            subprocess.run([sys.executable, "-m", "pipeline.cli", *command, "--json"], capture_output=True, text=True)
        )
    assert fetching.fetch(str(back), tmp_path, None) == back
    assert open_predictor(back, threads=1).predict(ROWS) == open_predictor(folder, threads=1).predict(ROWS)

    tensors = load_file(str(exported / "model.safetensors"))
    tensors["document_tower.encoder.rnn.weight_ih_l1"] *= -1  # "trained on"
    save_file(tensors, str(exported / "model.safetensors"))
    torch_export.bring_in(exported, back)
    changed = open_predictor(back, threads=1).predict(ROWS)[0]["score"]
    assert abs(changed - open_predictor(folder, threads=1).predict(ROWS)[0]["score"]) > 1e-4


def test_tensors_that_do_not_fit_are_refused_and_nothing_is_left(trained: Trained, tmp_path: Path) -> None:
    exported, back = tmp_path / "torch", tmp_path / "back"
    torch_export.export(trained(), exported)
    path = exported / "model.safetensors"
    tensors = load_file(str(path))
    whole = path.read_bytes()
    del tensors["document_tower.encoder.rnn.weight_hh_l0"]
    for content, sentence in ((tensors, "f_h2h_weight"), (whole[:-10], "cannot be read"), (b"", "cannot be read")):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_file(content, str(path))
        with pytest.raises(InputError, match=sentence):
            torch_export.bring_in(exported, back)
        assert not back.exists()
    for task, lost in (("classification", "output.weight"), ("tagging", "output.bias"), ("translation", "words.table")):
        write_task(tmp_path / task, task_config(task))
        torch_export.export(tmp_path / task, tmp_path / "other")
        tensors = load_file(str(tmp_path / "other" / "model.safetensors"))
        for wrong in ({lost: tensors[lost][:-1]}, {"a.norms.9.scale": tensors[lost]}):
            kept = {name: tensor for name, tensor in tensors.items() if name != lost} | wrong
            save_file(kept, str(tmp_path / "other" / "model.safetensors"))
            with pytest.raises(InputError, match=re.escape(lost)):
                torch_export.bring_in(tmp_path / "other", back)
            assert not back.exists()
        shutil.rmtree(tmp_path / "other")
    with pytest.raises(InputError, match="not an exported model"):
        torch_export.export(trained(seed=1), tmp_path / "runs")
