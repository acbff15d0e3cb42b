"""The command `duplet`: its verbs, and nothing else. Imports wait until a verb needs them, so that --help is quick."""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from pipeline.errors import DupletError

STAGES = ("run", "ingest", "tokenize", "train", "evaluate")
HELP = {
    "run": "all stages, doing only what is not up to date",
    "ingest": "read the source into records, splits and a quarantine",
    "tokenize": "ingest, then turn texts into ids with a vocabulary of the training split",
    "train": "tokenize, then train with Horovod; goes on from the newest checkpoint",
    "evaluate": "train, then judge the test split beside BM25 and a random ranking",
    "status": "which stages are up to date, and what changed",
    "doctor": "what this machine has and lacks, each lack with its fix",
    "config": "check a configuration and show it whole; `config schema` prints its JSON Schema",
}


def parser() -> argparse.ArgumentParser:
    """All verbs and options."""
    top = argparse.ArgumentParser(
        prog="duplet", description="Trains deep bidirectional recurrent networks on pairs of texts."
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in HELP.items():
        one = verbs.add_parser(verb, help=text, description=text)
        if verb == "doctor":
            one.add_argument("config", nargs="?", help="a configuration, for its root, workers and MLflow address")
        else:
            one.add_argument("config", help="a YAML file" + (", or the word schema" if verb == "config" else ""))
        one.add_argument("overrides", nargs="*", metavar="key=value", help="settings by dotted path, train.epochs=3")
        one.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
        if verb in STAGES:
            one.add_argument("--workers", type=int, help="as train.workers=N")
            one.add_argument("--gpus", action="store_true", help="as train.gpus=true")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 1 our failure, 2 yours, 3 refused by a gate, 75 try again."""
    args = parser().parse_args(arguments)
    try:
        if args.verb in STAGES:
            return _stages(args)
        return {"status": _status, "doctor": _doctor, "config": _config}[args.verb](args)
    except DupletError as error:
        return _fail(args, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(args, "stopped", 75)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        with tempfile.NamedTemporaryFile("w", prefix="duplet-", suffix=".log", delete=False) as log:
            log.write(traceback.format_exc())
        sentence = " ".join(str(error).split())[:300]
        return _fail(args, f"unexpected {type(error).__name__}: {sentence}; the traceback is in {log.name}", 1)


def _fail(args: argparse.Namespace, sentence: str, code: int) -> int:
    print(f"duplet {args.verb}: {sentence}", file=sys.stderr)
    if args.json:
        print(json.dumps({"error": sentence, "exit_code": code}))
    return code


def _load(args: argparse.Namespace) -> Any:
    from pipeline.config import load_config

    overrides = list(args.overrides)
    if getattr(args, "workers", None) is not None:
        overrides.append(f"train.workers={args.workers}")
    if getattr(args, "gpus", False):
        overrides.append("train.gpus=true")
    return load_config(args.config, overrides)


def _stages(args: argparse.Namespace) -> int:
    config = _load(args)
    from pipeline import flow

    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:7.1f} s] {line}", file=sys.stderr, flush=True)

    until = "evaluate" if args.verb == "run" else args.verb
    result = flow.run(config, " ".join([args.config, *args.overrides]), until, say)
    if result.table:
        print(result.table)
    elif not args.json:
        print(result.stages[until]["folder"])
    if args.json:
        print(json.dumps({"run_id": result.run_id, "stages": result.stages, "metrics": result.metrics}))
    elif result.run_id:
        hint = f"make ui ROOT={config.root}" if config.root != "runs" else "make ui"
        say(f"MLflow run {result.run_id} (`{hint}` shows it)")
    return 0


def _status(args: argparse.Namespace) -> int:
    config = _load(args)
    from pipeline import flow

    rows = flow.status(config)
    for row in rows:
        changed = f" ({', '.join(row['changed'])})" if row["changed"] else ""
        print(f"{row['stage']:9} {row['state']:12} {row['folder']}{changed}")
    if args.json:
        print(json.dumps({"stages": rows}))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from rich.console import Console

    from pipeline import doctor

    config = _load(args) if args.config else None
    root = Path(config.root if config else "runs")
    uri = (config.tracking.uri if config else None) or os.environ.get("MLFLOW_TRACKING_URI")
    checks = doctor.examine(root, uri, config.train.workers if config else 2)
    Console().print(doctor.table(checks))
    failed = any(check.state == "failed" for check in checks)
    if args.json:
        print(json.dumps({"checks": [check._asdict() for check in checks], "ok": not failed}))
    return 2 if failed else 0


def _config(args: argparse.Namespace) -> int:
    from pipeline.config import Config

    shown = Config.model_json_schema() if args.config == "schema" else _load(args).model_dump(mode="json")
    if args.json:
        print(json.dumps(shown))
    elif args.config == "schema":
        print(json.dumps(shown, indent=1))
    else:
        import yaml

        print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
