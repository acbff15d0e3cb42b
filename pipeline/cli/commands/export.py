"""`duplet export`: a trained model as ONNX, or in PyTorch's layout, in a folder that needs no MXNet."""

import argparse
import json
import tempfile
from pathlib import Path

from pipeline.cli.commands import configured
from pipeline.core.atomic_files import path_here
from pipeline.core.progress import Talk


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, to what, and where."""
    parser.add_argument("model", help="a configuration, a model's folder, an MLflow run id, or models:/NAME@ALIAS")
    parser.add_argument("--to", choices=("onnx", "torch"), default="onnx", help="default: onnx")
    parser.add_argument("--int8", action="store_true", help="eight-bit weights (LSTM), with their cost in the card")
    parser.add_argument("--output", type=path_here, help="default: ROOT/export/NAME-TO, -int8 added for eight bits")
    configured.root_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Exports; the folder goes to stdout."""
    from pipeline.core.errors import InputError
    from pipeline.registry import resolve_run
    from pipeline.serving.model_folder import read_config

    if args.int8 and args.to != "onnx":
        raise InputError("--int8 works with --to onnx only: a folder for PyTorch keeps float32")
    folder = resolve_run.model(args.model, args.root, args.uri)
    name = f"{read_config(folder).name}-{args.to}" + ("-int8" if args.int8 else "")
    output = args.output or args.root / "export" / name
    result = {"folder": str(output)}
    with Talk() as say:
        if args.to == "torch":
            from pipeline.serving.export import torch_export

            torch_export.export(folder, output)
        else:
            from pipeline.serving.export import model_card, onnx_export

            with tempfile.TemporaryDirectory(prefix="duplet-export-") as scratch:
                made = resolve_run.fusion_of(args.model, folder, args.root, args.uri, Path(scratch))
            card = onnx_export.export(folder, output, args.int8, say, made)
            if args.int8:
                say(model_card.cost_sentence(card["int8_cost"]))
                result["int8_cost"] = card["int8_cost"]
    print(json.dumps(result) if args.json else output)
    return 0
