"""`duplet train-on`: a model trained on pairs that are made of an index's documents, and joined to that index."""

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.commands import configured
from pipeline.core import atomic_files
from pipeline.core.atomic_files import path_here
from pipeline.core.errors import InputError, room_on
from pipeline.core.naming import root_here
from pipeline.core.number_options import whole
from pipeline.core.progress import Talk

if TYPE_CHECKING:
    from pipeline.config import Config

EXAMPLES_SEEN = 40_000  # over all epochs: some four minutes on two cores
MIN_PAIRS = 100
TEMPLATE = """\
# Written by `duplet train-on {index}`: a model for its documents, trained on pairs made of them ({told}).
# `duplet run {own}` trains and judges it again; `duplet report {own}` shows how good it is.
name: {name}
ingest:
  source:
    format: jsonl
    paths: {{train: {train}, valid: {valid}, test: {test}}}
    columns: {{query: query, document: document, metadata: [source]}}
tokenize:
  kind: {kind}
  max_tokens: {{query: {query_tokens}, document: {document_tokens}}}
model:                       # small and quick; `hidden: 96` and `embedding: 96` are better and slower
  embedding: 64
  hidden: 64
train:
  loss: {{temperature: 0.05}}
  optimizer: {{learning_rate: 0.002}}
  epochs: {epochs}                 # over {pairs:,} pairs
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """An index, settings, and how many pairs."""
    parser.add_argument("index", type=path_here, help="a folder that `duplet index` made")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings by dotted path, train.epochs=3"
    )
    parser.add_argument(
        "--pairs", type=whole(MIN_PAIRS), default=20_000, metavar="N", help="made for training, at most (20,000)"
    )
    parser.add_argument("--anew", action="store_true", help="make new pairs, and let the new model replace the old one")
    configured.workers_argument(parser)
    parser.add_argument("--root", type=root_here, default=Path("runs"), help="the folder of all runs (runs)")


def run(args: argparse.Namespace) -> int:
    """Makes pairs, trains, judges and joins; the table and the index's line go to stdout."""
    from pipeline.search import index_store

    index: Path = args.index.absolute()
    state = index_store.read_state(index)
    folder = index.with_name(f"{index.name}.training")
    with Talk() as say, room_on(folder):
        config_path = folder / "train.yaml"
        if args.anew and folder.exists():
            atomic_files.remove_folder(folder)
        elif state.model is not None and not args.anew and not config_path.exists():
            raise InputError(
                f"{args.index} has a model already ({state.model.given}); --anew makes another one, which replaces it"
            )
        if not config_path.exists():
            _write(index, folder, args, say)
        return _train_and_join(_config(config_path, args), index, args, say)


def _write(index: Path, folder: Path, args: argparse.Namespace, say: Talk) -> None:
    from pipeline.search import index_store
    from pipeline.search.build import Held
    from pipeline.tokenization import training_pairs

    snapshot = index_store.open_snapshot(index)
    with atomic_files.new_folder(folder) as new:
        counts = training_pairs.write(Held(snapshot), new, args.pairs)
        if counts["train"] < MIN_PAIRS or not counts["valid"] or not counts["test"]:
            raise InputError(
                f"the documents of {args.index} give {counts['train']} pairs to train on, {counts['valid']} to choose "
                f"by and {counts['test']} to test with: at least {MIN_PAIRS}, 1 and 1 are needed. "
                "Index more documents, or stay with search by words, which needs no model"
            )
        told = ", ".join(f"{counts[kind]:,} {kind}s" for kind in ("title", "heading", "sentence") if counts[kind])
        say(f"{counts['train']:,} pairs to train on, {counts['valid']:,} to choose by, {counts['test']:,} to test with "
            f"({told} as queries): {folder}")  # fmt: skip
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in index.name.removesuffix(".index"))
        files = {split: _quoted(folder / f"{split}.jsonl") for split in training_pairs.SPLITS}
        text = TEMPLATE.format(
            index=shlex.quote(str(args.index)), own=shlex.quote(str(folder / "train.yaml")), told=told,
            name=json.dumps(name), **files, kind=snapshot.state.settings.tokens,
            query_tokens=training_pairs.QUERY_TOKENS, document_tokens=training_pairs.PASSAGE_TOKENS,
            epochs=max(1, min(10, round(EXAMPLES_SEEN / counts["train"]))), pairs=counts["train"],
        )  # fmt: skip
        (new / "train.yaml").write_text(text, encoding="utf-8")


def _quoted(path: Path) -> str:
    """A path as YAML text, in which `${` would stand for a variable."""
    from pipeline.config import variables

    return json.dumps(variables.escaped(str(path)), ensure_ascii=False)


def _config(path: Path, args: argparse.Namespace) -> "Config":
    from pipeline.config import load_config

    overrides = configured.overrides_of(args)
    if not any(override.partition("=")[0] == "root" for override in overrides):
        overrides.append(f"root={_quoted(args.root)}")
    return load_config(path, overrides)


def _train_and_join(config: "Config", index: Path, args: argparse.Namespace, say: Talk) -> int:
    from pipeline.cli.commands import index as index_command
    from pipeline.cli.commands import stages
    from pipeline.orchestration import flow

    result = flow.run(config, shlex.quote(str(args.index)), "evaluate", say)
    if result.table:
        print(result.table)
    parser = argparse.ArgumentParser()
    index_command.arguments(parser)
    words = [result.stages["train"]["folder"], "--output", str(index), "--root", str(config.local_root)]
    if args.anew:
        words.append("--replace-model")
    joining = parser.parse_args(words)
    joining.json = args.json
    code = index_command.run(joining)
    if not args.json:
        say(f"the index answers with the model now: `{shlex.join(['duplet', 'search', str(args.index), '--serve'])}`")
        if result.run_id:
            say(f"MLflow run {result.run_id} (`{stages.pages(str(config.local_root), result.run_id)}` shows it)")
    return code
