"""An index of many passages, made up, beside bm25s and faiss: memory, seconds, MB on disk, milliseconds a query.

    python benchmarks/many_passages.py [--passages 100000] [--root FOLDER] [--systems words bm25s vectors faiss]

Each system works in processes of its own, one that builds and one that opens what was built and answers; the parent
looks at /proc/PID/status every 20 ms for the most private memory (RssAnon) and the most that is resident (VmRSS, mapped
files included, which are the page cache's). A passage has 20 to 80 words, drawn as words are (Zipf, 200,000 different
ones); a query has three words of one passage.

    words     `duplet index --documents` without a model, `duplet search`'s ranking by words, passages shown
    bm25s     its tokenizer with the same stemmer and stop words, the same k1 and b, saved with its texts, mapped
    vectors   Duplet's index of vectors of 128 numbers (of words' own random vectors; no network encodes), by clusters
    tokens    the same by late interaction, a vector a word; as a network would give them, like words' lie together
    faiss     IndexHNSWFlat with the vectors' (LINKS, EFFORT), nothing else: no texts, no deletions, in memory

A real index with a model is asked a file of queries, one a line, by `many_passages.py search model INDEX QUERIES`.

The recall of both is against the ten best by comparing every passage in float32. The last line is one JSON object.
Needs about 2.5 kB of disk a passage under --root.
"""

import argparse
import functools
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY, WIDTH = 200_000, 128
LINKS, EFFORT_AT_BUILDING, EFFORT = 32, 80, 200  # of faiss's graph: M, efConstruction, efSearch
QUERIES, WARM = 200, 20
K = 10
SYSTEMS = ("words", "bm25s", "vectors", "tokens", "faiss")
ROWS_AT_ONCE = 10_000


# --- the passages -----------------------------------------------------------------------------------------------------
def vocabulary() -> list[str]:
    """Made-up words of three to ten letters, all different."""
    rng = np.random.default_rng(1)
    letters = np.array(list("aeiourstlnmdcpbghfvk"))
    found: dict[str, None] = {}
    while len(found) < VOCABULARY:
        sizes, drawn = rng.integers(3, 11, ROWS_AT_ONCE), rng.choice(letters, (ROWS_AT_ONCE, 10))
        found.update(dict.fromkeys("".join(row[:size]) for row, size in zip(drawn, sizes)))
    return list(found)[:VOCABULARY]


def write_passages(path: Path, queries: Path, count: int) -> None:
    """JSON Lines of id and text, and the queries, one a line."""
    words, rng = np.array(vocabulary()), np.random.default_rng(2)
    chances = 1 / np.arange(1, VOCABULARY + 1)
    chances = np.cumsum(chances / chances.sum())
    asked = set(rng.choice(count, min(QUERIES, count), replace=False).tolist())
    with path.open("w") as file, queries.open("w") as questions:
        for start in range(0, count, ROWS_AT_ONCE):
            for number in range(start, min(start + ROWS_AT_ONCE, count)):
                drawn = words[np.minimum(np.searchsorted(chances, rng.random(rng.integers(20, 81))), VOCABULARY - 1)]
                file.write(json.dumps({"id": f"p{number}", "text": " ".join(drawn)}) + "\n")
                if number in asked:
                    questions.write(" ".join(rng.choice(drawn, 3)) + "\n")


def rows(path: Path) -> Iterator[dict[str, str]]:
    """The passages, one after the other."""
    with path.open() as file:
        for line in file:
            yield json.loads(line)


def timed(queries: Path, answer: Callable[[str], list[str]]) -> dict[str, Any]:
    """Milliseconds of an answer, and of the processor's work on it, after some that do not count; the ids of each."""
    asked = queries.read_text().splitlines()
    for query in asked[:WARM]:
        answer(query)
    took, worked, found = [], [], []
    for query in asked:
        began, before = time.perf_counter(), time.process_time()
        found.append(answer(query))
        took.append(1000 * (time.perf_counter() - began))
        worked.append(1000 * (time.process_time() - before))
    return {"median_ms": float(np.median(took)), "p95_ms": float(np.percentile(took, 95)),
            "median_cpu_ms": float(np.median(worked)), "found": found}  # fmt: skip


