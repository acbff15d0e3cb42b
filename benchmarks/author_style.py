"""Does a language model write as its author does? A classifier that tells the author from others is asked.

    .venv/bin/python benchmarks/author_style.py configs/author_zh.yaml [key=value …] --others A.txt.gz B.txt.gz

The model is trained by the configuration, if it is not yet (`duplet run`). The others' texts are cut into records as
the author's are, and split by the same hash. A classifier, like that of configs/chnsenticorp.yaml but over characters,
learns to tell pieces of --characters characters: the author's training records, and as many pieces of the others'. Then
it sees pieces that nothing was trained on: of the author's test records, of the others', of what the model writes, and
of what a character trigram of the author's training text writes. What is told is the share that it takes for the
author's, with its 95 % interval (Wilson). All that is no letter, digit or Han character is one blank, as editions
differ in punctuation. Names are not taken out: who writes of the same people is nearer. The last line is one JSON.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from pipeline.config import Config, check_config, load_config
from pipeline.core.errors import DupletError, InputError
from pipeline.evaluation.ngrams import Trigram

AUTHOR, OTHERS = "author", "others"
SPLITS = ("train", "valid", "test")
CLASSIFIER: dict[str, Any] = {
    "task": "classification",
    "tokenize": {"kind": "character", "min_count": 2},
    "model": {"embedding": 128, "hidden": 64, "pooling": "max", "dropout": 0.5},
    "train": {"max_pairs_per_update": 32, "epochs": 5},
}


def pieces(texts: Iterable[str], size: int) -> list[str]:
    """Texts as pieces of `size` characters; what is left over at a text's end is left out.

    >>> pieces(["ab, cd! efg", "h"], 4)
    ['ab c', 'd ef']
    """
    found = []
    for text in texts:
        plain = re.sub(r"[\W_]+", " ", text).strip()
        found += [plain[start : start + size] for start in range(0, len(plain) - size + 1, size)]
    return found


def records(ingested: Path, split: str) -> list[str]:
    """The texts of a split's records."""
    found: list[str] = pq.read_table(ingested / f"records-{split}.parquet", columns=["text"])["text"].to_pylist()
    return found


def balanced(author: Sequence[str], others: Sequence[str], rng: np.random.Generator) -> list[tuple[str, str]]:
    """As many pieces of each side, with its name. Raises InputError where one has none."""
    count = min(len(author), len(others))
    if not count:
        raise InputError("a split has no whole piece of the author's, or of the others': make --characters smaller")
    drawn = lambda texts: [texts[i] for i in rng.permutation(len(texts))[:count].tolist()]
    return [(AUTHOR, text) for text in drawn(author)] + [(OTHERS, text) for text in drawn(others)]


def rate(predictions: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The share of predictions that say the author, with its 95 % interval."""
    if not predictions:
        raise InputError("a writer wrote no whole piece: make --characters smaller")
    taken = sum(row["label"] == AUTHOR for row in predictions)
    low, high = stats.binomtest(taken, len(predictions)).proportion_ci(method="wilson")
    return {"share": taken / len(predictions), "low": float(low), "high": float(high), "pieces": len(predictions)}


def trigram_text(texts: Sequence[str], length: int, rng: np.random.Generator) -> str:
    """So many characters that a trigram of the texts' characters writes."""
    characters = "".join(texts)
    names = sorted(set(characters))
    places = {character: i for i, character in enumerate(names)}
    written = Trigram(np.array([places[character] for character in characters])).write(length, rng)
    return "".join(names[i] for i in written)


def written_by(config: Config, trained: Path, length: int, temperature: float) -> str:
    """So many tokens that the language model writes from nothing, by the configuration's seed."""
    import mxnet as mx

    from pipeline.models.writing import Choice
    from pipeline.serving.model_folder import read_parameters
    from pipeline.serving.predict.mxnet_encoder import set_parameters
    from pipeline.tasks.language_model import LanguageModelTask

    task = LanguageModelTask(config, trained)
    network = task.network()
    set_parameters(network, read_parameters(trained), config.model.kernel)
    return task.write_several(network, 1, length, Choice(temperature), mx.cpu())[0]


def main() -> int:
    """Trains what is not trained yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="of the author's language model")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of that model")
    parser.add_argument("--others", nargs="+", required=True, metavar="FILE", help="texts of other authors")
    parser.add_argument("--characters", type=int, default=100, help="of a piece (100)")
    parser.add_argument("--pieces", type=int, default=200, help="that each writer writes (200)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of what the model writes (1)")
    args = parser.parse_args()
    try:
        found = measured(args)
    except DupletError as error:
        print(f"author_style: {error}", file=sys.stderr)
        return error.exit_code
    for name, one in found.items():
        print(f"{name:<16} {one['share']:.3f}  ({one['low']:.3f} to {one['high']:.3f}), {one['pieces']:,} pieces")
    print(json.dumps(found))
    return 0


def measured(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The shares by what was read. Raises DupletError."""
    from pipeline.orchestration import flow
    from pipeline.serving.loading import open_predictor

    say = lambda line: print(line, file=sys.stderr)
    config = load_config(args.config, args.overrides)
    stages = flow.run(config, args.config, "train", say).stages
    texts = {AUTHOR: Path(stages["ingest"]["folder"])}
    settings = json.loads(config.model_dump_json())
    settings["ingest"]["source"] |= {"path": args.others, "paths": {}}
    settings["name"] = f"{config.name}-others"
    texts[OTHERS] = Path(
        flow.run(check_config(settings, args.config), args.config, "ingest", say).stages["ingest"]["folder"]
    )
    rng, size = np.random.default_rng(config.seed), args.characters
    every = {(side, split): pieces(records(folder, split), size) for side, folder in texts.items() for split in SPLITS}
    folder = config.local_root / "author_style" / config.name
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for split in SPLITS:
        rows = balanced(every[AUTHOR, split], every[OTHERS, split], rng)
        paths[split] = str(folder / f"{split}.jsonl")
        lines = (json.dumps({"label": label, "text": text}, ensure_ascii=False) + "\n" for label, text in rows)
        Path(paths[split]).write_text("".join(lines), encoding="utf-8")
    judge = CLASSIFIER | {
        "name": f"{config.name}-style", "root": config.root, "seed": config.seed,
        "ingest": {"source": {"format": "jsonl", "paths": paths}},
    }  # fmt: skip
    judged = flow.run(check_config(judge, "author_style"), "author_style", "train", say).stages
    predictor = open_predictor(Path(judged["train"]["folder"]))
    length = size * args.pieces * 5 // 4  # blanks of several signs become one
    trained = Path(stages["train"]["folder"])
    asked = {
        "real, held out": every[AUTHOR, "test"],
        "others, held out": every[OTHERS, "test"],
        "model": pieces([written_by(config, trained, length, args.temperature)], size)[: args.pieces],
        "trigram": pieces([trigram_text(records(texts[AUTHOR], "train"), length, rng)], size)[: args.pieces],
    }
    return {name: rate(predictor.predict([{"text": text} for text in found])) for name, found in asked.items()}


if __name__ == "__main__":
    sys.exit(main())
