"""`duplet generate`: text from a language model, shown as it is written; the same seed gives the same text."""

import argparse
import json
import math
import sys
from typing import Any

from pipeline.cli.commands import configured
from pipeline.core.errors import InputError
from pipeline.core.number_options import count, seed, whole

MAX_LENGTH = 1_000_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, after what, how much, and how the next token is drawn."""
    parser.add_argument("model", help="a configuration, a model's folder, an MLflow run id, or models:/NAME@ALIAS")
    parser.add_argument("--prompt", default="", help="the text to continue (default: a new text)")
    parser.add_argument("--length", type=whole(1, MAX_LENGTH), default=300, metavar="N", help="tokens to write (300)")
    parser.add_argument("--temperature", type=float, metavar="T", help="1: as learned; below 1: safer; 0: no chance")
    parser.add_argument("--top-k", type=count, metavar="K", help="draw only from the K most probable tokens")
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw only from the top tokens whose probabilities reach P"
    )
    parser.add_argument("--seed", type=seed, default=1, metavar="S", help="seed of the draws (1)")
    parser.add_argument(
        "--beam", type=count, metavar="N", help="draw nothing: search the most probable text with N beams"
    )
    configured.root_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the prompt and what follows to stdout; with --json one object of both."""
    _check(args)
    from pipeline.config import task_specs
    from pipeline.registry import resolve_run
    from pipeline.serving.model_folder import read_config, read_parameters

    folder = resolve_run.model(args.model, args.root, args.uri)
    config = read_config(folder)
    if not config.spec.goes_on:
        able = " or ".join(name for name, spec in task_specs().items() if spec.goes_on)
        raise InputError(
            f"{args.model} is a model of the task {config.task}, which writes no text: give one of {able}, "
            "or use `duplet predict`"
        )
    import mxnet as mx

    from pipeline.models.writing import Choice
    from pipeline.serving.predict.mxnet_encoder import set_parameters
    from pipeline.tasks.base import task_of

    task: Any = task_of(config, folder)
    network = task.network()
    set_parameters(network, read_parameters(folder), config.model.kernel)
    prompt, unknown = task.prompt(args.prompt)
    if unknown:
        print(f"unknown words are read as <unk>: {' '.join(unknown[:10])}", file=sys.stderr)
    answer: dict[str, Any] = {"prompt": args.prompt, "seed": args.seed}
    show = _quiet if args.json else _show
    show(args.prompt)
    if args.beam is not None:
        text, nats = task.likeliest(network, prompt, args.length, args.beam, mx.cpu())
        show(text)
        answer |= {"text": text, "nats": nats}
    else:
        temperature = 1.0 if args.temperature is None else args.temperature
        choice = Choice(temperature, args.top_k, args.top_p)
        parts = []
        for part in task.go_on(network, prompt, args.length, choice, args.seed, mx.cpu()):
            show(part)
            parts.append(part)
        answer["text"] = "".join(parts)
    show("\n")
    if args.json:
        print(json.dumps(answer))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises InputError for a value that means nothing."""
    temperature, top_p = args.temperature, args.top_p
    if temperature is not None and not (math.isfinite(temperature) and temperature >= 0):
        raise InputError(f"--temperature {temperature} must be 0 or more, such as 0.8")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"--top-p {top_p} must be above 0 and at most 1")
    if args.beam is not None and (temperature, args.top_k, top_p) != (None, None, None):
        raise InputError("--beam draws nothing: leave out --temperature, --top-k and --top-p")


def _show(text: str) -> None:
    sys.stdout.write(text.encode("utf-8", "replace").decode("utf-8"))
    sys.stdout.flush()


def _quiet(text: str) -> None:
    """With --json, stdout is for the object."""
