"""`duplet init`: looks at a folder or a table and says how to begin; of a table it writes a configuration."""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipeline.cli import guess
from pipeline.core.atomic_files import path_at_home, path_here
from pipeline.core.errors import InputError
from pipeline.core.errors import guess as guess_name

SHOWN = 60  # characters of an example


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to look at, and answers to the questions."""
    parser.add_argument("path", nargs="?", help="a folder of documents, or a table (.csv, .tsv, .jsonl, .parquet)")
    parser.add_argument("--task", type=_task, metavar="TASK", help="what is learned, if the guess is wrong")
    parser.add_argument("--columns", nargs="+", metavar="FIELD=COLUMN", help="which columns: query=question")
    parser.add_argument("--output", type=path_here, metavar="FILE", help="the configuration (my.yaml)")


def _task(name: str) -> str:
    """A task's name. Not `choices`: they would be looked up for `--help` too."""
    if name not in (names := guess.tasks()):
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(names)}{guess_name(name, names)}")
    return name


def run(args: argparse.Namespace) -> int:
    """Asks at most three questions, none where it is not on a terminal; the next command goes to stdout."""
    asks = sys.stdin.isatty() and sys.stderr.isatty() and not args.json
    ask = _ask if asks else lambda question, default: default
    path = args.path or ask("a folder of documents, or a table of pairs", "")
    if not path:
        raise InputError("nothing to look at: name a folder of documents or a table, as in `duplet init pairs.tsv`")
    if path_at_home(path).is_dir():
        return _folder(path_at_home(path), path, args.json)
    from pipeline.ingest import tables

    if tables.format_of(path) is None:
        raise InputError(
            f"{path} is neither a folder nor a table: a table's name ends in one of {', '.join(tables.ENDINGS)} "
            "(or .gz, .zst)"
        )
    with tempfile.TemporaryDirectory(prefix="duplet-init-") as scratch:
        table = guess.look(path, Path(scratch))
    if not args.json:
        _show(table)
    task = args.task or guess.task_of(table)
    if task is None:
        return _documents(path, args.json)
    if args.task is None:
        task = _choice(ask, "task", guess.tasks(), task)
    columns = guess.columns_for(task, table, _given(args.columns))
    if args.columns is None:
        columns = _columns(ask, task, table, columns)
    output: Path = args.output or path_at_home(ask("write the configuration to", "my.yaml"))
    if output.exists():
        raise InputError(f"{output} exists: name another file with --output, or remove it")
    text = _configuration(task, table, columns)
    _checked(text, output)
    next_command = shlex.join(["duplet", "run", str(output)])
    print(json.dumps({"configuration": str(output), "task": task, "columns": columns, "next": next_command})
          if args.json else f"wrote {output}; next: {next_command}")  # fmt: skip
    return 0


