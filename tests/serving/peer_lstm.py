"""Runs in the peer's environment: PyTorch's own layers over weights from model.safetensors, states to an .npz.

    python peer_lstm.py FOLDER

Each folder in FOLDER holds model.safetensors, inputs.npz (ids, lengths) and sizes.json (cell, hidden, layers,
directions), and gets states.npz.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

KINDS = {
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
    "rnn_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
}
PREFIX = "document_tower.encoder.rnn."

for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
    sizes = json.loads((folder / "sizes.json").read_text())
    tensors = load_file(str(folder / "model.safetensors"))
    embedding = torch.nn.Embedding.from_pretrained(tensors["embedding.weight"])
    kind, options = KINDS[sizes["cell"]]
    network = kind(
        embedding.embedding_dim, sizes["hidden"], sizes["layers"], bidirectional=sizes["directions"] == 2,
        batch_first=True, **options,
    )  # fmt: skip
    network.load_state_dict({name[len(PREFIX) :]: t for name, t in tensors.items() if name.startswith(PREFIX)})
    with np.load(folder / "inputs.npz") as given, torch.no_grad():
        embedded = embedding(torch.tensor(given["ids"], dtype=torch.long))
        lengths = torch.tensor(given["lengths"], dtype=torch.long)
        packed = torch.nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        states, _ = torch.nn.utils.rnn.pad_packed_sequence(network(packed)[0], batch_first=True)
    np.savez(folder / "states.npz", states=states.numpy())
