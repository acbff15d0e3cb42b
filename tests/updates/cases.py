"""Which settings of the networks are tried: every value of each, in few configurations."""

from typing import Any

Case = dict[str, Any]

HEADS = ("cosine", "dot", "bilinear", "mlp", "late_interaction", "cross_attention")
LOSSES: dict[str, Case] = {
    "in_batch_softmax": {"train": {"loss": {"kind": "in_batch_softmax", "listed_negatives": 1}}},
    "hinge": {"train": {"loss": {"kind": "hinge", "negatives": 2}}},
    "softmax": {
        "train": {"loss": {"kind": "pointwise", "link": "softmax"}},
        "evaluate": {"kinds": ["graded"]},
    },
    "ordinal": {
        "train": {"loss": {"kind": "pointwise", "link": "ordinal"}},
        "evaluate": {"kinds": ["ranking", "graded"], "candidates": "listed"},
    },
}
# what the matching cases take turns in, beside head and loss
CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
POOLINGS = ("last", "max", "mean", "attention", "max_mean")
OPTIMIZERS: tuple[Case, ...] = ({"kind": "adam"}, {"kind": "adamw", "clip_norm": None}, {"kind": "sgd"})
TOWERS = ("shared", "separate")
SAMPLED = {"sampled": 5}


def merged(*parts: Case) -> Case:
    """Sections of all parts together; later ones go over earlier ones."""
    whole: Case = {}
    for part in parts:
        for name, values in part.items():
            whole[name] = {**whole.get(name, {}), **values} if isinstance(values, dict) else values
    return whole


def _matching() -> dict[str, Case]:
    found = {}
    for number, (head, loss) in enumerate((head, loss) for head in HEADS for loss in LOSSES):
        model = {
            "head": head,
            "cell": CELLS[(number + number // 4) % 4],
            "pooling": POOLINGS[(number // 4 + 3 * number) % 4],
            "towers": TOWERS[number // 2 % 2],
            "directions": 1 + number % 2,
            "layer_norm": number % 3 == 0,
            "residual": number % 3 == 1,
        }
        optimizer = {"train": {"optimizer": OPTIMIZERS[number % 3]}}
        found[f"matching {head} {loss}"] = merged({"task": "matching", "model": model}, LOSSES[loss], optimizer)
    return found


CASES: dict[str, Case] = {
    **_matching(),
    **{
        f"classification {cell} {pooling}": {"task": "classification", "model": {"cell": cell, "pooling": pooling}}
        for cell, pooling in zip((*CELLS, "gru"), POOLINGS)
    },
    **{
        f"tagging {cell} {crf} {characters}": {
            "task": "tagging",
            "model": {"cell": cell, "directions": 1 + crf},
            "tagging": {"crf": crf, "characters": characters},
        }
        for cell, crf, characters in zip(CELLS, (False, True, False, True), (False, False, True, True))
    },
    "cloze whole": {"task": "cloze", "cloze": {"sampled": 0, "compare_left": False}, "model": {"cell": "gru"}},
    "cloze sampled": {"task": "cloze", "cloze": {"sampled": 5, "compare_left": True}},
    "cloze one direction": {"task": "cloze", "model": {"directions": 1, "cell": "rnn_tanh"}},
    "language_model": {"task": "language_model", "language_model": {"streams": 3, "steps": 5, "sample_tokens": 5}},
    "language_model all": {
        "task": "language_model",
        "model": {"cell": "gru", "layer_norm": True, "residual": True},
        "language_model": {"streams": 3, "steps": 5, "sample_tokens": 5, "tied": True, "variational": True,
                           "weight_dropout": 0.2, "sampled": 5},
        "train": {"optimizer": {"kind": "sgd"}},
    },
    **{
        f"translation {attention} {cell}": {
            "task": "translation",
            "model": {"cell": cell},
            "translation": {"attention": attention, "label_smoothing": smoothing, "copy_unknown": bool(smoothing),
                            "beam": 2},
        }
        for attention, smoothing in (("luong", 0.0), ("bahdanau", 0.1))
        for cell in CELLS
    },
    **{
        f"captioning {images} {inject}": {
            "task": "captioning",
            "images": images,
            "model": {"cell": cell, "layers": 1 + (images == "pictures")},
            "captioning": {"inject": inject, "features": "trained" if images == "pictures" else "given", "beam": 2},
        }
        for images, inject, cell in (
            ("pictures", "first", "lstm"), ("pictures", "every", "gru"), ("pictures", "attention", "lstm"),
            ("vectors", "first", "rnn_tanh"), ("vectors", "every", "lstm"), ("grids", "attention", "gru"),
        )
    },
}  # fmt: skip
