"""Run by test_bad_ranks by three workers: in each case one of them has another version, file or set of examples."""

import json
import sys
from pathlib import Path

import numpy as np

from pipeline.core import manifest
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.training.rank_consistency import check_alike

CASES = {"alike": -1, "version": 1, "vocabulary": 0, "no tokenizer": 2, "examples": 2, "lengths": 0}  # the rank with it


def main(folder: Path) -> None:
    world, found = World(), {}
    own, real = folder / str(world.rank), manifest._version
    own.mkdir()
    for case, rank in CASES.items():
        here = case if world.rank == rank else ""
        for name in ("vocabulary.json", "tokenizer.json"):
            (own / name).write_text("{}")
        (own / "manifest.json").write_text(str(world.rank))  # when it was made
        lengths = np.ones((7, 2), np.int32)
        if here == "vocabulary":
            (own / "vocabulary.json").write_text("[]")
        elif here == "no tokenizer":
            (own / "tokenizer.json").unlink()
        elif here == "examples":
            lengths = lengths[1:]
        elif here == "lengths":
            lengths[3, 1] = 2
        manifest._version = real if here != "version" else lambda name: "1.0.0" if name == "numpy" else real(name)
        try:
            check_alike(own, lengths, [], world)
            found[case] = ""
        except InputError as error:
            found[case] = str(error)
    (folder / f"rank-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
