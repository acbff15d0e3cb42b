"""`duplet index`: documents made searchable, by words alone or by a model too; later calls read only what changed."""

import argparse
import json
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.commands import configured
from pipeline.core.atomic_files import path_at_home, path_here
from pipeline.core.errors import InputError, room_on
from pipeline.core.number_options import count
from pipeline.core.progress import Talk

if TYPE_CHECKING:
    from pipeline.search.index_store import State

# Of late interaction: what benchmarks/index_size.py found to cost at most 1 % of nDCG.
LEFT_OUT, POOLED = 0.0, 1.0
NOTHING = "nothing to do: give --documents FOLDER (or a file), or --delete ID"


def arguments(parser: argparse.ArgumentParser) -> None:
    """A model, documents, and where the index goes."""
    parser.add_argument(
        "model", nargs="?", help="a configuration, a model's folder, an MLflow run id, or models:/NAME@ALIAS; without "
        "one: the model that the index has, or words alone (BM25)",
    )  # fmt: skip
    parser.add_argument(
        "--documents", metavar="PATH", help="a folder of files (.txt, .md, .html, .pdf, .docx, code), one such file, "
        "or a table: JSON Lines, CSV, TSV or Parquet, maybe .gz or .zst",
    )  # fmt: skip
    parser.add_argument(
        "--columns", nargs="+", metavar="FIELD=COLUMN", help="of a table: which columns are id, title and text, and "
        "what else is kept: text=answer topic=category",
    )  # fmt: skip
    parser.add_argument("--encoding", help="of documents that are not UTF-8, such as cp1252")
    parser.add_argument("--delimiter", metavar="SIGN", help='between the fields of a CSV or TSV file, such as ";"')
    parser.add_argument("--output", required=True, metavar="INDEX", type=path_here, help="the index's folder")
    parser.add_argument("--name", help="shown on the search page; as the folder, if not given")
    parser.add_argument("--delete", nargs="+", metavar="ID", default=[], help="take documents out; @FILE: an id a line")
    parser.add_argument(
        "--replace-model", action="store_true", help="MODEL takes the place of the index's own; all is encoded again"
    )
    parser.add_argument("--sync", action="store_true", help="documents that are not in the file leave the index")
    parser.add_argument(
        "--approximate-above", type=count, metavar="N", help="of a new index: vectors above which clusters give "
        "candidates (20,000; of late interaction 50,000 token vectors)",
    )  # fmt: skip
    parser.add_argument(
        "--documents-per-segment",
        type=count,
        default=1000,
        metavar="N",
        help="how many documents are encoded at a time (new index only); more as the index grows",
    )
    parser.add_argument(
        "--bits", type=int, choices=(2, 4, 8, 32), default=8, help="of a new index: bits a number of its vectors (8)"
    )
    parser.add_argument(
        "--left-out", type=_share, default=LEFT_OUT, metavar="SHARE", help="of late interaction, in a new index: "
        f"the share of a passage's tokens without a vector, those that tell least ({LEFT_OUT:g})",
    )  # fmt: skip
    parser.add_argument(
        "--pooled", type=_factor, default=POOLED, metavar="N", help="of late interaction, in a new index: so many like "
        f"tokens of a passage share a vector ({POOLED:g})",
    )  # fmt: skip
    parser.add_argument("--backend", choices=("onnx", "mxnet"), default="onnx", help="what encodes")
    configured.threads_argument(parser)
    configured.root_arguments(parser)


def _share(text: str) -> float:
    return _number(text, 0, 0.9)


def _factor(text: str) -> float:
    return _number(text, 1, 16)


def _number(text: str, least: float, most: float) -> float:
    try:
        if least <= (value := float(text)) <= most:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be a number from {least:g} to {most:g}, not {text!r}")