# --- the systems: what builds, and what opens and answers -------------------------------------------------------------
def build_words(passages: Path, made: Path) -> dict[str, Any]:
    from pipeline.cli.main import main

    if code := main(["index", "--documents", str(passages), "--output", str(made)]):
        sys.exit(code)
    return {}


def search_words(made: Path, queries: Path) -> dict[str, Any]:
    from pipeline.search.open_index import open_searcher

    began = time.perf_counter()
    searcher = open_searcher(made, None, made.parent, None, "onnx", None)
    opened = time.perf_counter() - began
    return timed(queries, lambda query: [one.document.id for one in searcher.search(query, K, "words").results]) | {
        "open_s": opened
    }


def search_model(made: Path, queries: Path) -> dict[str, Any]:
    """Any index with a model, by `many_passages.py search model INDEX QUERIES`; the recall is of its last update."""
    from pipeline.search.open_index import open_searcher

    searcher = open_searcher(made, None, made.parent, None, "onnx", None)
    found = timed(queries, lambda query: [one.document.id for one in searcher.search(query, K, "model").results])
    return found | (searcher.snapshot.state.approximate or {})


def build_bm25s(passages: Path, made: Path) -> dict[str, Any]:
    import bm25s
    import Stemmer

    texts = [{"id": row["id"], "text": row["text"]} for row in rows(passages)]
    tokens = bm25s.tokenize(
        [row["text"] for row in texts], stopwords=english(), stemmer=Stemmer.Stemmer("english"), show_progress=False
    )
    retriever = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    retriever.index(tokens, show_progress=False)
    retriever.save(str(made), corpus=texts)
    return {}


def search_bm25s(made: Path, queries: Path) -> dict[str, Any]:
    import bm25s
    import Stemmer

    began = time.perf_counter()
    retriever = bm25s.BM25.load(str(made), mmap=True, load_corpus=True)
    opened, stemmer, stop = time.perf_counter() - began, Stemmer.Stemmer("english"), english()

    def answer(query: str) -> list[str]:
        tokens = bm25s.tokenize([query], stopwords=stop, stemmer=stemmer, show_progress=False)
        return [row["id"] for row in retriever.retrieve(tokens, k=K, show_progress=False).documents[0]]

    return timed(queries, answer) | {"open_s": opened}


def english() -> list[str]:
    """The stop words that Duplet's index leaves out too."""
    from bm25s import stopwords

    return list(stopwords.STOPWORDS_EN_PLUS)


