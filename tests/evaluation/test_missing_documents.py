"""Judgements of documents that are not in the collection, from the files to the metrics, beside ir-measures."""

import json
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from pipeline.config import check_config
from pipeline.evaluation.ranking import Judgements, evaluate, measures, rank_collection, rank_listed
from pipeline.ingest import stage as ingest
from pipeline.reporting import tables
from pipeline.tokenization import shards
from pipeline.tokenization import stage as tokenize

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lamda",
    "mu",
    "nu",
    "xi",
]
WORDS += ["omicron", "pi"]
# Of query 10 the only relevant document is absent, of 11 one of two, that of 14 has no text.
TEST = "q10 gone 1\nq11 d11 1\nq11 gone 2\nq12 d12 1\nq12 d3 -1\nq13 d13 0\nq14 e1 1\nq15 d15 2\nq15 d1 1"


@pytest.fixture
def split(tmp_path: Path) -> shards.Split:
    documents = [{"_id": f"d{i}", "title": "", "text": f"{word} text"} for i, word in enumerate(WORDS)]
    lines = {
        "corpus": [*documents, {"_id": "e1", "title": "", "text": ""}],
        "queries": [{"_id": f"q{i}", "text": word} for i, word in enumerate(WORDS)],
    }
    source = tmp_path / "source"
    (source / "qrels").mkdir(parents=True)
    for name, rows in lines.items():
        (source / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, judged in (("train", "q0 d0 1"), ("dev", "q8 d8 1"), ("test", TEST)):
        text = "query-id\tcorpus-id\tscore\n" + judged.replace(" ", "\t")
        (source / "qrels" / f"{name}.tsv").write_text(text)
    settings: dict[str, Any] = {"source": {"format": "beir", "path": str(source)}, "max_quarantined_share": 0.5}
    config = check_config({"name": "t", "ingest": settings, "tokenize": {"min_count": 1}}, "test")
    for name in ("ingested", "tokenized"):
        (tmp_path / name).mkdir()
    ingest.run(config, tmp_path / "ingested")
    tokenize.run(config, tmp_path / "ingested", tmp_path / "tokenized")
    return shards.open_split(tmp_path / "tokenized", "test")


def judgements_of(split: shards.Split) -> Judgements:
    sizes = (len(split.fields[side]) for side in ("query", "document"))
    return Judgements(split.rows["query"], split.rows["document"], split.relevance, *sizes, split.missing)


@pytest.mark.parametrize("listed", [False, True])
def test_metrics_are_those_of_ir_measures_over_the_judgements_as_the_file_has_them(
    listed: bool, split: shards.Split
) -> None:
    judgements = judgements_of(split)
    queries, documents = list(split.fields["query"].keys), list(split.fields["document"].keys)
    scores = np.random.default_rng(1).random((len(queries), len(documents)))
    if listed:
        ranking = rank_listed(scores[judgements.query_rows, judgements.document_rows], judgements)
    else:
        ranking = rank_collection([(np.arange(len(queries)), scores)], judgements, 100)
    qrels = [ir_measures.Qrel(*row.split()[:2], int(row.split()[2])) for row in TEST.splitlines()]
    run = [
        ir_measures.ScoredDoc(query, documents[document], -float(place))
        for row, query in enumerate(queries)
        for place, document in enumerate(ranking.documents[row].tolist())
        if document >= 0
    ]
    relevant = {one.query_id for one in qrels if one.relevance > 0}
    expected = dict.fromkeys(measures(100).values(), 0.0)
    for found in ir_measures.iter_calc(list(measures(100).values()), [q for q in qrels if q.query_id in relevant], run):
        expected[found.measure] += found.value / len(relevant)
    assert [queries[row] for row in judgements.answerable] == ["q11", "q12", "q15", "q10", "q14"]
    ours = evaluate(ranking, judgements)
    assert {name: values.mean() for name, values in ours.items()} == pytest.approx(
        {name: expected[measure] for name, measure in measures(100).items()}
    )


def test_a_system_that_finds_all_there_is_has_a_recall_of_one_half(split: shards.Split) -> None:
    """By hand: q11 finds one of two, q12 and q15 all, q10 and q14 none: 2.5 of 5."""
    judgements = judgements_of(split)
    scores = np.zeros((judgements.queries, judgements.documents))
    scores[judgements.query_rows, judgements.document_rows] = judgements.relevance
    ranking = rank_collection([(np.arange(judgements.queries), scores)], judgements, 100)
    assert evaluate(ranking, judgements)["recall@100"].mean() == pytest.approx(0.5)
    compared = tables.comparison({"model": ranking}, judgements, 50, 1)
    assert (compared["counted"], compared["missing"]) == (5, 3)
    said = "3 relevant documents are not in the collection: they count as not found"
    assert said in tables.table_text(compared, "t")


def test_a_missing_document_must_be_judged_by_whole_grades_too() -> None:
    none = np.zeros(0, int)
    with pytest.raises(Exception, match=r"relevance 0\.5 is not a whole number"):
        Judgements(none, none, none, 1, 1, (np.array([0]), np.array([0.5])))
