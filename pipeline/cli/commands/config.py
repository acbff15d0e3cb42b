"""`duplet config`: a configuration checked and shown whole; its words schema and explain: what may stand in one."""

import argparse
import importlib
import json
import shutil

from pipeline.cli.commands import configured
from pipeline.core.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    """A configuration with overrides, or a word and the paths of settings."""
    parser.add_argument(
        "config", help="a YAML file; or schema: the JSON Schema of all settings; or explain: what settings mean"
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value",
        help="settings by dotted path, train.epochs=3; after explain: paths such as train.loss or ingest.source.tsv",
    )  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="explain: all settings as docs/settings.md")


def run(args: argparse.Namespace) -> int:
    """Prints YAML, the schema as JSON, or what settings mean."""
    if args.config == "explain":
        _explain(args)
        return 0
    if args.markdown:
        raise InputError("--markdown needs the word explain: duplet config explain --markdown")
    from pipeline.config import config_model

    shown = config_model().model_json_schema() if args.config == "schema" else configured.load(args).shown
    if args.json:
        print(json.dumps(shown))
    elif args.config == "schema":
        print(json.dumps(shown, indent=1))
    else:
        import yaml

        print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), end="")
    return 0


def _explain(args: argparse.Namespace) -> None:
    from pipeline.config import config_model, explain

    config = explain.sections(config_model())
    # jobs lie above these commands: found by name, as the command line finds its verbs
    job = explain.sections(importlib.import_module("jobs.spec").JobFile)
    if args.markdown:
        print(explain.as_markdown(config, job), end="")
        return
    sections = [section for path in args.overrides or [""] for section in explain.chosen(config + job, path)]
    if args.json:
        print(json.dumps([setting._asdict() for section in sections for setting in section.settings]))
    else:
        print(explain.as_text(sections, min(shutil.get_terminal_size().columns, 120)))