def encoder(by_token: bool = False) -> Any:
    """As a model: a text is the mean of its words' random vectors, the frequent ones' shorter; or its words' vectors.

    By token, a word's vector has a third of noise of its own at each place, as the words around it would make.
    """
    from pipeline.config import check_config
    from pipeline.search.words_alone import WordsAlone
    from pipeline.serving.predict.scoring import Encoded, Scorer

    place = {word: i for i, word in enumerate(vocabulary())}
    rarity = np.log1p(np.arange(1, VOCABULARY + 1, dtype=np.float32))
    table = np.random.default_rng(3).standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
    noise = np.random.default_rng(4)

    class Hashed(WordsAlone):
        def encode(self, side: str, texts: Any) -> Encoded:
            words = [[place[word] for word in text.lower().split() if word in place] for text in texts]
            if not by_token:
                means = np.stack([(table[rows] * rarity[rows, None]).sum(axis=0) for rows in words])
                return Encoded(means / np.maximum(1e-9, np.linalg.norm(means, axis=1, keepdims=True)))
            rows = np.concatenate(words)
            vectors = table[rows] + noise.standard_normal((len(rows), WIDTH), np.float32) / 3
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            return Encoded(vectors, rarity[rows], np.cumsum([0, *map(len, words)]))

        def score_all(self, query: Encoded, document: Encoded) -> np.ndarray:
            return scorer.score_all(query, document)

    made = Hashed("word")
    head = {"head": "late_interaction" if by_token else "cosine", "embedding": WIDTH // 2, "hidden": WIDTH // 2}
    made.config = check_config(made.config.model_dump(exclude_unset=True) | {"model": head}, "many_passages")
    scorer = Scorer(made.config, {})
    return made


def build_vectors(passages: Path, made: Path, by_token: bool = False) -> dict[str, Any]:
    from pipeline.search.build import Update
    from pipeline.search.documents import Table
    from pipeline.search.index_store import ModelStamp, Settings

    encodes = encoder(by_token)
    stamp = ModelStamp("hashed", "train", str(made), "hashed", encodes.config.model.head, "matching")
    reader = Table(str(passages), {}, made.with_suffix(".bad"), made.parent)
    settings = Settings(documents_per_segment=20_000, bits=2 if by_token else 8)
    with Update(made, None, encodes, stamp, settings, lambda line: print(line, file=sys.stderr)) as update:
        update.put(reader, False)
        state = update.publish()
    return dict(state.approximate or {})


def search_vectors(made: Path, queries: Path, by_token: bool = False) -> dict[str, Any]:
    from pipeline.search import index_store
    from pipeline.search.searcher import Searcher

    encodes = encoder(by_token)
    began = time.perf_counter()
    searcher = Searcher(index_store.open_snapshot(made), encodes)
    opened = time.perf_counter() - began
    found = timed(queries, lambda query: [one.document.id for one in searcher.search(query, K, "model").results])
    return found | {"open_s": opened, **(searcher.snapshot.state.approximate or {})}


def build_faiss(passages: Path, made: Path) -> dict[str, Any]:
    import faiss

    made.mkdir()
    index, encodes = faiss.IndexHNSWFlat(WIDTH, LINKS, faiss.METRIC_INNER_PRODUCT), encoder()
    index.hnsw.efConstruction = EFFORT_AT_BUILDING
    texts: list[str] = []
    for row in rows(passages):
        texts.append(row["text"])
        if len(texts) == ROWS_AT_ONCE:
            index.add(encodes.encode("document", texts).vectors)
            texts = []
    if texts:
        index.add(encodes.encode("document", texts).vectors)
    faiss.write_index(index, str(made / "graph"))
    return {}


def search_faiss(made: Path, queries: Path) -> dict[str, Any]:
    import faiss

    encodes = encoder()
    began = time.perf_counter()
    index = faiss.read_index(str(made / "graph"))
    opened = time.perf_counter() - began
    index.hnsw.efSearch = EFFORT
    found = timed(
        queries, lambda query: [f"p{row}" for row in index.search(encodes.encode("query", [query]).vectors, K)[1][0]]
    )
    return found | {"open_s": opened}


def exact(passages: Path, queries: Path) -> dict[str, Any]:
    """The best by comparing every passage, in float32."""
    encodes = encoder()
    asked = encodes.encode("query", queries.read_text().splitlines()).vectors
    scores, ids = np.full((len(asked), K), -np.inf, np.float32), np.full((len(asked), K), -1)
    texts, first = (row["text"] for row in rows(passages)), 0
    while block := list(itertools.islice(texts, ROWS_AT_ONCE)):
        near = asked @ encodes.encode("document", block).vectors.T
        scores = np.concatenate([scores, near], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(np.arange(first, first + len(block)), near.shape)], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        scores, ids = np.take_along_axis(scores, best, 1), np.take_along_axis(ids, best, 1)
        first += len(block)
    return {"found": [[f"p{row}" for row in one] for one in ids.tolist()]}


BUILDS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "words": build_words, "bm25s": build_bm25s, "vectors": build_vectors,
    "tokens": functools.partial(build_vectors, by_token=True), "faiss": build_faiss,
}  # fmt: skip
SEARCHES: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "words": search_words, "bm25s": search_bm25s, "vectors": search_vectors,
    "tokens": functools.partial(search_vectors, by_token=True), "faiss": search_faiss, "exact": exact,
    "model": search_model,
}  # fmt: skip


