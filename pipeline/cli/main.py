"""The command `duplet`: a table of verbs. A verb's module is imported when it is called, so --help is quick."""

import argparse
import importlib
import io
import json
import os
import sys
import tempfile
import traceback
from typing import NamedTuple

from pipeline.cli import examples
from pipeline.core.credentials import trust
from pipeline.core.errors import DupletError, guess, one_line, room_on
from pipeline.core.redaction import hide
from pipeline.core.version import __version__


class Verb(NamedTuple):
    module: str  # offers arguments(parser) and run(args) -> exit code
    help: str


VERBS = {
    "init": Verb("pipeline.cli.commands.init", "look at a folder or a table, and write a configuration for it"),
    "demo": Verb("pipeline.cli.commands.demo", "list the ready configurations, or copy one"),
    "run": Verb("pipeline.cli.commands.stages", "run all stages; skip those that are up to date"),
    "ingest": Verb("pipeline.cli.commands.stages", "read the source into records, splits and a quarantine"),
    "tokenize": Verb(
        "pipeline.cli.commands.stages", "ingest, then turn texts into ids with a vocabulary of the training split"
    ),
    "teach": Verb("pipeline.cli.commands.stages", "tokenize, then judge a teacher's scores by the labels"),
    "mine": Verb("pipeline.cli.commands.stages", "tokenize, then find hard negatives for the training pairs"),
    "pretrain": Verb("pipeline.cli.commands.stages", "tokenize, then train on pairs made of the documents"),
    "train": Verb(
        "pipeline.cli.commands.stages", "tokenize, then train with Horovod; goes on from the newest checkpoint"
    ),
    "evaluate": Verb(
        "pipeline.cli.commands.stages", "train, then measure the model and its baselines on the test split"
    ),
    "promote": Verb("pipeline.cli.commands.promote", "make a trained model the champion if it passes the gate; --back"),
    "report": Verb(
        "pipeline.cli.commands.report", "make the page of a run: curves, tables, best and worst queries, settings"
    ),
    "compare": Verb("pipeline.cli.commands.compare", "show how runs differ: in settings, metrics and queries"),
    "sweep": Verb(
        "pipeline.cli.commands.sweep", "run a configuration with several values of some settings, and compare them"
    ),
    "status": Verb("pipeline.cli.commands.status", "show which stages are up to date, and what changed"),
    "runs": Verb(
        "pipeline.cli.commands.runs", "list what there is under a root: stages, best value, size, MLflow's run"
    ),
    "predict": Verb("pipeline.cli.commands.predict", "apply a model to a file of rows: scores, ranks, grades, labels"),
    "generate": Verb("pipeline.cli.commands.generate", "write text with a language model, shown as it is written"),
    "export": Verb(
        "pipeline.cli.commands.export",
        "write a trained model as ONNX or for PyTorch, into a folder that needs no MXNet",
    ),
    "import": Verb(
        "pipeline.cli.commands.import_model", "read a model in PyTorch's layout back into a folder that can be used"
    ),
    "index": Verb(
        "pipeline.cli.commands.index", "make a collection of documents searchable; only changed documents are encoded"
    ),
    "vectors": Verb(
        "pipeline.cli.commands.vectors", "make a file of word vectors, from texts without labels or from an encoder"
    ),
    "train-on": Verb(
        "pipeline.cli.commands.train_on", "train a model for an index, on pairs made of its documents; nothing to label"
    ),
    "search": Verb(
        "pipeline.cli.commands.search",
        "search an index: one query, a query per line of stdin, or a page in the browser",
    ),
    "ask": Verb(
        "pipeline.cli.commands.ask",
        "the best passages for a question; with a language model, an answer that cites them",
    ),
    "by-hand": Verb(
        "pipeline.cli.commands.by_hand", "train a recurrent network written in NumPy, and show what its states remember"
    ),
    "replay": Verb("pipeline.cli.commands.replay", "compute an update again whose loss or gradients were not finite"),
    "sync": Verb(
        "pipeline.cli.commands.sync", "send to MLflow what it missed: its server was down, or the command was killed"
    ),
    "ui": Verb("pipeline.cli.commands.ui", "show the runs under a root in MLflow's pages, in a browser"),
    "doctor": Verb("pipeline.cli.commands.doctor", "check this machine, and say how to fix what is missing"),
    "config": Verb(
        "pipeline.cli.commands.config", "check a configuration and show it whole; `config explain`: what settings mean"
    ),
    "completion": Verb("pipeline.cli.commands.completion", "complete commands in bash, zsh or fish by the Tab key"),
    "submit": Verb("jobs.commands.submit", "run a configuration as a job: detached here, on SLURM or on Kubernetes"),
    "jobs": Verb("jobs.commands.jobs", "list, status, logs, wait, cancel, resume: manage submitted jobs"),
    "clean": Verb("jobs.commands.clean", "remove unfinished work, failed runs, and stages that no run uses"),
    "gc": Verb("jobs.commands.gc", "remove old nights of schedules: folders, runs and versions that nothing needs"),
    "schedule": Verb("jobs.commands.schedule", "run a configuration at set times; list, remove, run what is due"),
}


