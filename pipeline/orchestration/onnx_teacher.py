"""A teacher that is an encoder in ONNX, in a folder as Hugging Face lays it out: texts in, vectors out.

`model.onnx` or `onnx/model.onnx` and `tokenizer.json` make such a folder. Of sentence-transformers' files
`1_Pooling/config.json` says how the vectors of tokens become one (without it: their mean), `sentence_bert_config.json`
how many tokens are read, and `config_sentence_transformers.json` what stands before a query and a document.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import InputError, one_line

GRAPHS = ("model.onnx", "onnx/model.onnx")
TOKENIZER, POOLING, LAYERS = "tokenizer.json", "1_Pooling/config.json", "modules.json"
LENGTH, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
KNOWN_LAYERS = ("Transformer", "Pooling", "Normalize")
PROMPTED = {"query": ("query",), "document": ("document", "passage")}  # under which names prompts are kept
MOST_TOKENS = 512  # of a text, where nothing says so
CELLS = 4096  # tokens of a batch, with padding


def files(folder: Path, given_by: str = "teach.onnx=") -> dict[str, str]:
    """What the vectors rest on: name -> path. Raises InputError where the folder is not of that layout."""
    graph = next((name for name in GRAPHS if (folder / name).is_file()), None)
    if graph is None or not (folder / TOKENIZER).is_file():
        lost = " or ".join(GRAPHS) if graph is None else TOKENIZER
        raise InputError(
            f"{given_by}{folder} has no {lost}: give the folder of an encoder as Hugging Face lays it out, with the "
            "graph and tokenizer.json"
        )
    more = [name for name in (POOLING, LAYERS, LENGTH, PROMPTS) if (folder / name).is_file()]
    outside = sorted(path.relative_to(folder).as_posix() for path in (folder / graph).parent.glob("*.onnx_data"))
    return {name: str(folder / name) for name in (graph, TOKENIZER, *more, *outside)}


class OnnxTeacher:
    """An encoder, open; `given_by` is the setting or the option that names its folder.

    Raises:
        InputError: a file is damaged or says what is not known here, or the package tokenizers is not installed.
    """

    def __init__(self, folder: Path, given_by: str = "teach.onnx=") -> None:
        self.folder, self._given_by = folder, given_by
        found = files(folder, given_by)
        try:
            import tokenizers
        except ImportError:
            name = given_by.strip("= ")
            raise InputError(
                f"{name} needs the package tokenizers, which is not installed: pip install 'duplet[teach]'"
            ) from None
        import onnxruntime

        try:
            self._read_settings()
        except (AttributeError, TypeError) as error:  # JSON of another form
            raise self._damaged(f"its settings are not as sentence-transformers writes them ({error})") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(found[TOKENIZER])
            graph = next(path for name, path in found.items() if name in GRAPHS)
            self._graph = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # both raise bare exceptions of their own
            raise self._damaged(error) from None
        limit = self._limit or (self._tokenizer.truncation or {}).get("max_length") or MOST_TOKENS
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(limit)
        self._inputs = {one.name for one in self._graph.get_inputs()}
        if unknown := sorted(self._inputs - {"input_ids", "attention_mask", "token_type_ids"}):
            raise self._damaged(f"its graph asks for {unknown[0]}, which no text gives")

    def _read_settings(self) -> None:
        pooling, layers, length, prompts = (self._json(name) for name in (POOLING, LAYERS, LENGTH, PROMPTS))
        for layer in layers if isinstance(layers, list) else ():
            if (kind := str(layer.get("type", "")).rpartition(".")[2]) not in KNOWN_LAYERS:
                raise self._damaged(f"{LAYERS} has the layer {kind!r:.60}, and {', '.join(KNOWN_LAYERS)} are known")
        modes = [name for name, wanted in pooling.items() if name.startswith("pooling_mode_") and wanted is True]
        if pooling and (len(modes) != 1 or modes[0] not in MODES):
            raise self._damaged(f"{POOLING} wants {', '.join(modes) or 'no pooling'}, and mean or cls is known")
        self._pooling = MODES[modes[0]] if modes else "mean"
        self._width, self._limit = pooling.get("word_embedding_dimension"), length.get("max_seq_length")
        if self._limit is not None and not (isinstance(self._limit, int) and self._limit > 0):
            raise self._damaged(f"{LENGTH} has max_seq_length {self._limit!r:.60}, which is not a number of tokens")
        given = prompts.get("prompts") or {}
        self._prompts = {side: next((str(given[name]) for name in names if given.get(name)), "")
                         for side, names in PROMPTED.items()}  # fmt: skip

    def _json(self, name: str) -> Any:
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(f"{name}: {one_line(error)}") from None

    def words(self) -> list[str]:
        """Words of two letters or more that its tokenizer has whole, in alphabetical order."""
        pieces = (piece.removeprefix("\u2581").removeprefix("\u0120") for piece in self._tokenizer.get_vocab())
        return sorted({piece for piece in pieces if len(piece) > 1 and piece.isalpha()})

    def vectors(self, side: str, texts: list[str]) -> np.ndarray:
        """(N, D) float32, not normalised, of N texts of a side. Raises InputError where the graph cannot give them."""
        encoded = self._tokenizer.encode_batch([self._prompts[side] + text for text in texts])
        lengths = np.array([len(one.ids) for one in encoded])
        order, start = np.argsort(lengths, kind="stable"), 0
        found: list[np.ndarray] = []
        while start < len(order):
            cells = lengths[order[start : start + CELLS]] * np.arange(1, len(order[start : start + CELLS]) + 1)
            rows = order[start : start + max(1, int(np.searchsorted(cells, CELLS, side="right")))]
            found.append(self._batch([encoded[row] for row in rows.tolist()]))
            start += len(rows)
        together = np.empty((len(texts), found[0].shape[1]), np.float32)
        together[order] = np.concatenate(found)
        return together

    def _batch(self, encoded: list[Any]) -> np.ndarray:
        """(n, D)."""
        shape = len(encoded), max(1, max(len(one.ids) for one in encoded))
        feeds = {name: np.zeros(shape, np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
        for row, one in enumerate(encoded):
            for name, values in zip(feeds, (one.ids, one.attention_mask, one.type_ids)):
                feeds[name][row, : len(values)] = values
        names = [one.name for one in self._graph.get_outputs()]
        pooled = "sentence_embedding" in names
        try:
            wanted = ["sentence_embedding"] if pooled else names[:1]
            output = self._graph.run(wanted, {name: feeds[name] for name in self._inputs})[0].astype(np.float32)
        except Exception as error:  # ONNX Runtime has a dozen kinds
            raise self._damaged(error) from None
        if output.shape[:-1] != (shape[:1] if pooled else shape):
            raise self._damaged(f"its graph gives {output.shape} for texts of {shape} tokens")
        if self._width not in (None, output.shape[-1]):
            raise self._damaged(f"its graph gives {output.shape[-1]} numbers a vector; {POOLING} says {self._width}")
        if pooled or self._pooling == "cls":
            return np.asarray(output if pooled else output[:, 0])
        mask = feeds["attention_mask"].astype(np.float32)
        return np.asarray((output * mask[:, :, None]).sum(axis=1) / np.maximum(mask.sum(axis=1, keepdims=True), 1))

    def _damaged(self, why: object) -> InputError:
        return InputError(
            f"{self._given_by}{self.folder} cannot be used ({one_line(why, 200)}): export the encoder again"
        )
