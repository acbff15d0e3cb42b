"""The public sets under DUPLET_DATA, each with the few settings a user writes, against the counts in their notes."""

import os
from pathlib import Path
from typing import Any

import pytest

DATA = os.environ.get("DUPLET_DATA", "")
pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA, reason="DUPLET_DATA names no folder with the public sets")]


def at(*names: str) -> str:
    return str(Path(DATA, *names))


def test_wikiqa(ingest: Any) -> None:
    paths = {"train": "WikiQA-train.tsv.gz", "valid": "WikiQA-dev.tsv", "test": "WikiQA-test.tsv.gz"}
    columns = {
        "query": "Question", "document": "Sentence", "relevance": "Label", "query_id": "QuestionID",
        "document_id": "SentenceID", "metadata": ["DocumentTitle"],
    }  # fmt: skip
    source = {
        "format": "tsv",
        "paths": {split: at("wikiqa", name) for split, name in paths.items()},
        "columns": columns,
    }
    result = ingest(source)
    assert result.counts["records"]["splits"] == {"train": 20360, "valid": 2733, "test": 6165}
    test = result.records("test")
    assert len({r["query_id"] for r in test if r["relevance"] > 0}) == 243 and sum(r["relevance"] for r in test) == 293
    assert not [r for r in test if "\r" in r["document"]]


def test_medquad(ingest: Any) -> None:
    columns = {"query": "question", "document": "answer", "group": ["source", "doc_id"], "metadata": ["source", "qid"]}
    result = ingest({"format": "tsv", "path": at("medquad", "medquad.tsv.gz"), "columns": columns})
    assert result.counts["records"]["read"] == 4300 and result.counts["records"]["quarantined"] == 0
    assert len({r["query"] for r in result.records()}) == 3340
    assert all(300 < n < 600 for s, n in result.counts["records"]["splits"].items() if s != "train")


def test_cranfield(ingest: Any) -> None:
    source = {
        "format": "trec", "documents": at("cranfield", "cran.all.1400.gz"), "queries": at("cranfield", "cran.qry"),
        "judgements": at("cranfield", "cranqrel"), "query_ids": "position", "train_on_titles": True,
        "grades": {"1": 1, "2": 1, "3": 1, "4": 1, "-1": 0},
    }  # fmt: skip
    result = ingest(source)
    assert result.counts["documents"] == {"read": 1400, "kept": 1398, "quarantined": 2, "duplicates": 0}
    assert result.counts["queries"]["kept"] == 225
    assert result.counts["records"]["splits"]["test"] == 1836  # one of 1,837 judges a document without text
    test = result.records("test")
    assert len({r["query_id"] for r in test}) == 225 and sum(r["relevance"] for r in test) == 1837 - 225 - 1 + sum(
        e["copy"].split()[-1] == "-1" for e in result.quarantine if e["source"] == "cranqrel"
    )
    text = result.collection()["1"]
    assert " ".join(text.split()).count("aerodynamics of a wing in a slipstream") == 1


def test_nfcorpus(ingest: Any) -> None:
    queries = {"train": "train", "valid": "dev", "test": "test"}
    qrels = {"train": "train.3-2-1.qrel.gz", "valid": "dev.3-2-1.qrel", "test": "test.3-2-1.qrel"}
    source = {
        "format": "msmarco", "documents": at("nfcorpus", "dev_test.docs.gz"),
        "queries": {split: at("nfcorpus", f"{name}.titles.queries") for split, name in queries.items()},
        "judgements": {split: at("nfcorpus", name) for split, name in qrels.items()},
    }  # fmt: skip
    result = ingest(source)
    assert result.counts["records"]["splits"] == {"train": 138795, "valid": 14589, "test": 15820}
    assert result.counts["quarantine_reasons"] == {"unknown document": 555}
    assert len(result.collection()) == 3395 and result.counts["queries"]["kept"] == 2594 + 325 + 325


def test_qbqtc(ingest: Any) -> None:
    paths = {"train": at("zh_qbqtc", "dev.json"), "test": at("zh_qbqtc", "test_public.json")}
    result = ingest({"format": "jsonl", "paths": paths, "columns": {"document": "title", "relevance": "label"}})
    records = result.counts["records"]
    assert records["read"] == 25000 and records["quarantined"] == 0 and 1500 < records["splits"]["valid"] < 2500
    assert {r["relevance"] for r in result.records("test")} == {0.0, 1.0, 2.0}


def test_atec(ingest: Any) -> None:
    columns = {"query": 1, "document": 2, "relevance": 3}
    path = at("zh_atec", "atec_nlp_sim_train.csv.gz")
    result = ingest({"format": "tsv", "path": path, "header": False, "columns": columns})
    assert result.counts["records"]["read"] == 39346 and result.counts["records"]["quarantined"] == 0
    records = result.records()
    assert sum(r["relevance"] for r in records) == 8549 and not [r for r in records if "\ufeff" in r["query"]]
