"""Forms in which collections lie about: XML topics, blocks ended by `/`, old judgement files, variants of BEIR."""

from typing import Any

import pytest

DOCUMENTS = "<DOC>\n<DOCNO>A-1</DOCNO>\n<TEXT>\nBody\n</TEXT>\n</DOC>\n"


def read(ingest: Any, write: Any, documents: str, queries: str, judgements: str, form: str = "trec") -> Any:
    parts = {"documents": documents, "queries": queries, "judgements": judgements}
    source = {"format": form, **{part: write(part, content) for part, content in parts.items()}}
    return ingest(source, max_quarantined_share=0.95)


def judged(found: Any) -> set[tuple[str, str, str, float]]:
    return {(row["query_id"], row["query"], row["document_id"], row["relevance"]) for row in found.records()}


TOPICS = {
    "number as an element": "<topics>\n<topic>\n<number>101</number>\n<query>ankle brace</query>\n</topic>\n</topics>",
    "text inside": '<topics>\n<topic number="101">\nankle brace\n</topic>\n</topics>',
    "an xml declaration": "<?xml version='1.0'?>\n<topics><topic id='101'><title>ankle brace</title></topic></topics>",
    "cdata": '<topics><topic number="101"><query><![CDATA[ankle brace]]></query></topic></topics>',
    "a question": "<topic><qid>101</qid><question>ankle brace</question><narrative>more</narrative></topic>",
    "attributes of top": '<top lang="en">\n<num> Number: 101\n<title> ankle brace\n</top>',
    "a number before an attribute": '<topic id="x"><num>101</num><title>ankle brace</title></topic>',
    "on one line with a mark": "\ufeff<topic number=101>ankle <b>brace</b></topic>",
}


@pytest.mark.parametrize("name", TOPICS)
def test_topics(name: str, ingest: Any, write: Any) -> None:
    found = read(ingest, write, DOCUMENTS, TOPICS[name], "101 0 A-1 1\n")
    assert {(query, " ".join(text.split())) for query, text, *_ in judged(found)} == {("101", "ankle brace")}
    assert found.quarantine == []


@pytest.mark.parametrize("document", [
    '<doc id="x">\n<docno>A-1</docno>\n<text>low</text>\n</doc>', '<DOC id="A-1">low</DOC>',
    "<DOC><DOCID>A-1</DOCID><TEXT><![CDATA[low]]></TEXT></DOC>", "<doc docno='A-1' n=3>\n<text>low</text></doc>",
])  # fmt: skip
def test_documents(document: str, ingest: Any, write: Any) -> None:
    found = read(ingest, write, document, "<top><num>101<title>brace</top>", "101 0 A-1 1\n")
    assert found.collection() == {"A-1": "low"} and found.quarantine == []


def test_markup_within_cdata_is_text(ingest: Any, write: Any) -> None:
    found = read(ingest, write, DOCUMENTS, "<topic number='1'><![CDATA[a < b && <c>]]></topic>", "1 0 A-1 1\n")
    assert judged(found) == {("1", "a < b && <c>", "A-1", 1.0)}


# --- blocks that end with / -------------------------------------------------------------------------------------------
SLASHED = "1\ncompact memories have\nflexible capacities\n   /\n2\na digital computer\n   /\n"


@pytest.mark.parametrize("judgements", ["1\n 2 1\n   /\n2\n 1\n\n /\n", "1 2\t0\t0.000000\n01 1 0 0\n2 0001 0 0\n"])
def test_blocks_and_judgements_of_old_collections(judgements: str, ingest: Any, write: Any) -> None:
    queries = "1\nlarge memories\n   /\n2\nfast machines"
    found = read(ingest, write, SLASHED, queries, judgements)
    assert found.collection() == {"1": "compact memories have\nflexible capacities", "2": "a digital computer"}
    assert judged(found) == {("1", "large memories", "2", 1.0), ("1", "large memories", "1", 1.0),
                             ("2", "fast machines", "1", 1.0)}  # fmt: skip
    assert found.quarantine == []


@pytest.mark.parametrize("judgements", ["01 2 0 0\n02 1 0 0\n", "1 0 2 1\n2 0 1 1\n", "1 Q0 2 1\n2 Q0 1 1\n"])
def test_judgements_of_smart_and_of_trec(judgements: str, ingest: Any, write: Any) -> None:
    smart = ".I 1\n.W\nwing\n.I 2\n.W\nheat\n"
    found = read(ingest, write, smart, smart, judgements)
    assert judged(found) == {("1", "wing", "2", 1.0), ("2", "heat", "1", 1.0)} and found.quarantine == []


def test_a_document_whose_id_is_0_and_is_not_relevant_stays_one(ingest: Any, write: Any) -> None:
    found = read(ingest, write, "0\twing\n5\theat\n", "1\tq\n", "1 0 0 0\n1 0 5 2\n")
    assert judged(found) == {("1", "q", "0", 0.0), ("1", "q", "5", 2.0)}


# --- names of columns -------------------------------------------------------------------------------------------------
HEADERS = [
    "query-id\tcorpus-id\tscore",
    "query_id doc_id relevance",
    "qid\t0\tdocid\trel",
    "Query ID\tDocument ID\tLabel",
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_row_of_names_is_no_judgement(header: str, ingest: Any, write: Any) -> None:
    row = "1\t0\t7\t2" if header.startswith("qid") else "1\t7\t2" if "\t" in header else "1 7 2"
    found = read(ingest, write, "pid\tpassage\n7\twing\n", "qid\tquery\n1\tq\n", f"\ufeff{header}\n{row}\n", "msmarco")
    assert judged(found) == {("1", "q", "7", 2.0)} and found.quarantine == []


def test_rows_of_beir_by_id_or_by_underscored_id(ingest: Any, write: Any, tmp_path: Any) -> None:
    rows = '{"id": 1, "title": "t", "text": "one"}\n{"_id": "2", "id": "x", "text": "two"}\n{"text": "none"}\n'
    write("corpus.jsonl", rows)
    write("queries.jsonl", '{"id": "q", "text": "query"}\n')
    write("qrels/test.tsv", "query_id\tdoc_id\trelevance\nq\t1\t1\nq\t2\t0\n")
    found = ingest({"format": "beir", "path": str(tmp_path)}, max_quarantined_share=0.5)
    assert found.collection() == {"1": "t\none", "2": "two"}
    assert judged(found) == {("q", "query", "1", 1.0), ("q", "query", "2", 0.0)}
    assert [(row["row"], row["reason"]) for row in found.quarantine] == [(3, "missing field: no '_id' (nor 'id')")]
