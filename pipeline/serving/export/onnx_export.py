"""A trained folder as ONNX: the export that people use without MXNet, and the cache that encoding makes itself."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.config.plugins import part
from pipeline.core import atomic_files, manifest
from pipeline.core.progress import Say
from pipeline.evaluation import fusion
from pipeline.serving import model_folder, second_stage
from pipeline.serving.export import int8_cost, model_card
from pipeline.serving.model_folder import read_config, read_parameters
from pipeline.serving.onnx.graph_cache import check, ensure_graphs, key_parts, onnx_of, save, write_graphs


def export(
    trained: Path, output: Path, int8: bool, say: Say, made: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Writes graphs, tokenizer, parameters, model card and manifest into `output`, whole or not at all.

    Args:
        trained: a whole trained folder.
        int8: eight-bit weights; what they cost is measured on the validation split, where that is at hand.
        made: fusion.json of its evaluation, which is written too; the model of its second stage is exported, in
            float32, into a folder within. {}: of no evaluation.

    Returns:
        The card: see `card.make`.

    Raises:
        InputError: the model's task or cell cannot be exported so, `output` is something else's folder, or the second
            model is gone.
    """
    model_folder.check_output(output)
    check(read_config(trained), int8)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files.lock(output.with_name(f".{output.name}.lock")), atomic_files.new_folder(output) as new:
        second = _write_fusion(trained, new, dict(made), say)
        return _write(trained, new, int8, say, second)


def _write_fusion(trained: Path, new: Path, made: dict[str, Any], say: Say) -> dict[str, Any] | None:
    """fusion.json and the second model; returns how a list's documents are placed by it, None without one."""
    stages = [made["rerank"], second_stage.alone_of(made)] if "rerank" in made else []
    second = next(filter(None, (second_stage.chosen(stage, trained.name) for stage in stages)), None)
    if second is None:
        made.pop("rerank", None)  # the evaluation gave it no weight
    else:
        say("writing the second model")
        (new / model_folder.SECOND).mkdir()
        _write(Path(second.folder), new / model_folder.SECOND, False, say)
        made["rerank"] = made["rerank"] | {"model": model_folder.SECOND}
    if made:
        (new / fusion.NAME).write_text(atomic_files.as_json(made, indent=1), encoding="utf-8")
    return second_stage.alone_of(made)


def _write(trained: Path, new: Path, int8: bool, say: Say, second: dict[str, Any] | None = None) -> dict[str, Any]:
    """What an exported folder holds of one model, and its card."""
    began = time.time()
    config, arrays = read_config(trained), read_parameters(trained)
    model_folder.carry(trained, new)
    say("writing the graphs")
    write_graphs(config, arrays, new, int8)
    if exported := onnx_of(config).exported:
        for name, model in part(exported)(config, arrays).items():
            save(model, new / name, int8)
    cost = None
    if int8:
        tokenized = model_card.training(trained)["tokenized"]
        cost = int8_cost.measure(config, trained, ensure_graphs(trained), new, tokenized, say)
    card = model_card.make(trained, config, cost, second)
    model_card.write(card, new)
    manifest.write(new, "export", key_parts(trained, int8), {"files": len(list(new.iterdir()))}, began,
                   {"configuration": config.name, "int8": int8, **config.needed})  # fmt: skip
    return card
