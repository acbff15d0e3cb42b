"""The model card of an exported folder: what the model is, what it was trained on, how good it is, what int8 costs."""

import json
from pathlib import Path
from typing import Any

from pipeline.config import Config, task_spec
from pipeline.core import manifest
from pipeline.serving import model_folder

LIMIT = 0.01  # of the metric: more is called out

JSON_NAME, TEXT_NAME = "card.json", "README.md"


def make(
    trained: Path, config: Config, cost: dict[str, Any] | None, second: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What there is to tell, as JSON-able values.

    Args:
        cost: of eight bits, see int8_cost; None: the weights are float32.
        second: how a second model places the first documents of a list, as fusion.json says; None: there is none.
    """
    card: dict[str, Any] = {
        "name": config.name,
        "task": config.task,
        "model": {name: value for name, value in config.shown["model"].items() if name != "vectors"},  # a place here
        "data": _without_folders(config.ingest.source.model_dump(mode="json")),
        "tokenizer": config.tokenize.model_dump(mode="json", exclude={"more_words"}),
        "trained": training(trained),
        "metric": config.train.metric,
        "taught": config.teach.who or None,
        "int8": cost is not None,
    }  # fmt: skip
    if second is not None:
        card["second_stage"] = {name: second[name] for name in ("top", "weight", "scale", "first_scale")}
    return card | ({"int8_cost": cost} if cost is not None else {})


def write(card: dict[str, Any], folder: Path) -> None:
    """card.json, and README.md for people."""
    (folder / JSON_NAME).write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / TEXT_NAME).write_text(text(card), encoding="utf-8")


def text(card: dict[str, Any]) -> str:
    """The card in Markdown."""
    model, tokenizer, source = card["model"], card["tokenizer"], card["data"]
    figures = ", ".join(f"{key} {value:.4g}" for key, value in card["trained"]["figures"].items())
    lines = [
        f"# {card['name']}",
        "",
        f"A {card['task']} model written by Duplet: {model['layers']} layer(s) of {model['cell']}, "
        f"{model['directions']} direction(s), embedding {model['embedding']}, hidden {model['hidden']}"
        f"{_shape(card['task'], model)}; weights in {'eight bits' if card['int8'] else 'float32'}.",
        "",
        f"- Trained {card['trained']['created']} on {_place(source)} (format {source.get('format')}); {figures}.",
        f"- Chosen by {card['metric']} on the validation split.",
        *([f"- Taught by {card['taught']}, beside the labels."] if card.get("taught") else []),
        f"- Texts become ids by tokenizer.json and vocabulary.json ({tokenizer['kind']}, "
        f"{'lower case' if tokenizer['lowercase'] else 'case kept'}{_limits(tokenizer['max_tokens'])}).",
    ]
    if card["int8"]:
        lines.append(f"- {cost_sentence(card['int8_cost'])}")
    if second := card.get("second_stage"):
        lines.append(f"- {second_sentence(second)}")
    lines += [
        "",
        "| file | what it takes and gives |",
        "| --- | --- |",
        *(served.card if (served := task_spec(card["task"]).onnx) else ()),
        *(["| `second/` | the second model, as a folder of its own |"] if second else []),
        "| `parameters.npz` | the trained arrays by name |",
        "| `manifest.json` | every file's size and SHA-256 |",
        "",
    ]
    return "\n".join(lines)


def _shape(task: str, model: dict[str, Any]) -> str:
    """The settings of the model that only some tasks have."""
    spec = task_spec(task)
    pooling = f", pooling {model['pooling']}" if spec.pooled else ""
    return pooling + (f", head {model['head']}, {model['towers']} towers" if spec.heads else "")


def _limits(max_tokens: dict[str, int | None]) -> str:
    """The texts' longest lengths, in words.

    >>> _limits({"query": 64, "document": 256})
    ', at most 64 tokens of query, 256 of document'
    """
    limits = [f"{limit} of {field}" for field, limit in max_tokens.items() if limit]
    return ", at most " + ", ".join(limits).replace(" of", " tokens of", 1) if limits else ""


def second_sentence(second: dict[str, Any]) -> str:
    """How a second model's scores are mixed in, in words.

    >>> second_sentence({"top": 50, "weight": 0.7, "scale": 2.0, "first_scale": 0.25}).partition(";")[2][:70]
    " these stand by 0.7 / 2 · its score + 0.3 / 0.25 · this model's, all o"
    """
    weight, scales = second["weight"], (second["scale"], second["first_scale"])
    if not weight:
        return "A second model, in `second/`, is for an index: over lists without BM25 it was no better on validation."
    return (
        f"A second model, in `second/`, scores the best {second['top']} documents of a list anew; these stand by "
        f"{weight:g} / {scales[0]:.4g} · its score + {1 - weight:g} / {scales[1]:.4g} · this model's, all others below "
        "them. A pair by itself has this model's score."
    )


def cost_sentence(cost: dict[str, Any]) -> str:
    """What int8 costs, in words."""
    if not cost["measured"]:
        return f"The cost of eight bits was not measured: {cost['why']}."
    metric = cost["metric"]
    verdict = "within" if cost["within_limit"] else "MORE THAN"
    return (
        f"Eight bits change {metric} on the validation split from {cost['fp32'][metric]:.4f} to "
        f"{cost['int8'][metric]:.4f}: a loss of {cost['loss']:.2%}, {verdict} the limit of {LIMIT:.0%}."
    )


def training(folder: Path) -> dict[str, Any]:
    """When and from what a folder's parameters were trained; of an exported folder, what its own card says."""
    if (folder / JSON_NAME).exists():
        carried: dict[str, Any] = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))["trained"]
        return carried
    source = manifest.load(folder, model_folder.stage_of(folder), "duplet train", verify=False)
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
