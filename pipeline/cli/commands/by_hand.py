"""`duplet by-hand`: trains the net written out in NumPy, and draws how much of a state is left in later ones."""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.cli.commands import configured
from pipeline.core.atomic_files import path_here
from pipeline.core.errors import InputError
from pipeline.core.number_options import count, positive, seed
from pipeline.core.progress import Say, Talk

if TYPE_CHECKING:
    import numpy as np

UNKNOWN = "<unk>"
EXPERIMENT = "by_hand"
LAGS, PLACES = 40, 8  # of the picture: t - k up to, and the k averaged over
CELLS: tuple[Literal["rnn_tanh", "gru", "lstm"], ...] = ("rnn_tanh", "gru", "lstm")
CELL_HIDDEN = 48


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to learn, and how large."""
    parser.add_argument("--words", action="store_true", help="words instead of characters")
    parser.add_argument("--text", type=path_here, help="a text file; default: the standard library's code")
    parser.add_argument("--hidden", type=count, default=100, metavar="N", help="numbers in a state (100)")
    parser.add_argument("--vocabulary", type=count, default=8000, metavar="N", help="words at most (8000)")
    parser.add_argument("--steps", type=count, default=35, metavar="N", help="tokens per update (35)")
    parser.add_argument("--updates", type=count, default=20_000, metavar="N", help="updates (20000)")
    parser.add_argument("--rate", type=positive, default=0.1, help="learning rate of AdaGrad (0.1)")
    parser.add_argument("--seed", type=seed, default=1, help="seed of the first parameters and of the sample (1)")
    parser.add_argument(
        "--characters", type=count, default=3_000_000, metavar="N", help="how much of the text is read (3000000)"
    )
    parser.add_argument(
        "--no-picture", action="store_true", help="do not draw how much of a state is left in later ones"
    )
    configured.root_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Trains, writes a sample and the picture; all of it goes to a run of the experiment by_hand."""
    from pipeline.tracking import Tracking, address

    tokens, blank = _tokens(args)
    text, names = _numbered(tokens, args.vocabulary if args.words else None)
    if len(text) <= args.steps + 1:
        raise InputError(f"the text has {len(text)} tokens, too few for --steps {args.steps}")
    args.root.mkdir(parents=True, exist_ok=True)
    with Talk() as say, tempfile.TemporaryDirectory() as scratch:
        say(f"{len(text):,} tokens, {len(names):,} distinct, {args.hidden} hidden")
        tracking = Tracking(
            address(args.uri, args.root), EXPERIMENT, "words" if args.words else "characters", say, False
        )
        ended = "FAILED"
        try:
            tracking.params({key: value for key, value in vars(args).items() if key not in ("verb", "json")})
            result = _train(args, text, names, blank, Path(scratch), tracking, say)
            if not args.no_picture:
                result["picture"] = _picture(args, result.pop("nets"), text, len(names), Path(scratch), tracking, say)
            result.pop("nets", None)
            ended = "FINISHED"
        finally:
            tracking.close(ended)
    print(result["sample"])
    if args.json:
        print(json.dumps(result | {"run": tracking.run_id}))
    return 0


def _tokens(args: argparse.Namespace) -> tuple[list[str], str]:
    """The text's tokens, and what stands between them when they are written."""
    from pipeline.tokenization.tokenizers import END_OF_LINE, VerbatimTokenizer, WordTokenizer

    lines = _library(args.characters) if args.text is None else _file(args.text, args.characters)
    if args.words:
        tokenizer = WordTokenizer(lowercase=True)
        return [token for line in lines if line.strip() for token in [*tokenizer.tokens(line), END_OF_LINE]], " "
    return VerbatimTokenizer(lowercase=False).tokens("\n".join(lines)), ""


def _file(path: Path, characters: int) -> list[str]:
    """The first lines of a file. Raises InputError."""
    from pipeline.ingest import places

    lines: list[str] = []
    for line in places.lines(str(path), "utf-8", 4 * characters):
        if line.problem:
            raise InputError(f"--text {path}: line {line.number}: {line.problem}")
        lines.append(line.text[:characters])
        characters -= len(line.text) + 1
        if characters <= 0:
            break
    return lines


def _library(characters: int) -> list[str]:
    """Lines of the standard library's code."""
    from pipeline.config import check_config
    from pipeline.config.sources import PythonSource
    from pipeline.ingest import python_text

    source = PythonSource(format="python", of="code")
    config = check_config({"name": "by_hand", "task": "language_model", "model": {"directions": 1},
                           "ingest": {"source": source.model_dump()}}, "by_hand")  # fmt: skip
    lines: list[str] = []
    total = 0
    for _, rows in python_text.read(source, config, 1 << 20):
        for row in rows:
            lines += str(row.values["text"]).splitlines()
            total += len(str(row.values["text"]))
            if total >= characters:
                return lines
    return lines


