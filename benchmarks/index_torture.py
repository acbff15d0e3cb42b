"""Kills `duplet index` at random moments and looks at what it leaves: `make torture-index KILLS=1000`.

First builds, updates and deletions run in forked processes, with a model of one layer, and get SIGKILL at a moment
drawn evenly over their duration. After each kill the old index or the new one must open and answer, and no index be
there where there was none; then the same command runs undisturbed, and every score of every document, by the model and
by BM25, must be that of an index built afresh. (Fused scores are made of ranks, and of documents alike to the last bits
either may be first: they must be of the same documents.) Prints the counts; ends with 1 on any difference.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import faiss  # noqa: F401  (once here, and not in every process that is forked)
import numpy as np

import pipeline.cli.main
from pipeline.cli.commands import index as command
from pipeline.search import build, documents, index_store, open_index
from pipeline.search.searcher import Searcher
from pipeline.serving import loading
from tests.search.models import model_folder

WORDS = [f"word{i}" for i in range(40)]
QUERIES = ("word1 word2 word3", "word17 word30", "word5")
KINDS = ("first build", "update", "deletion")
TOLERANCE = 1e-5  # of a score: a text's vector differs in its last bits with the texts that are beside it in a batch

Documents = dict[str, str]
Scores = dict[tuple[str, str], dict[str, float]]


class Torture:
    """A model and two folders, one of which suffers.

    Args:
        home: an empty folder.
    """

    def __init__(self, home: Path, seed: int) -> None:
        self._home, self._random = home, random.Random(seed)
        self._index, self._fresh = home / "index", home / "fresh"
        self._model = model_folder(home / "model", WORDS, embedding=8, hidden=4)
        self._encoder = loading.open_encoder(self._model, threads=1)
        loading.open_encoder = lambda *_: self._encoder  # opened once, for all processes
        self._documents: Documents = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def once(self) -> None:
        """One kill, and what follows it."""
        kind = self._random.choice(KINDS) if self._documents else KINDS[0]
        old = {} if kind == KINDS[0] else dict(self._documents)
        if not old:
            shutil.rmtree(self._index, ignore_errors=True)
        new = self._changed(old, kind)
        arguments = self._arguments(new, old, kind)
        before = self._scores(self._index) if old else None
        shutil.rmtree(self._fresh, ignore_errors=True)
        began = time.monotonic()
        assert self._run(self._arguments(new, {}, KINDS[0], self._fresh)) == 0
        seconds, after = time.monotonic() - began, self._scores(self._fresh)

        status = self._run(arguments, self._random.uniform(0, 1.2 * seconds))
        ended = "killed" if status < 0 else "ended before its kill"
        left = self._scores(self._index) if (self._index / index_store.NAME).exists() else None
        which = "new" if left and after and _alike(left, after) else "old" if _same(left, before) else "neither"
        self.counts[f"{kind}: {ended}, {which} index" if which != "old" or before else f"{kind}: {ended}, none"] += 1
        if which == "neither" or (status >= 0 and (status, which) != (0, "new")):
            self.wrong.append(f"{kind} {ended} (status {status}) left neither index: {self._kept()}")
        if self._run(arguments) != 0 or not _same(self._scores(self._index), after):
            self.wrong.append(f"the update after a {kind} that {ended} differs from a fresh index: {self._kept()}")
        hidden = [str(path) for path in self._index.rglob(".*")]
        if hidden:
            self.wrong.append(f"left for good: {hidden}")
        self._documents = new

    def _changed(self, old: Documents, kind: str) -> Documents:
        draw = self._random
        text = lambda: " ".join(draw.choices(WORDS, k=draw.randint(3, 60)))
        if kind == "deletion":
            one = draw.choice([*old])  # one at least, so that there is something to compare
            return {name: text for name, text in old.items() if name == one or draw.random() < 0.8}
        kept = {name: text() if draw.random() < 0.2 else was for name, was in old.items()}
        return kept | {f"d{draw.randrange(10**9)}": text() for _ in range(draw.randint(1, 12))}

    def _arguments(self, new: Documents, old: Documents, kind: str, folder: Path | None = None) -> list[str]:
        target = str(folder or self._index)
        options = ["index", str(self._model), "--output", target, "--threads", "1"]
        gone = [name for name in old if name not in new]
        if kind == "deletion" and gone:
            return [*options, "--delete", *gone]
        path = self._home / f"{Path(target).name}.jsonl"
        path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in new.items()))
        return [*options, "--documents", str(path), "--sync", "--documents-per-segment", "6"]

    def _run(self, arguments: list[str], kill_after_s: float | None = None) -> int:
        """The command in a forked process: its exit code, or minus the signal that ended it."""
        child = os.fork()
        if child == 0:
            code = 99
            try:
                to = (self._home / "said.txt").open("a")
                with to, contextlib.redirect_stderr(to), contextlib.redirect_stdout(to):
                    code = pipeline.cli.main.main(arguments)
            finally:
                os._exit(code)
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _scores(self, folder: Path) -> Scores | None:
        """What every document scores, by mode and query; None where the index does not open or answer."""
        try:
            searcher = Searcher(index_store.open_snapshot(folder), self._encoder)
            found: Scores = {}
            for mode in ("model", "words", "hybrid"):
                for query in QUERIES:
                    results = searcher.search(query, 100_000, mode).results
                    ranked = mode == "hybrid"
                    found[mode, query] = {result.document.id: 0.0 if ranked else result.score for result in results}
            return found
        except Exception as error:
            self.counts[f"not opened: {error}"] += 1
            return None

    def _kept(self) -> Path:
        """A copy of the index as it is now, for whoever looks into it."""
        kept = Path(tempfile.mkdtemp(prefix="index-torture-")) / "index"
        if self._index.exists():
            shutil.copytree(self._index, kept)
        return kept


def _alike(one: Scores, other: Scores) -> bool:
    return one.keys() == other.keys() and all(
        found.keys() == other[asked].keys()
        and np.allclose([*found.values()], [other[asked][name] for name in found], rtol=0, atol=TOLERANCE)
        for asked, found in one.items()
    )


def _same(one: Scores | None, other: Scores | None) -> bool:
    return one is other if one is None or other is None else _alike(one, other)


def torture(home: Path, kills: int, seed: int, say: Any = print) -> list[str]:
    """So many kills; what went wrong, one sentence each."""
    made, began = Torture(home, seed), time.monotonic()
    for number in range(1, kills + 1):
        made.once()
        if number % 100 == 0:
            say(f"{number} kills, {len(made.wrong)} wrong, {time.monotonic() - began:.0f} s")
    for what, count in sorted(made.counts.items()):
        say(f"{count:6} {what}")
    say(f"{kills} kills in {time.monotonic() - began:.0f} s, {len(made.wrong)} wrong")
    return made.wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="index-torture-") as home:
        wrong = torture(Path(home), args.kills, args.seed)
    print("\n".join(wrong[:20]))
    return 1 if wrong else 0


if __name__ == "__main__":
    assert command and build and documents and open_index  # imported here, not in every process that is forked
    sys.exit(main())
