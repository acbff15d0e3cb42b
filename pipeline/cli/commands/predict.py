"""`duplet predict`: a model over a file of rows, streamed, in order, resumable, bad rows put aside."""

import argparse
import json
import sys
from pathlib import Path

from pipeline.cli.commands import configured
from pipeline.core.atomic_files import path_here
from pipeline.core.progress import Talk

MAX_ROW_KB = 1024


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, over what, to where."""
    parser.add_argument("model", help="a configuration, a model's folder, an MLflow run id, or models:/NAME@ALIAS")
    parser.add_argument("--input", required=True, help="JSON Lines, CSV, TSV or Parquet; - reads JSON Lines from stdin")
    parser.add_argument("--output", type=_output, required=True, help="the same formats; - writes JSON Lines to stdout")
    parser.add_argument(
        "--format", choices=("jsonl", "csv", "tsv", "parquet"), help="of the input, where its name does not end in it"
    )
    parser.add_argument("--encoding", help="of an input that is not UTF-8, such as cp1252")
    parser.add_argument("--delimiter", metavar="SIGN", help='between the fields of a CSV or TSV input, such as ";"')
    parser.add_argument("--backend", choices=("onnx", "mxnet"), help="default: onnx where the task has it")
    parser.add_argument("--restart", action="store_true", help="do not go on with a run that was cut off")
    configured.root_arguments(parser)


def _output(text: str) -> str:
    """The words as given, `-` or a path. Raises ArgumentTypeError."""
    path_here(text)
    return text


def run(args: argparse.Namespace) -> int:
    """Predicts; counts go to stderr, and with --json to stdout."""
    from pipeline.core import atomic_files, manifest
    from pipeline.core.errors import TryAgain
    from pipeline.ingest import places
    from pipeline.registry import resolve_run
    from pipeline.serving.predict import files

    kind = files.format_of(args.input, args.format)
    to_stdout = args.output == files.STDOUT
    output_kind = "jsonl" if to_stdout else files.format_of(args.output, None)
    fingerprint = None if args.input == files.STDIN else places.fingerprint(args.input)
    folder = resolve_run.model(args.model, args.root, args.uri)
    with Talk() as say:
        predictor = resolve_run.predictor(args.model, folder, args.root, args.uri, args.backend)
        second = getattr(predictor, "second", None) or ()  # what tells it from another one
        if args.backend is None and predictor.backend == "mxnet":
            say(f"models of the task {predictor.config.task} predict on MXNet alone")
        limit, how = MAX_ROW_KB * 1024, {"encoding": args.encoding, "delimiter": args.delimiter}
        if to_stdout:
            rows = files.read(args.input, kind, limit, Path("."), how)
            at = files.predict_stream(predictor, args.input, rows, sys.stdout.buffer, say)
        else:
            listed = json.loads((folder / manifest.NAME).read_text(encoding="utf-8"))["files"]
            asked = [fingerprint, kind, how, listed, predictor.backend, files.PARTIAL_FORMAT, *second[1:]]
            identity = atomic_files.digest(asked)
            configured.stop_by_sigterm()
            try:
                at = files.predict_file(
                    predictor, args.input, kind, atomic_files.path_at_home(args.output), output_kind, identity, limit,
                    args.restart or fingerprint is None, say, how,
                )  # fmt: skip
            except KeyboardInterrupt:
                raise TryAgain("stopped; the same command goes on from there") from None
        say(f"{at.predicted:,} of {at.read:,} rows predicted, {at.refused:,} refused")
    if args.json:
        print(json.dumps({"output": args.output, "read": at.read, "predicted": at.predicted, "refused": at.refused}))
    elif not to_stdout:
        print(args.output)
    return 0