def _numbered(tokens: list[str], most: int | None) -> "tuple[np.ndarray, list[str]]":
    """The tokens as numbers, the most frequent first; the rarest, if there are too many, as <unk>."""
    import numpy as np

    counts = Counter(tokens).most_common()
    names = [token for token, _ in counts]
    if most is not None and len(names) > most:
        names = [*names[: most - 1], UNKNOWN]
    numbers = {token: number for number, token in enumerate(names)}
    return np.array([numbers.get(token, len(names) - 1) for token in tokens]), names


def _train(
    args: argparse.Namespace,
    text: "np.ndarray",
    names: list[str],
    blank: str,
    folder: Path,
    tracking: Any,
    say: Say,
) -> dict[str, Any]:
    """Trains the net by hand; `nets` are the one that it began as and the one that it became."""
    import numpy as np

    from pipeline.core.event_log import Spool
    from pipeline.models import by_hand

    rng = np.random.default_rng(args.seed)
    net = by_hand.start(len(names), args.hidden, rng, np.float32)
    before = by_hand.Parameters(*(array.copy() for array in net))
    spool, began, nats = Spool(folder / "points.jsonl"), time.perf_counter(), float("nan")
    for progress in by_hand.train(net, text, args.steps, args.rate, args.updates):
        nats, speed = progress.nats, progress.update * args.steps / (time.perf_counter() - began)
        spool.write(progress.update, {"nats": nats})
        say(f"update {progress.update}/{args.updates}: {nats:.4f} nats, {speed:,.0f} tokens/s")
    tracking.points(spool)
    written = by_hand.write(net, int(text[0]), 60 if args.words else 300, rng)
    sample = blank.join(names[token] for token in written)
    (folder / "sample.txt").write_text(sample, encoding="utf-8")
    tracking.artifact(folder / "sample.txt")
    chances = np.log(len(names))
    counts = np.bincount(text) / len(text)
    alone = float(-(counts * np.log(counts)).sum())
    say(f"{nats:.3f} nats per token; by counts of single tokens {alone:.3f}, by guessing {chances:.3f}")
    tracking.metrics({"final_nats": nats, "unigram_nats": alone})
    return {"nats": nats, "unigram_nats": alone, "sample": sample, "nets": (before, net)}


def _picture(
    args: argparse.Namespace,
    nets: Any,
    text: "np.ndarray",
    size: int,
    folder: Path,
    tracking: Any,
    say: Say,
) -> dict[str, list[float]]:
    """Draws the norms of ds_t/ds_k over t - k and keeps picture and numbers in the run."""
    import mxnet as mx
    import numpy as np

    from pipeline.config import LanguageModelConfig, ModelConfig
    from pipeline.models import memory
    from pipeline.models.language_model import LanguageModel
    from pipeline.reporting import plots

    read = text[: LAGS + 4 * PLACES + 1]
    if len(read) < LAGS + 4 * PLACES + 1:
        raise InputError(f"the text has {len(text)} tokens, too few for the picture: use --no-picture")
    places = np.arange(1, 4 * PLACES, 4)
    norms: dict[str, Any] = {}
    for when, net in zip(("start", "trained"), nets):
        norms[f"by hand, {when}"] = memory.by_hand_norms(net, read, LAGS, places)
    for cell in CELLS:
        say(f"training {cell} for the picture")
        mx.random.seed(args.seed)
        np.random.seed(args.seed)
        model = ModelConfig(cell=cell, embedding=24, hidden=CELL_HIDDEN, directions=1, dropout=0.0)
        network = LanguageModel(model, LanguageModelConfig(), size)
        network.initialize()
        norms[f"{cell}, start"] = memory.layer_norms(network, read, LAGS, places)
        nats = memory.learn(network, text)
        norms[f"{cell}, trained"] = memory.layer_norms(network, read, LAGS, places)
        tracking.metrics({f"{cell}_nats": nats})
    plots.norms_over_distance(norms, folder / "state_gradients.png")
    numbers = {name: [float(value) for value in values] for name, values in norms.items()}
    (folder / "state_gradients.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    for name in ("state_gradients.png", "state_gradients.json"):
        tracking.artifact(folder / name)
    for name, values in numbers.items():
        say(f"{name:<18} " + ", ".join(f"t-k={lag}: {values[lag - 1]:.1e}" for lag in (1, 5, 10, 20, LAGS)))
    return numbers
