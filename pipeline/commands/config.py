"""`duplet config`: a configuration checked and shown whole; `duplet config schema`: the JSON Schema of all settings."""

import argparse
import json

from pipeline.commands import configured

arguments = configured.arguments


def run(args: argparse.Namespace) -> int:
    """Prints YAML, or the schema as JSON."""
    from pipeline.config import Config

    shown = Config.model_json_schema() if args.config == "schema" else configured.load(args).shown
    if args.json:
        print(json.dumps(shown))
    elif args.config == "schema":
        print(json.dumps(shown, indent=1))
    else:
        import yaml

        print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), end="")
    return 0