def run(args: argparse.Namespace) -> int:
    """Builds or updates; a table of counts goes to stdout."""
    output: Path = args.output.absolute()
    before = _check(args, output)
    configured.stop_by_sigterm()
    from pipeline.core import atomic_files
    from pipeline.search.build import Update
    from pipeline.search.documents import parse_columns
    from pipeline.search.index_store import Settings

    with Talk() as say, tempfile.TemporaryDirectory(prefix="duplet-index-") as scratch, room_on(output):
        reader = _reader(args, output, before, Path(scratch))
        encoder, stamp = _encoder(args, output, before, reader)
        with atomic_files.lock(output.with_name(f".{output.name}.lock")) as waited:
            if waited:
                say(f"waited for another update of {output}")
            if (now := _check(args, output)) != before:  # another update has made or changed the index meanwhile
                before, reader = now, _reader(args, output, now, Path(scratch))
                encoder, stamp = _encoder(args, output, before, reader)
            columns = parse_columns(args.columns)
            settings = Settings(
                args.documents_per_segment, args.approximate_above, columns=columns,
                bits=args.bits, left_out=args.left_out, pooled=args.pooled,
                tokens="jieba" if encoder.config.tokenize.kind == "jieba" else "word",
                **_mix(args, before, stamp, Path(scratch), say),
            )  # fmt: skip
            with Update(output, args.name, encoder, stamp, settings, say, args.replace_model) as update:
                if reader is not None:
                    update.put(reader, args.sync, reader.unread())
                    _say_bad(reader, output, say)
                update.delete(_ids(args.delete))
                state = update.publish()
    _print(args, output, state, update.change, dict(reader.counts) if reader else {})
    return 0


def _check(args: argparse.Namespace, output: Path) -> "State | None":
    """The index's state, where there is one. Raises InputError where the arguments ask for nothing, or for no index."""
    if args.sync and not args.documents:
        raise InputError("--sync needs --documents: it deletes what is not in that file")
    if not (args.documents or args.delete or args.model):
        raise InputError(NOTHING)
    from pipeline.search import index_store

    must_read = (output / index_store.NAME).exists() or (args.delete and not args.documents)
    before = index_store.read_state(output) if must_read else None
    if args.model and not args.documents and (folder := Path(args.model).expanduser()).is_dir() and before is None:
        from pipeline.core import manifest

        if not (folder / manifest.NAME).exists():
            raise InputError(
                f"{args.model} is a folder without a model; for its files: "
                f"`{shlex.join(['duplet', 'index', '--documents', args.model, '--output', str(args.output)])}`"
            )
    if not args.documents and before is None:
        raise InputError(NOTHING)
    return before


def _encoder(args: argparse.Namespace, output: Path, before: "State | None", reader: Any) -> tuple[Any, Any]:
    """What encodes the documents, and its stamp; of no model, what cuts them into words, and None."""
    from pipeline.registry import resolve_run
    from pipeline.search.documents import Document
    from pipeline.search.open_index import open_model, stamp_of
    from pipeline.search.words_alone import WordsAlone, kind_for
    from pipeline.serving import loading

    if args.model:
        folder = resolve_run.model(args.model, args.root, args.uri)
        encoder = loading.open_encoder(folder, args.backend, args.threads)
        return encoder, stamp_of(folder, args.model, encoder)
    if before is not None:
        return open_model(before, output, None, args.root, args.uri, args.backend, args.threads)[0], before.model
    # by `found`: to iterate over the reader would remove the quarantine of an update that is at work
    return WordsAlone(kind_for(document.text for _, document in reader.found() if isinstance(document, Document))), None


def _mix(args: argparse.Namespace, before: "State | None", stamp: Any, scratch: Path, say: Talk) -> dict[str, Any]:
    """A new index's settings of BM25 and of its mix with the model's scores, as the model's evaluation chose them."""
    from pipeline.registry import resolve_run
    from pipeline.search.open_index import mix_settings

    if not args.model or (before is not None and before.model is not None and not args.replace_model):
        return {}
    mix = resolve_run.fusion_of(args.model, Path(stamp.folder), args.root, args.uri, scratch)
    if not mix:
        say("the model is not evaluated: --hybrid weighs its scores and BM25's alike, BM25 has its defaults")
    return mix_settings(mix, args.model)


