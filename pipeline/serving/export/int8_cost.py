"""What eight-bit weights cost: the validation's metrics with both, by ONNX Runtime."""

from pathlib import Path
from typing import Any

from pipeline.config import Config, smaller_is_better
from pipeline.config.plugins import part
from pipeline.core import manifest
from pipeline.core.progress import Say
from pipeline.serving.export.model_card import LIMIT
from pipeline.serving.onnx import graph_cache

SPLIT = "valid"


def measure(config: Config, trained: Path, fp32: Path, int8: Path, tokenized_key: str, say: Say) -> dict[str, Any]:
    """The metrics of fp32 and int8 on the validation split, and the relative loss; or why they were not measured.

    Args:
        fp32, int8: where the graphs of both lie; `int8` is the folder being exported, which can be opened already.
        tokenized_key: of the tokenized data that the model was trained on.
    """
    places = [trained.parent.parent / "tokenize" / tokenized_key, config.local_root / "tokenize" / tokenized_key]
    tokenized = next((place for place in places if tokenized_key and (place / manifest.NAME).exists()), None)
    if tokenized is None:
        return {"measured": False, "why": f"the tokenized data {tokenized_key} is not beside the model"}
    values = {}
    for name, folder, graphs in (("fp32", trained, fp32), ("int8", int8, int8)):
        say(f"judging {name} on the validation split")
        values[name] = part(graph_cache.onnx_of(config).judge)(config, folder, graphs, tokenized, SPLIT)
    metric = config.train.metric
    before, after = values["fp32"][metric], values["int8"][metric]
    lost = after - before if smaller_is_better(metric) else before - after
    loss = lost / before if before else 0.0
    return {"measured": True, "split": SPLIT, "metric": metric, "loss": round(loss, 5),
            "within_limit": loss <= LIMIT, **values}  # fmt: skip
