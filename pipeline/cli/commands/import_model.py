"""`duplet import`: a model that `duplet export --to torch` wrote, and PyTorch may have trained on, back again."""

import argparse
import json

from pipeline.core.atomic_files import path_here


def arguments(parser: argparse.ArgumentParser) -> None:
    """From where to where."""
    parser.add_argument(
        "folder", type=path_here, help="holds model.safetensors and the files that were exported with it"
    )
    parser.add_argument("--output", type=path_here, required=True, help="a folder that predict, index and export take")


def run(args: argparse.Namespace) -> int:
    """Imports; the folder goes to stdout."""
    from pipeline.serving.export import torch_export

    torch_export.bring_in(args.folder, args.output)
    print(json.dumps({"folder": str(args.output)}) if args.json else args.output)
    return 0
