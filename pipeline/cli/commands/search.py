"""`duplet search`: queries against an index, once, line by line from stdin, or on a page."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pipeline.cli.commands import configured
from pipeline.core.atomic_files import path_here
from pipeline.core.errors import InputError
from pipeline.core.number_options import count, port
from pipeline.core.progress import Talk

MAX_LINE_BYTES = 1 << 20  # of stdin


def arguments(parser: argparse.ArgumentParser) -> None:
    """An index, a query, and how results are shown."""
    parser.add_argument("index", type=path_here, help="a folder that `duplet index` made")
    parser.add_argument("query", nargs="?", help="without one: a query for each line of stdin")
    parser.add_argument("--k", type=count, default=10, metavar="N", help="results (10)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--hybrid", action="store_true", help="mix the model's scores with BM25's")
    how.add_argument("--words", action="store_true", help="BM25 alone, for comparison")
    parser.add_argument("--where", metavar="FILTER", help="on further fields: 'language=en and date>=2024'")
    parser.add_argument("--full", action="store_true", help="show passages whole")
    parser.add_argument("--serve", action="store_true", help="a page for a browser")
    parser.add_argument("--host", default="127.0.0.1", help="with --serve: the address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=port, default=8765, help="with --serve (8765); 0: any free one")
    parser.add_argument("--model", help="the index's model, if it was moved")
    parser.add_argument("--backend", choices=("onnx", "mxnet"), default="onnx", help="what encodes queries")
    configured.threads_argument(parser)
    configured.root_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints results, a JSON object per query with --json; or serves until stopped."""
    if args.serve and args.query is not None:
        raise InputError("--serve takes no query: they are typed on the page")
    if args.model is not None and Path(args.model).suffix in (".yaml", ".yml"):
        from pipeline.registry import resolve_run

        args.model = str(resolve_run.model(args.model, args.root, args.uri))
    from pipeline.search.open_index import open_searcher

    if args.serve:
        from pipeline.search.server import serve

        with Talk(bar=False) as say:
            serve(args.index, args.host, args.port, say, _opened(args))
        return 0
    searcher = open_searcher(args.index, args.model, args.root, args.uri, args.backend, args.threads)
    mode = "hybrid" if args.hybrid else "words" if args.words else None
    if args.query is not None:
        _answer(args, searcher, args.query, mode)
        return 0
    if sys.stdin.isatty():
        return _prompt(args, searcher, mode)
    from pipeline.ingest import places

    for line in places.stdin_lines(MAX_LINE_BYTES):
        if line.problem:
            raise InputError(f"standard input, line {line.number}: {line.problem}")
        if line.text.strip():
            _answer(args, searcher, line.text.strip(), mode)
            sys.stdout.flush()
    return 0


def _prompt(args: argparse.Namespace, searcher: Any, mode: Any) -> int:
    """Answers what is typed, until the end of the input (Ctrl-D) or an empty line."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (input() edits lines by it, and remembers them)
    print("a query, and Enter; an empty line or Ctrl-D ends", file=sys.stderr)
    while True:
        try:
            line = input("? ").strip()
        except EOFError:
            print()
            return 0
        if not line:
            return 0
        try:
            _answer(args, searcher, line, mode)
        except InputError as error:  # a mistake ends a query, not the talk
            print(f"duplet search: {error}", file=sys.stderr)


def _opened(args: argparse.Namespace) -> Any:
    from pipeline.search.open_index import open_searcher

    return lambda: open_searcher(args.index, args.model, args.root, args.uri, args.backend, args.threads)


def _answer(args: argparse.Namespace, searcher: Any, query: str, mode: Any) -> None:
    answer = searcher.search(query, args.k, mode, args.where)
    state = searcher.snapshot.state
    if args.json:
        from pipeline.search.result_format import as_json

        print(json.dumps({"index": state.name, "generation": state.generation, "query": query[:1000],
                          "mode": mode or searcher.best_mode, **as_json(answer)}, ensure_ascii=False))  # fmt: skip
        return
    from pipeline.search.result_format import print_answer

    print_answer(answer, args.full)