# --- measuring --------------------------------------------------------------------------------------------------------
def measured(*arguments: str) -> dict[str, Any]:
    """Runs this file again for one step; what it printed, with the seconds and the most memory that it took in MB."""
    began, before = time.monotonic(), _worked()
    child = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    most = {"RssAnon": 0, "VmRSS": 0}
    while child.poll() is None:
        try:
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
            most = {name: max(value, int(fields[name].split()[0])) for name, value in most.items()}
        except (OSError, KeyError):  # it has just ended
            pass
        time.sleep(0.02)
    assert child.stdout is not None
    said = child.stdout.read().splitlines()
    if child.returncode:
        sys.exit(f"many_passages: {' '.join(arguments)} ended with {child.returncode}")
    return {**json.loads(said[-1]), "seconds": time.monotonic() - began, "cpu_s": _worked() - before,
            "private_mb": most["RssAnon"] / 1024, "resident_mb": most["VmRSS"] / 1024}  # fmt: skip


def _worked() -> float:
    """Seconds of the processor that children took so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    if sys.argv[1:2] == ["build"]:
        print(json.dumps(BUILDS[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))))
        return
    if sys.argv[1:2] == ["search"]:
        print(json.dumps(SEARCHES[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--root", type=Path, help="a folder to work in; a temporary one, if not given")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.root) as home:
        found = compare(Path(home), options.passages, options.systems)
    print(json.dumps({"passages": options.passages, **found}))


def compare(home: Path, count: int, systems: list[str]) -> dict[str, Any]:
    """A line per system as it ends; system -> figures."""
    from pipeline.search.cluster_build import recall

    passages, queries = home / "passages.jsonl", home / "queries"
    write_passages(passages, queries, count)
    print(f"{count:,} passages, {passages.stat().st_size / 1e6:,.0f} MB of JSON Lines")
    found: dict[str, Any] = {}
    for system in systems:
        made = home / f"{system}.index"
        build = measured("build", system, str(passages), str(made))
        search = measured("search", system, str(made), str(queries))
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) / 1e6
        found[system] = {**search, "build": build, "disk_mb": size}
        print(
            f"{system:8} build {build['seconds']:7.1f} s ({build['cpu_s']:.1f} of the processor), "
            f"{build['private_mb']:6,.0f} MB private, {build['resident_mb']:6,.0f} resident; {size:7,.1f} MB on disk; "
            f"opened in {search['open_s']:.2f} s, {search['private_mb']:6,.0f} MB private; a query "
            f"{search['median_ms']:.2f} ms ({search['median_cpu_ms']:.2f} of the processor), 95 % under "
            f"{search['p95_ms']:.2f}", flush=True,
        )  # fmt: skip
    for first, second in (("words", "bm25s"), ("vectors", "faiss")):
        if first in found and second in found:
            share = recall(found[second]["found"], found[first]["found"])
            found[f"{first} in {second}"] = share
            print(f"{100 * share:.1f} % of the {K} that {first} gives are among those of {second}")
    if by_vectors := [system for system in systems if system in ("vectors", "faiss")]:
        best = measured("search", "exact", str(passages), str(queries))["found"]
        for system in by_vectors:
            found[system]["recall"] = recall(found[system]["found"], best)
            print(f"{system}: recall@{K} against exact search {found[system]['recall']:.3f}")
    if "tokens" in found:
        told = "exact, as they are few" if "recall" not in found["tokens"] else f"{found['tokens']['recall']:.3f}"
        print(f"tokens: recall@{K} against exact search {told} (as the index measured it when it was built)")
    for system in systems:
        found[system].pop("found")
    return found


if __name__ == "__main__":
    main()
