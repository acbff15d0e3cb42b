"""A classifier of `duplet export` used without Duplet: NumPy and ONNX Runtime alone.

Run: python docs/examples/onnx_without_duplet.py EXPORTED_FOLDER "a text" "another text"

It reads tokenizers of the kinds word (of Latin letters: Han and kana characters would stand alone), whitespace and
character. The other files of the folder are described in its README.md. The probabilities are the network's alone.
Where the folder has naive_bayes.npz, `duplet predict` mixes naive Bayes with them: docs/export.md has the formula.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

UNKNOWN = 1  # 0 is padding
# Runs of letters, split where their case changes; runs of digits; single symbols.
WORD = re.compile(r"[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|[A-Z][^\W\d_A-Z]*|\d+|[^\w\s]")


class Classifier:
    """The graph, the vocabulary and the labels of an exported folder."""

    def __init__(self, folder: Path) -> None:
        read = lambda name: json.loads((folder / name).read_text(encoding="utf-8"))
        self.tokenizer = read("tokenizer.json")
        self.ids = read("vocabulary.json")["token_to_idx"]
        labels = read("label/vocabulary.json")["token_to_idx"]
        self.labels = sorted(labels, key=labels.get)[2:]  # without <pad> and <unk>
        self.session = onnxruntime.InferenceSession(str(folder / "classifier.onnx"))

    def tokens(self, text: str) -> list[str]:
        """As `tokenizer.json` says."""
        kind = self.tokenizer["kind"]
        words = text.split()
        found = WORD.findall(text) if kind == "word" else words if kind == "whitespace" else " ".join(words)
        return [token.lower() for token in found] if self.tokenizer["lowercase"] else list(found)

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """(N, C) of each text and label."""
        limit = self.tokenizer["max_tokens"]["text"]
        rows = [[self.ids.get(token, UNKNOWN) for token in self.tokens(text)][:limit] or [UNKNOWN] for text in texts]
        ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
        for row, own in zip(ids, rows):
            row[: len(own)] = own
        lengths = np.array([len(row) for row in rows], np.int32)
        [found] = self.session.run(None, {"ids": ids, "lengths": lengths})
        return np.asarray(found)


def main(folder: str, *texts: str) -> None:
    """Prints each text's label and its probability."""
    model = Classifier(Path(folder))
    for text, row in zip(texts, model.probabilities(list(texts))):
        print(f"{model.labels[int(row.argmax())]}\t{row.max():.4f}\t{text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
