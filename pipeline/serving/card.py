"""The model card of an exported folder: what the model is, what it was trained on, how good it is, what int8 costs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import manifest
from pipeline.config import Config
from pipeline.serving import models
from pipeline.serving.judge import judged
from pipeline.serving.runtime import open_encoder

JSON_NAME, TEXT_NAME = "card.json", "README.md"
LOSS_LIMIT = 0.01  # of the metric: more is called out
SPLIT = "valid"
GRAPHS = {
    "matching": (
        "| `encoder.onnx`, or `query_encoder.onnx` and `document_encoder.onnx` | ids (N, T) int32, 0 on padding, and "
        "lengths (N,) int32; vectors (N, P), or for late interaction (N, T, P) and weights (N, T) |",
        "| `matcher.onnx` | query_ids, query_lengths, document_ids, document_lengths; score (N,), and probabilities "
        "(N, G) of a model trained pointwise |",
    ),
    "classification": (
        "| `classifier.onnx` | ids (N, T) int32, 0 on padding, and lengths (N,) int32; probabilities (N, C) of the "
        "labels in `label/vocabulary.json`, less its first two entries |",
    ),
}


def make(trained: Path, graphs: Path, config: Config, int8: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """What there is to tell, as JSON-able values.

    Args:
        graphs: the folder being exported, which can be opened already.
    """
    made: dict[str, Any] = {
        "name": config.name,
        "task": config.task,
        "model": config.model.model_dump(mode="json"),
        "data": _without_folders(config.ingest.source.model_dump(mode="json")),
        "tokenizer": config.tokenize.model_dump(mode="json"),
        "trained": _training(trained),
        "metric": config.metric,
        "int8": int8,
    }  # fmt: skip
    if int8:
        made["int8_cost"] = int8_cost(trained, graphs, config, say)
    return made


def int8_cost(trained: Path, graphs: Path, config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """The metrics of fp32 and int8 on the validation split, and the relative loss; or why they were not measured."""
    if config.task != "matching":
        return {"measured": False, "why": f"it is measured for the task matching, not for {config.task}"}
    found = _training(trained)["tokenized"]
    places = [trained.parent.parent / "tokenize" / found, Path(config.root) / "tokenize" / found]
    tokenized = next((place for place in places if found and (place / manifest.NAME).exists()), None)
    if tokenized is None:
        return {"measured": False, "why": f"the tokenized data {found} is not beside the model"}
    values = {}
    for name, folder in (("fp32", trained), ("int8", graphs)):
        say(f"judging {name} on the validation split")
        values[name] = judged(open_encoder(folder), tokenized, SPLIT)
    metric = config.metric
    before, after = values["fp32"][metric], values["int8"][metric]
    loss = (before - after) / before if before else 0.0
    return {"measured": True, "split": SPLIT, "metric": metric, "loss": round(loss, 5),
            "within_limit": loss <= LOSS_LIMIT, **values}  # fmt: skip


def write(made: dict[str, Any], folder: Path) -> None:
    """card.json, and README.md for people."""
    (folder / JSON_NAME).write_text(json.dumps(made, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / TEXT_NAME).write_text(text(made), encoding="utf-8")


def text(made: dict[str, Any]) -> str:
    """The card in Markdown."""
    model, tokenizer, source = made["model"], made["tokenizer"], made["data"]
    figures = ", ".join(f"{key} {value:.4g}" for key, value in made["trained"]["figures"].items())
    lines = [
        f"# {made['name']}",
        "",
        f"A {made['task']} model written by Duplet: {model['layers']} layer(s) of {model['cell']}, "
        f"{model['directions']} direction(s), embedding {model['embedding']}, hidden {model['hidden']}, "
        f"pooling {model['pooling']}, head {model['head']}, {model['towers']} towers; "
        f"weights in {'eight bits' if made['int8'] else 'float32'}.",
        "",
        f"- Trained {made['trained']['created']} on {_place(source)} (format {source.get('format')}); {figures}.",
        f"- Chosen by {made['metric']} on the validation split.",
        f"- Texts become ids by tokenizer.json and vocabulary.json ({tokenizer['kind']}, "
        f"{'lower case' if tokenizer['lowercase'] else 'case kept'}, at most {tokenizer['max_tokens']} tokens).",
    ]
    if made["int8"]:
        lines.append(f"- {cost_sentence(made['int8_cost'])}")
    lines += [
        "",
        "| file | what it takes and gives |",
        "| --- | --- |",
        *GRAPHS[made["task"]],
        "| `parameters.npz` | the trained arrays by name |",
        "| `manifest.json` | every file's size and SHA-256 |",
        "",
    ]
    return "\n".join(lines)


def cost_sentence(cost: dict[str, Any]) -> str:
    """What int8 costs, in words."""
    if not cost["measured"]:
        return f"The cost of eight bits was not measured: {cost['why']}."
    metric = cost["metric"]
    verdict = "within" if cost["within_limit"] else "MORE THAN"
    return (
        f"Eight bits change {metric} on the validation split from {cost['fp32'][metric]:.4f} to "
        f"{cost['int8'][metric]:.4f}: a loss of {cost['loss']:.2%}, {verdict} the limit of {LOSS_LIMIT:.0%}."
    )


def _training(folder: Path) -> dict[str, Any]:
    """When and from what a folder's parameters were trained; of an exported folder, what its own card says."""
    if (folder / JSON_NAME).exists():
        carried: dict[str, Any] = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))["trained"]
        return carried
    source = manifest.load(folder, models.stage_of(folder), "duplet train", verify=False)
    return {
        "created": source.created,
        "commit": source.git_commit,
        "versions": source.versions,
        "tokenized": source.key_parts["inputs"].get("tokenize", ""),
        "figures": {key: value for key, value in source.counts.items() if isinstance(value, int | float)},
    }


def _without_folders(source: Any) -> Any:
    """The data's description with file names alone: where they lie is nobody else's business."""
    if isinstance(source, dict):
        return {key: _without_folders(value) for key, value in source.items()}
    return source.split("?")[0].rstrip("/").rpartition("/")[2] if isinstance(source, str) else source


def _place(source: dict[str, Any]) -> str:
    return str(source.get("path") or source.get("documents") or ", ".join(source.get("packages") or []) or "files")