# By the name that is imported, the extra of the package that brings it; see pyproject.toml.
EXTRAS = {
    **dict.fromkeys(("onnx", "onnxruntime", "ml_dtypes", "mlflow", "safetensors", "PIL"), "serve"),
    **dict.fromkeys(("faiss", "bm25s", "Stemmer", "scipy", "fastapi", "uvicorn", "jinja2", "lxml"), "search"),
    **dict.fromkeys(
        ("mxnet", "gluonnlp", "horovod", "pandas", "sklearn", "ir_measures", "matplotlib", "optuna", "sacrebleu",
         "seqeval", "pycocoevalcap", "croniter"),
        "train",
    ),
}  # fmt: skip


def parser(asked: str | None = None) -> argparse.ArgumentParser:
    """All verbs; the options of the one that is asked for."""
    return _parsers(asked)[0]


def _parsers(asked: str | None) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    top = argparse.ArgumentParser(
        prog="duplet", description="Trains deep bidirectional recurrent networks on pairs of texts."
    )
    top.add_argument("--version", action="version", version=f"duplet {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        verb_parser = verbs.add_parser(name, help=verb.help, description=verb.help)
        if name == asked:
            importlib.import_module(verb.module).arguments(verb_parser)
            verb_parser.epilog, verb_parser.formatter_class = examples.shown(name), argparse.RawDescriptionHelpFormatter
            verb_parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    return top, verbs.choices


def _arguments(words: list[str]) -> argparse.Namespace:
    """The arguments of the verb that is given; exits with code 2 and a sentence where they are not valid.

    Options, settings and other words may stand in any order.
    """
    asked = words[0] if words else ""
    if asked and not asked.startswith("-") and asked not in VERBS:
        parser().error(f"there is no verb {asked!r}{guess(asked, VERBS, 0.6)} (verbs: {', '.join(VERBS)})")
    top, verbs = _parsers(asked)
    if asked not in VERBS:
        return top.parse_args(words)
    verb_parser = verbs[asked]
    if verb_parser._subparsers is None:
        args, rest = verb_parser.parse_known_intermixed_args(words[1:])
    else:  # argparse cannot mix the words of an action with options
        args, rest = verb_parser.parse_known_args(words[1:])
    if rest:
        verb_parser.error(_unknown(verb_parser, rest))
    args.verb = asked
    return args


def _unknown(verb_parser: argparse.ArgumentParser, rest: list[str]) -> str:
    """A sentence on words that a verb does not take; settings are often written as options."""
    option = rest[0].partition("=")[0]
    if not option.startswith("--"):
        return f"unrecognized arguments: {' '.join(rest)}"
    meant = guess(option, verb_parser._option_string_actions, 0.8)
    if not meant and any(action.metavar == "key=value" for action in verb_parser._actions):
        meant = f"; a setting is written without dashes: {option.removeprefix('--')}=VALUE"
    return f"there is no option {option}{meant}"


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 1 our failure, 2 yours, 3 refused by a gate, 75 try again."""
    if arguments is None:
        os.environ["PYTHONSAFEPATH"] = "1"  # no child, a pool's either, imports what lies in the working directory
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # else it is closed
                stream.reconfigure(errors="backslashreplace")  # for letters that the terminal's encoding does not have
    args = _arguments(sys.argv[1:] if arguments is None else arguments)
    if getattr(args, "uri", None):
        trust(args.uri)
    try:
        with room_on("what was being written"):
            code: int = importlib.import_module(VERBS[args.verb].module).run(args)
        return code
    except DupletError as error:
        return _fail(args, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(args, "stopped", 75)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(str(error.name).partition(".")[0])
        if extra is None:
            return _unexpected(args, error)
        return _fail(args, f"the package {error.name} is not installed: pip install 'duplet[{extra}]' brings it", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _unexpected(args, error)


def _unexpected(args: argparse.Namespace, error: Exception) -> int:
    with tempfile.NamedTemporaryFile("w", prefix="duplet-", suffix=".log", delete=False) as log:
        log.write(hide(traceback.format_exc()))
    sentence = one_line(error, 300)
    return _fail(args, f"unexpected {type(error).__name__}: {sentence}; the traceback is in {log.name}", 1)


def _fail(args: argparse.Namespace, sentence: str, code: int) -> int:
    sentence = hide(sentence)
    print(f"duplet {args.verb}: {sentence}", file=sys.stderr)
    if args.json:
        print(json.dumps({"error": sentence, "exit_code": code}))
    return code
