"""`duplet ask`: the best passages for a question, and an answer that cites them where a language model is named."""

import argparse
import json
import os
import sys
from typing import Any

from pipeline.cli.commands import configured
from pipeline.core.atomic_files import path_here
from pipeline.core.errors import InputError
from pipeline.core.number_options import count

ADDRESS, MODEL, KEY = "DUPLET_LLM_ADDRESS", "DUPLET_LLM_MODEL", "DUPLET_LLM_KEY"


def arguments(parser: argparse.ArgumentParser) -> None:
    """An index, a question, and who writes the answer."""
    parser.add_argument("index", type=path_here, help="a folder that `duplet index` made")
    parser.add_argument("question", help="in whole words")
    parser.add_argument("--k", type=count, default=5, metavar="N", help="passages (5)")
    parser.add_argument("--where", metavar="FILTER", help="on further fields: 'language=en and date>=2024'")
    parser.add_argument(
        "--llm", metavar="ADDRESS", help="of a language model's server in OpenAI's style, up to /v1; the passages are "
        f"sent there (the variable {ADDRESS}; without either the passages are the answer). A key comes from {KEY}",
    )  # fmt: skip
    parser.add_argument("--llm-model", metavar="NAME", help=f"the language model's name there (the variable {MODEL})")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds to wait for it (60)")
    parser.add_argument("--model", help="the index's model, if it was moved")
    configured.root_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the answer and its passages; one JSON object with --json."""
    from pipeline.search import answers

    if not 0 < args.timeout <= answers.MAX_TIMEOUT_S:
        raise InputError(f"--timeout {args.timeout:g} must be above 0 and at most {answers.MAX_TIMEOUT_S:g} seconds")
    from pipeline.search.open_index import open_searcher
    from pipeline.search.result_format import as_json, print_answer

    address = args.llm or os.environ.get(ADDRESS)
    name = args.llm_model or os.environ.get(MODEL) or "default"
    server = None
    if address:
        server = answers.Server(answers.checked(address), name, answers.checked_key(os.environ.get(KEY)), args.timeout)
    searcher = open_searcher(args.index, args.model, args.root, args.uri)
    search_answer = searcher.search(args.question, args.k, None, args.where)
    written: Any = None
    trouble = ""
    if server is not None and search_answer.results:
        try:
            written = answers.ask(server, args.question, answers.passages_of(search_answer.results))
        except answers.NoAnswer as problem:
            trouble = f"the language model at {server.shown} {problem}: here are the passages alone"
            print(f"duplet ask: {trouble}", file=sys.stderr)
    if args.json:
        answer = None if written is None else written._asdict()
        print(json.dumps({"question": args.question, "answer": answer, "problem": trouble or None,
                          **as_json(search_answer)}, ensure_ascii=False))  # fmt: skip
        return 0
    if written is not None:
        print(written.text)
        if written.unknown:
            print(f"(it cites {', '.join(f'[{n}]' for n in written.unknown)}, of which there is no passage)")
        if not written.cited:
            print("(it cites no passage: check it)")
        print()
    print_answer(search_answer, False)
    return 0
