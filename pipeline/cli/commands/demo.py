"""`duplet demo`: copies one of the ready configurations, to be run and changed."""

import argparse
import json
import shlex
from pathlib import Path

from pipeline.core.atomic_files import path_here
from pipeline.core.errors import InputError, guess

CONFIGURATIONS = Path(__file__).parents[3] / "configs"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which one, and where to."""
    parser.add_argument("name", nargs="?", help="such as demo; without one: the list")
    parser.add_argument("--output", type=path_here, metavar="FILE", help="NAME.yaml in this folder, if not given")


def run(args: argparse.Namespace) -> int:
    """Prints the list, or the next command."""
    configurations = {path.stem: path for path in sorted(CONFIGURATIONS.glob("*.yaml"))}
    if not configurations:
        raise InputError(f"there are no configurations in {CONFIGURATIONS}: they come with a clone of the repository")
    if args.name is None:
        rows = {name: _about(path) for name, path in configurations.items()}
        if args.json:
            print(json.dumps(rows))
        else:
            width = max(map(len, rows))
            for name, about in rows.items():
                print(f"{name:{width}}  {about}")
        return 0
    if args.name not in configurations:
        meant = guess(args.name, configurations)
        raise InputError(f"there is no demo {args.name!r}{meant} (there are {', '.join(configurations)})")
    output: Path = args.output or Path(f"{args.name}.yaml")
    text = configurations[args.name].read_text(encoding="utf-8")
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{output} exists: name another file with --output, or remove it") from None
    command = shlex.join(["duplet", "run", str(output)])
    needs = " (its data lie in the folder that DUPLET_DATA names)" if "${DUPLET_DATA}" in text else ""
    print(json.dumps({"configuration": str(output), "next": command}) if args.json
          else f"wrote {output}; next: {command}{needs}")  # fmt: skip
    return 0


def _about(path: Path) -> str:
    """The first sentence of a configuration's header."""
    lines = path.read_text(encoding="utf-8").splitlines()
    header = " ".join(line.removeprefix("#").strip() for line in lines[: next(
        (i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))])  # fmt: skip
    return header.partition(". ")[0].rstrip(".")