def _reader(args: argparse.Namespace, output: Path, before: "State | None", scratch: Path) -> Any:
    """The documents to read; columns that are not named now are those named when the index was made."""
    from pipeline.search.documents import Table, parse_columns
    from pipeline.search.files import Files, is_for_files

    if not args.documents:
        return None
    output.parent.mkdir(parents=True, exist_ok=True)
    columns = parse_columns(args.columns)
    if not columns and before is not None:
        columns = before.settings.columns
    how = {"encoding": args.encoding, "delimiter": args.delimiter}
    quarantine = output.with_name(f"{output.name}.quarantine.jsonl")
    if is_for_files(args.documents):
        if args.columns or args.delimiter:
            raise InputError(f"--columns and --delimiter are for tables, and {args.documents} is none")
        return Files(path_at_home(args.documents), quarantine, scratch, args.encoding)
    return Table(args.documents, columns, quarantine, scratch, how)


def _say_bad(reader: Any, output: Path, say: Talk) -> None:
    """Tells of rows put aside. Raises InputError where none was good."""
    bad = reader.counts["quarantined"]
    if not reader.counts["kept"]:
        raise InputError(
            f"none of the {reader.counts['read']} {reader.what} is a document"
            + (f"; the first: {'; '.join(reader.reasons)}" if bad else "")
        )
    if bad:
        say(
            f"{bad} of {reader.counts['read']} {reader.what} put aside in {output.name}.quarantine.jsonl; "
            f"the first: {'; '.join(reader.reasons)}"
        )
    if left_out := getattr(reader, "left_out", None):
        count = left_out.total()
        say(f"left out, as not read: {reader.told_left_out()} ({count:,} file{'s' if count > 1 else ''})")


def _ids(items: list[str]) -> list[str]:
    """Ids as they stand in the index: of the command line and of files of an id per line. Raises InputError."""
    from pipeline.ingest import places
    from pipeline.ingest.rows import one_form
    from pipeline.search.documents import MAX_ROW_BYTES

    ids = []
    for item in items:
        if not item.startswith("@"):
            ids.append(one_form(item))
            continue
        for line in places.lines(item[1:], "utf-8", MAX_ROW_BYTES):
            if line.problem:
                raise InputError(f"--delete {item}: line {line.number}: {line.problem}")
            if name := one_form(line.text):
                ids.append(name)
    return ids


def _size_mb(index: Path) -> float:
    """What the index takes on disk, in MB of 10^6 bytes."""
    return sum(path.stat().st_size for path in index.rglob("*") if path.is_file()) / 1e6


def _print(args: argparse.Namespace, output: Path, state: Any, change: Any, read: dict[str, int]) -> None:
    if args.json:
        print(
            json.dumps(
                {
                    "index": str(output), "size_mb": round(_size_mb(output), 3),
                    "generation": state.generation, **state.counts, "rows": read,
                    "encoded": change.encoded, "reused": change.reused, "unchanged": change.unchanged,
                    "deleted": change.deleted, "not_there": change.not_there, "approximate": state.approximate,
                    "seconds": round(change.seconds, 3),
                }
            )
        )  # fmt: skip
        return
    print(
        f"{output}: generation {state.generation}, {state.counts['documents']} documents in "
        f"{state.counts['passages']} passages, "
        + (f"{state.counts['vectors']} vectors, " if state.model else "no model (ranked by words), ")
        + f"{_size_mb(output):,.1f} MB on disk"
    )
    done = {
        "encoded": change.encoded,
        "taken over": change.reused,
        "unchanged": change.unchanged,
        "deleted": change.deleted,
    }
    print(", ".join(f"{count} {what}" for what, count in done.items() if count) or "nothing to do")
    if change.not_there:
        print(f"not in the index: {', '.join(change.not_there[:10])}{' …' if len(change.not_there) > 10 else ''}")
    if state.approximate:
        print(
            f"recall@10 of candidates by clusters against exact search: {state.approximate['recall']:.3f} over "
            f"{state.approximate['queries']} queries ({state.approximate['effort']} clusters looked at)"
        )
