"""`duplet vectors`: a file of word vectors for `model.vectors`, from texts without labels or from an encoder."""

import argparse
from pathlib import Path

from pipeline.cli.commands import configured
from pipeline.core.atomic_files import as_json, path_here
from pipeline.core.errors import InputError, room_on
from pipeline.core.number_options import count
from pipeline.core.progress import Talk

NONE_YET = ["model.vectors=null", "tokenize.more_words=null"]  # the file may be what this command makes


def arguments(parser: argparse.ArgumentParser) -> None:
    """A configuration, where to write, and what the vectors are made of."""
    configured.arguments(parser)
    configured.verify_argument(parser)
    parser.add_argument("--output", type=path_here, required=True, help="the file of vectors")
    parser.add_argument("--size", type=count, help="numbers of a vector (model.embedding)")
    parser.add_argument("--texts", type=path_here, nargs="+", default=[], metavar="FILE",
                        help="further texts, one per line, packed by gzip or not")  # fmt: skip
    parser.add_argument("--epochs", type=count, default=5, metavar="N", help="passes over the texts (5)")
    layout = "in place of texts: an encoder as Hugging Face lays it out; it reads each word"
    parser.add_argument("--onnx", type=path_here, metavar="FOLDER", help=layout)


def run(args: argparse.Namespace) -> int:
    """Tokenizes what is not, makes the vectors, and says what to set."""
    if args.onnx and args.texts:
        raise InputError("--onnx and --texts do not go together: the encoder has learnt from texts of its own")
    args.overrides = [*args.overrides, *NONE_YET]
    config = configured.load(args)
    from pipeline.orchestration import flow, word_vectors

    size = args.size or config.model.embedding
    with Talk() as say, room_on(args.output):
        done = flow.run(config, " ".join([args.config, *args.overrides]), "tokenize", say, args.verify).stages
        ingested, tokenized = (Path(done[stage]["folder"]) for stage in ("ingest", "tokenize"))
        if args.onnx:
            words, vectors = word_vectors.of_encoder(args.onnx, tokenized, size)
        else:
            sentences = word_vectors.Sentences(config, ingested, tokenized, args.texts)
            say(f"word vectors: {args.epochs} passes over the texts of train and further ones")
            least = config.tokenize.min_count
            words, vectors = word_vectors.of_contexts(sentences, size, args.epochs, least, config.seed)
        count = word_vectors.write(args.output, words, vectors)
        settings = f"model.vectors={args.output} tokenize.more_words={args.output} model.embedding={size}"
        say(f"{count:,} words; train with {settings}")
    print(as_json({"output": str(args.output), "words": count, "size": size}) if args.json else args.output)
    return 0