def _ask(question: str, default: str) -> str:
    print(f"{question}{f' [{default}]' if default else ''}: ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise KeyboardInterrupt
    return line.strip() or default


def _choice(ask: Callable[[str, str], str], what: str, among: list[str], guessed: str) -> str:
    answer = ask(f"{what} ({', '.join(among)})", guessed)
    if answer not in among:
        raise InputError(f"{answer!r} is not a {what}: choose one of {', '.join(among)}")
    return answer


def _given(items: list[str] | None) -> dict[str, str]:
    columns = {}
    for item in items or []:
        field, equals, column = item.partition("=")
        if not equals or not field or not column:
            raise InputError(f"--columns {item!r} must be FIELD=COLUMN, such as query=question")
        columns[field] = column
    return columns


def _columns(ask: Callable[[str, str], str], task: str, table: guess.Table, columns: dict[str, str]) -> dict[str, str]:
    guessed = " ".join(shlex.quote(f"{field}={name}") for field, name in columns.items())
    answer = ask("columns", guessed)
    return columns if answer == guessed else guess.columns_for(task, table, _given(shlex.split(answer)))


def _show(table: guess.Table) -> None:
    """The columns with an example each."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False)
    for heading in ("column", "example", "letters", "different"):
        shown.add_column(heading, justify="right" if heading in ("letters", "different") else "left")
    for column in table.columns:
        example = column.examples[0] if column.examples else ""
        shown.add_row(Text(column.name), Text(example[:SHOWN] + ("…" if len(example) > SHOWN else "")),
                      f"{column.letters:.0f}", str(column.values))  # fmt: skip
    console = Console(stderr=True, highlight=False)
    told = "".join(f", {name} {value!r}" for name, value in table.how.items())
    console.print(Text(f"{table.address}: {table.form}{told}; of its first {table.rows} rows:"))
    console.print(shown)


def _folder(folder: Path, address: str, as_json: bool) -> int:
    """What a folder holds, and the commands that make it searchable."""
    from collections import Counter

    from pipeline.ingest import tables
    from pipeline.search import file_formats
    from pipeline.search.files import UNREADABLE, walk

    counts: Counter[str] = Counter()
    held: list[Path] = []  # the first table
    for path, _, problem in walk(folder):
        if problem is not None:
            counts[problem.kind] += 1
            continue
        ending = file_formats.format_of(path.name)
        counts["other" if ending is None else file_formats.FORMATS[ending][0]] += 1
        if not held and tables.format_of(path.name) is not None:
            held.append(path)
    if not set(counts) - {"other", UNREADABLE}:
        also = f"; for a table in it: `{shlex.join(['duplet', 'init', str(held[0])])}`" if held else ""
        raise InputError(f"{address} holds no document that can be read (text, Markdown, HTML, PDF, Word, code){also}")
    if not as_json:
        told = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
        print(f"{address}: {told}", file=sys.stderr)
    return _documents(address, as_json)


def _documents(path: str, as_json: bool) -> int:
    """The commands for documents alone."""
    index = f"{path_at_home(path).resolve().name.partition('.')[0] or 'documents'}.index"
    commands = [["duplet", "index", "--documents", path, "--output", index], ["duplet", "search", index, "--serve"],
                ["duplet", "train-on", index]]  # fmt: skip
    if as_json:
        print(json.dumps({"next": shlex.join(commands[0])}))
        return 0
    told = ("searchable by words at once", "a page for it", "later, if you like: a model for these documents")
    width = max(len(shlex.join(command)) for command in commands)
    print("documents without queries; no configuration is needed. Next:")
    for command, why in zip(commands, told):
        print(f"  {shlex.join(command):{width}}   # {why}")
    return 0


def _configuration(task: str, table: guess.Table, columns: dict[str, str]) -> str:
    """A commented configuration."""
    from pipeline.config import task_spec, variables

    quoted = lambda text: json.dumps(variables.escaped(text), ensure_ascii=False)  # but for keys, which are as they are
    listed = ", ".join(f"{field}: {quoted(name)}" for field, name in columns.items())
    lines = [
        f"# Written by `duplet init`. `duplet config explain` tells what every setting means.\ntask: {task}",
        "ingest:\n  source:",
        f"    format: {table.form}",
        f"    path: {quoted(str(path_at_home(table.address)) if '://' not in table.address else table.address)}",
        *(f"    {name}: {quoted(value)}" for name, value in table.how.items()),
        f"    columns: {{{listed}}}",
    ]
    if "relevance" in columns:
        grades = guess.grades_for(table.labels.get(columns["relevance"], []))
        if grades is None:
            labels = ", ".join(
                f"{json.dumps(label, ensure_ascii=False)}: 0" for label in table.labels[columns["relevance"]]
            )
            lines.append(f"    grades: {{{labels}}}   # give relevant labels 1 (or 2, 3 where they are graded)")
        elif grades:
            lines.append(f"    grades: {json.dumps(grades, ensure_ascii=False)}")
    elif task_spec(task).relevance:
        lines.append("    # no column for relevance: every row counts as a relevant pair")
    chinese = any(_has_han(example) for column in table.columns for example in column.examples)
    lines += [
        "tokenize:",
        f"  kind: {'jieba' if chinese else 'word'}              # how texts become words",
        "train:",
        "  epochs: 10             # training ends earlier when validation no longer improves",
    ]
    return "\n".join(lines) + "\n"


def _has_han(text: str) -> bool:
    """Whether a text has a Han character."""
    return any("\u4e00" <= c <= "\u9fff" for c in text)


def _checked(text: str, output: Path) -> None:
    """Writes the configuration, once it is known to be one."""
    import yaml

    from pipeline.config import check_config

    check_config({"name": output.stem, **yaml.safe_load(text)}, str(output))
    output.write_text(text, encoding="utf-8")
