"""BM25 against its formula, chance, and the memory both take."""

import math
import subprocess
import sys

import numpy as np
import pytest

from pipeline.core.errors import DupletError
from pipeline.evaluation import baselines, ranking
from pipeline.evaluation.baselines import bm25, random_ranking
from pipeline.evaluation.ranking import Judgements, evaluate
from tests.mapped import most_traced

DOCUMENTS = [
    ["the", "cat", "sat", "on", "the", "mat"],
    ["a", "parser", "for", "json", "text"],
    ["sort", "the", "list", "of", "numbers", "in", "place"],
    [],
    ["the", "the", "the"],
]


def paired(size: int) -> Judgements:
    return Judgements(np.arange(size), np.arange(size), np.ones(size), size, size)


def formula(query: list[str], document: list[str], k1: float, b: float) -> float:
    mean = sum(map(len, DOCUMENTS)) / len(DOCUMENTS)
    total = 0.0
    for word in query:
        df = sum(word in d for d in DOCUMENTS)
        tf = document.count(word)
        idf = math.log(1 + (len(DOCUMENTS) - df + 0.5) / (df + 0.5))
        total += idf * tf / (tf + k1 * (1 - b + b * len(document) / mean)) if tf else 0.0
    return total


@pytest.mark.parametrize("listed", [False, True])
def test_bm25_puts_the_obvious_document_first_by_its_formula(listed: bool) -> None:
    queries = [["parser", "json"], ["the", "cat", "the"], ["sort", "numbers", "unheard"]]
    rows, columns = np.indices((3, 5))
    relevance = np.zeros((3, 5))
    relevance[0, 1] = relevance[1, 0] = relevance[2, 2] = 1
    judgements = Judgements(rows.ravel(), columns.ravel(), relevance.ravel(), 3, 5)
    found = bm25(DOCUMENTS, queries, judgements, 5, k1=1.2, b=0.6, listed=listed)
    assert found.documents[:, 0].tolist() == [1, 0, 2]
    for row, query in enumerate(queries):
        wanted = [formula(query, DOCUMENTS[d], 1.2, 0.6) for d in found.documents[row]]
        np.testing.assert_allclose(found.scores[row], wanted, rtol=1e-5)
        assert wanted == sorted(wanted, reverse=True)


def test_listed_scores_come_from_the_whole_index() -> None:
    queries = [["the", "cat"], ["json"]]
    judgements = Judgements(np.array([0, 0, 1]), np.array([0, 4, 2]), np.array([0, 1, 1]), 2, 5)
    found = bm25(DOCUMENTS, queries, judgements, 5, listed=True)
    assert found.documents.tolist() == [[0, 4], [2, -1]]
    assert found.scores[0, 0] == pytest.approx(formula(queries[0], DOCUMENTS[0], 1.5, 0.75), rel=1e-5)


@pytest.mark.parametrize("query", [[], ["unheard"], [""]])
def test_a_query_without_known_words_ties_against_us(query: list[str]) -> None:
    judgements = Judgements(np.array([0]), np.array([0]), np.array([1]), 1, 5)
    found = bm25(DOCUMENTS, [query], judgements, 5)
    assert found.documents.tolist() == [[1, 2, 3, 4, 0]]
    assert found.scores.tolist() == [[0] * 5]


def test_documents_without_any_word() -> None:
    assert bm25(
        [[], []], [["a"]], Judgements(np.array([0]), np.array([0]), np.array([1]), 1, 2), 5
    ).documents.tolist() == [[1, 0]]


def test_counts_must_agree() -> None:
    with pytest.raises(DupletError, match="1 queries and 5 documents"):
        bm25(DOCUMENTS, [["a"]], paired(5), 5)


def test_bm25_is_quiet_and_the_same_in_another_process() -> None:
    code = (
        "import numpy as np; from pipeline.evaluation.ranking import Judgements; "
        "from pipeline.evaluation.baselines import bm25; rng = np.random.default_rng(0); "
        "texts = [[f'w{i}' for i in rng.integers(0, 40, 30)] for _ in range(50)]; "
        "j = Judgements(np.arange(50), np.arange(50), np.ones(50), 50, 50); "
        "r = bm25(texts, texts, j, 10); print(r.documents.tolist(), r.scores.tobytes().hex())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(p for p in sys.path if p)},
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert [run.stderr for run in runs] == ["", ""]


def test_evaluation_needs_no_mxnet() -> None:
    code = (
        "import sys; from pipeline.evaluation import baselines, bootstrap, metrics, ranking; "
        "from pipeline.reporting import plots, tables; "
        "assert not {'mxnet', 'gluonnlp', 'horovod', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(p for p in sys.path if p)})


def test_random_is_a_seeded_permutation_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    judgements = paired(400)
    one, again, other = (random_ranking(judgements, 400, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.documents, again.documents)
    assert (one.documents != other.documents).any()
    assert (np.sort(one.documents, axis=1) == np.arange(400)).all()
    # one relevant of 400: recall@100 is 0.25 on average, 400 queries give it a deviation of 0.022
    assert abs(evaluate(one, judgements)["recall@100"].mean() - 0.25) < 0.1
    monkeypatch.setattr(ranking, "SCORES_PER_CHUNK", 900)
    np.testing.assert_array_equal(random_ranking(judgements, 400, 1).documents, one.documents)


def test_random_lists() -> None:
    judgements = Judgements(
        np.repeat(np.arange(200), 5), np.tile(np.arange(5), 200), np.tile([1, 0, 0, 0, 0], 200), 200, 5
    )
    found = random_ranking(judgements, 100, 3, listed=True)
    assert (np.sort(found.documents, axis=1) == np.arange(5)).all()
    assert abs(evaluate(found, judgements)["recall@1"].mean() - 0.2) < 0.15


@pytest.mark.parametrize("listed", [False, True])
def test_three_thousand_queries_never_make_a_whole_matrix(listed: bool) -> None:
    size = 3000
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(2000)]
    documents = [[words[i] for i in row] for row in rng.integers(0, 2000, (size, 12))]
    queries = [document[:3] for document in documents]
    judgements = paired(size)
    (found, chance), peak = most_traced(
        lambda: (
            bm25(documents, queries, judgements, 100, listed=listed),
            random_ranking(judgements, 100, 1, listed=listed),
        )
    )
    assert peak < 64e6 < size * size * 8
    assert evaluate(found, judgements)["mrr@10"].mean() > 0.8
    assert listed or evaluate(chance, judgements)["mrr@10"].mean() < 0.05


def test_chunks_do_not_change_bm25(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    texts = [[f"w{i}" for i in row] for row in rng.integers(0, 30, (40, 8))]
    pairs = Judgements(rng.integers(0, 40, 90), rng.integers(0, 40, 90), rng.integers(0, 2, 90), 40, 40)
    for listed in (False, True):
        whole = bm25(texts, texts, pairs, 10, listed=listed)
        with monkeypatch.context() as patch:
            patch.setattr(ranking, "SCORES_PER_CHUNK", 130)
            assert baselines.rows_per_chunk(40) == 3
            parts = bm25(texts, texts, pairs, 10, listed=listed)
        np.testing.assert_array_equal(parts.documents, whole.documents)
