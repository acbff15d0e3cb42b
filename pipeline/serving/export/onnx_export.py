"""A trained folder as ONNX: the export that people use without MXNet, and the cache that encoding makes itself."""

import time
from pathlib import Path
from typing import Any

from pipeline.config.plugins import part
from pipeline.core import atomic_files, manifest
from pipeline.core.progress import Say
from pipeline.serving import model_folder
from pipeline.serving.export import int8_cost, model_card
from pipeline.serving.model_folder import read_config, read_parameters
from pipeline.serving.onnx.graph_cache import check, ensure_graphs, key_parts, onnx_of, save, write_graphs


def export(trained: Path, output: Path, int8: bool, say: Say) -> dict[str, Any]:
    """Writes graphs, tokenizer, parameters, model card and manifest into `output`, whole or not at all.

    Args:
        trained: a whole trained folder.
        int8: eight-bit weights; what they cost is measured on the validation split, where that is at hand.

    Returns:
        The card: see `card.make`.

    Raises:
        InputError: the model's task or cell cannot be exported so, or `output` is something else's folder.
    """
    began = time.time()
    model_folder.check_output(output)
    config, arrays = read_config(trained), read_parameters(trained)
    check(config, int8)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files.lock(output.with_name(f".{output.name}.lock")), atomic_files.new_folder(output) as new:
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
        card = model_card.make(trained, config, cost)
        model_card.write(card, new)
        manifest.write(new, "export", key_parts(trained, int8), {"files": len(list(new.iterdir()))}, began,
                       {"configuration": config.name, "int8": int8, **config.needed})  # fmt: skip
    return card
