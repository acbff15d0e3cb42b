"""Sources of queries, documents and judgements: TREC, BEIR, MS MARCO."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config import check_config
from pipeline.core.errors import InputError
from pipeline.ingest import stage
from pipeline.ingest.rows import with_title, without_title

SMART_DOCUMENTS = """.I 1
.T
a wing in a
slipstream .
.A
brenckman,m.
.W
a wing in a slipstream .
  an experimental study was made .
.I 2
.T
shear flow
.W
past a flat plate
.I 3
.W
no title here
.I 4
.T
.A
.W
"""
SMART_QUERIES = ".I 001\r\n.W\r\nwhat similarity\r\nlaws\r\n.I 004\r\n.W\r\nheat conduction\r\n"
QRELS = "1 1 2 \n1 3 -1\n2 2 1"
CRANFIELD = {"format": "trec", "query_ids": "position", "grades": {"1": 1, "2": 1, "-1": 0}}


def smart(write: Any, qrels: str = QRELS) -> dict[str, Any]:
    return {
        **CRANFIELD,
        "documents": write("cran.all", SMART_DOCUMENTS),
        "queries": write("cran.qry", SMART_QUERIES),
        "judgements": write("cranqrel", qrels),
    }


def judged(result: Any, *splits: str) -> set[tuple[str, str, float]]:
    return {(r["query_id"], r["document_id"], r["relevance"]) for r in result.records(*splits)}


def test_smart_files_with_queries_by_position(ingest: Any, write: Any) -> None:
    result = ingest(smart(write), max_quarantined_share=0.25)
    assert judged(result) == {("1", "1", 1.0), ("1", "3", 0.0), ("2", "2", 1.0)}
    assert result.collection() == {
        "1": "a wing in a\nslipstream .\nan experimental study was made .",
        "2": "shear flow\npast a flat plate",
        "3": "no title here",
    }
    assert {r["query_id"]: r["query"] for r in result.records()} == {
        "1": "what similarity\nlaws",
        "2": "heat conduction",
    }
    assert {r["document_id"]: json.loads(r["metadata"]) for r in result.records()}["2"] == {"title": "shear flow"}
    assert result.counts["documents"] == {"read": 4, "kept": 3, "quarantined": 1, "duplicates": 0}
    [entry] = result.quarantine
    assert (entry["source"], entry["row"], entry["reason"][:10]) == ("cran.all", 18, "empty text")


@pytest.mark.parametrize("first", [".Items\tof a table", " .I 1", ".Itpo.T"])
def test_a_first_line_that_only_looks_like_smart_is_a_table(first: str, ingest: Any, write: Any) -> None:
    source = {"documents": write("d", f"{first}\n2\twing\n3\tflow\n"), "queries": write("q", "1\tq\n")}
    found = ingest({"format": "trec", **source, "judgements": write("j", "1 2 1\n")}, max_quarantined_share=0.9)
    assert found.collection()["2"] == "wing"


def test_titles_train_and_judged_queries_only_test(ingest: Any, write: Any) -> None:
    titles = "".join(f".I {i}\n.T\ntitle {i}\n.W\nbody of {i}\n" for i in range(10, 200))
    source = smart(write) | {"documents": write("more", SMART_DOCUMENTS + titles), "train_on_titles": True}
    result = ingest(source, split={"valid": 0.2, "test": 0.4})
    assert judged(result, "test") == {("1", "1", 1.0), ("1", "3", 0.0), ("2", "2", 1.0)}
    learnt = {(r["query"], r["document"]) for r in result.records("train", "valid")}
    assert ("shear flow", "past a flat plate") in learnt and len(learnt) == 192
    assert ("a wing in a\nslipstream .", "an experimental study was made .") in learnt, "the title gives itself away"
    assert 20 < result.counts["records"]["splits"]["valid"] < 60
    assert not {r["query_id"] for r in result.records("test")} & {
        r["query_id"] for r in result.records("train", "valid")
    }


def test_given_ids_are_matched_as_they_are(ingest: Any, write: Any) -> None:
    source = smart(write, "001 1 1\n004 2 1\n") | {"query_ids": "given"}
    assert judged(ingest(source, max_quarantined_share=0.25)) == {("001", "1", 1.0), ("004", "2", 1.0)}


def test_title_is_joined_once() -> None:
    assert without_title("A wing.", "a  WING.\nrest of it") == "rest of it"
    assert without_title("a wing", "a wingspan") == "a wingspan"
    assert without_title("a wing", "a wing") == "" and without_title("", "text") == "text"
    assert with_title("a", "") == "a" and with_title("", "b") == "b" and with_title("a", "b") == "a\nb"


SGML_DOCUMENTS = """<?xml version="1.0"?>
<docs>
<DOC>
<DOCNO> FT-1 </DOCNO>
<HEADLINE> Oil &amp; gas </HEADLINE>
<DATE>today</DATE>
<TEXT>
Prices <b>rose</b>.
</TEXT>
<TEXT>More.</TEXT>
</DOC>
<doc><docno>FT-2</docno><text>one line</text></doc><DOC><DOCNO>FT-3</DOCNO>bare words</DOC>
</docs>
"""
SGML_TOPICS = """<top>
<num> Number: 301
<title> Topic: oil prices

<desc> Description:
What happened?
</top>

<top>
<num> Number: 302
<title>
<desc> Description:
Only a description.
</top>
<topic number="9"><query>web query</query><description>x</description></topic>
"""


def test_sgml_topics_and_documents(ingest: Any, write: Any) -> None:
    source = {
        "format": "trec",
        "documents": write("docs", gzip.compress(SGML_DOCUMENTS.encode())),
        "queries": write("topics", SGML_TOPICS),
        "judgements": write("qrels", "301 0 FT-1 2\n302 0 FT-2 0\n9\t0\tFT-3\t1\n"),
    }
    result = ingest(source)
    assert result.collection() == {
        "FT-1": "Oil & gas\nPrices  rose .\n\nMore.",
        "FT-2": "one line",
        "FT-3": "bare words",
    }
    assert {r["query_id"]: r["query"] for r in result.records()} == {
        "301": "oil prices", "302": "Only a description.", "9": "web query"
    }  # fmt: skip
    assert judged(result) == {("301", "FT-1", 2.0), ("302", "FT-2", 0.0), ("9", "FT-3", 1.0)}


def test_bad_sgml_is_put_aside_block_by_block(ingest: Any, write: Any) -> None:
    docs = (
        b"<DOC><DOCNO>1</DOCNO><TEXT>a</TEXT></DOC>\nstray words\nand more\n"
        b"<DOC><DOCNO>2</DOCNO><TEXT>\n" + b"x" * 700 + b"\n" + b"y" * 700 + b"\n</TEXT></DOC>\n"
        b"<DOC><DOCNO>3</DOCNO><TEXT>\xff</TEXT></DOC>\n"
        b"<DOC><DOCNO>4</DOCNO><TEXT>not closed\n"
        b"<DOC><DOCNO>5</DOCNO><TEXT>b</TEXT></DOC>\n<DOC><TEXT>no number</TEXT></DOC>\n"
        b"<DOC><DOCNO>1</DOCNO><TEXT>again</TEXT></DOC>\n<DOC><DOCNO>6</DOCNO><TEXT>ends here\n"
    )
    source = {
        "format": "trec", "documents": write("docs", docs), "queries": write("topics", "1\tone"),
        "judgements": write("qrels", "1 1 1\n1 5 1\n"),
    }  # fmt: skip
    result = ingest(source, max_row_kb=1, max_quarantined_share=0.9)
    assert result.collection() == {"1": "a", "5": "b"}
    assert result.counts["documents"]["duplicates"] == 0
    assert [(e["row"], e["reason"].split(":")[0]) for e in result.quarantine] == [
        (2, "text outside"), (4, "too long"), (8, "undecodable bytes"), (9, "unclosed block"), (11, "empty text"),
        (12, "id used with two texts"), (13, "unclosed block"),
    ]  # fmt: skip


def beir(write: Any, folder: str = "scifact") -> None:
    write(
        f"{folder}/corpus.jsonl",
        '{"_id": "d1", "title": "T", "text": "one", "metadata": {}}\n{"_id": 2, "title": "", "text": "two"}\n',
    )
    write(
        f"{folder}/queries.jsonl.gz", gzip.compress(b'{"_id": "q1", "text": "first"}\n{"_id": "q2", "text": "second"}')
    )
    write(f"{folder}/qrels/dev.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    write(f"{folder}/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq2\t2\t2\nq2\td1\t0\n")


def test_beir_folder(ingest: Any, write: Any, tmp_path: Path) -> None:
    beir(write)
    result = ingest({"format": "beir", "path": str(tmp_path / "scifact")})
    assert judged(result, "valid") == {("q1", "d1", 1.0)} and judged(result, "train") == set()
    assert judged(result, "test") == {("q2", "2", 2.0), ("q2", "d1", 0.0)}
    assert result.collection() == {"d1": "T\none", "2": "two"} and result.quarantine == []
    key = lambda: set(stage.parts(config_of({"format": "beir", "path": str(tmp_path / "scifact")})).inputs)
    assert key() == {"documents", "queries.all", "judgements.valid", "judgements.test"}


def config_of(source: dict[str, Any]) -> Any:
    return check_config({"name": "t", "ingest": {"source": source}}, "test")


def test_a_beir_folder_that_lacks_a_file_says_what_is_there(write: Any, tmp_path: Path) -> None:
    beir(write)
    (tmp_path / "scifact" / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"has no corpus.jsonl .*found qrels, queries.jsonl.gz"):
        stage.parts(config_of({"format": "beir", "path": str(tmp_path / "scifact")}))
    with pytest.raises(InputError, match="cannot be listed"):
        stage.parts(config_of({"format": "beir", "path": str(tmp_path / "scifacts")}))


def msmarco(write: Any) -> dict[str, Any]:
    split = lambda name, text: {s: write(f"{s}.{name}", text(i)) for i, s in enumerate(("train", "valid", "test"))}
    return {
        "format": "msmarco",
        "documents": write("docs", "d0\tzero\nd1\tone\nd2\ttwo\n"),
        "queries": split("queries", lambda i: f"q{i}\tquery {i}\n"),
        "judgements": split("qrels", lambda i: f"q{i}\t0\td{i}\t{i}\nq{i}\t0\td{i}\t9\n"),
    }


def test_msmarco_files_by_split(ingest: Any, write: Any) -> None:
    result = ingest(msmarco(write))
    # each pair is judged twice, as its number and then as 9: the higher stays
    assert judged(result, "train") == {("q0", "d0", 9.0)} and judged(result, "test") == {("q2", "d2", 9.0)}
    assert result.counts["records"]["duplicates"] == 3


def test_msmarco_documents_with_url_and_title(ingest: Any, write: Any) -> None:
    source = msmarco(write) | {"documents": write("docs4", "d0\thttp://a\tTitle\tbody\nd1\tu\t\tone\nd2\ttwo\n")}
    result = ingest(source, max_quarantined_share=0.5)
    assert result.collection() == {"d0": "Title\nbody", "d1": "one"}
    assert [e["reason"] for e in result.quarantine] == [
        "wrong number of columns: 2 instead of 4 as in the first row",
        "unknown document: 'd2' is not among the documents kept",
    ]


def test_judgements_of_unknown_ids_are_quarantined(ingest: Any, write: Any) -> None:
    source = msmarco(write)
    source["judgements"] |= {"train": write("q", "q0 d0 1\nq0 d9 1\nq1 d1 1\nq0 d1 x\nq0 d1\n")}
    result = ingest(source, max_quarantined_share=0.9)
    assert [(e["source"], e["row"], e["reason"].split(":")[0]) for e in result.quarantine] == [
        ("q", 2, "unknown document"), ("q", 3, "unknown query"), ("q", 4, "relevance"),
        ("q", 5, "wrong number of columns"),
    ]  # fmt: skip


def test_what_judgements_rest_on_is_named_first(ingest: Any, write: Any) -> None:
    write("odd/corpus.jsonl", '{"_id": "d1", "text": "one"}\n')
    write("odd/queries.jsonl", '{"query_id": "q1", "text": "first"}\n')  # so that the judgement's query is unknown
    address = write("odd/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    with pytest.raises(InputError, match=r"^1 of 1 queries are bad .*queries\.jsonl:1: missing field: no '_id'"):
        ingest({"format": "beir", "path": str(Path(address).parents[1])}, max_quarantined_share=0.5)


def test_one_file_for_all_is_split_by_query(ingest: Any, write: Any) -> None:
    source = {
        "format": "msmarco",
        "documents": write("d", "".join(f"d{i}\ttext {i}\n" for i in range(300))),
        "queries": write("q", "".join(f"q{i}\tquery {i}\n" for i in range(300))),
        "judgements": write("j", "".join(f"q{i} d{(i + k) % 300} 1\n" for i in range(300) for k in range(3))),
    }
    result = ingest(source, split={"valid": 0.2, "test": 0.2})
    queries = [{r["query_id"] for r in result.records(s)} for s in ("train", "valid", "test")]
    assert all(len(q) > 30 for q in queries) and sum(map(len, queries)) == 300 == len(set.union(*queries))
    cut = ingest(source | {"queries": {"train": source["queries"]}}, split={"valid": 0.2, "test": 0})
    assert cut.counts["records"]["splits"]["valid"] > 60 and cut.counts["records"]["splits"]["test"] == 0
    by_queries = {
        "train": write("q0", "q0\ta\nq1\tb\n"),
        "valid": write("q1", "q2\tc\n"),
        "test": write("q2", "q3\td\n"),
    }
    told = ingest(source | {"queries": by_queries}, max_quarantined_share=0.99)
    assert [{r["query_id"] for r in told.records(s)} for s in ("train", "valid", "test")] == [
        {"q0", "q1"},
        {"q2"},
        {"q3"},
    ]


def test_empty_files_and_missing_queries_of_a_split(write: Any, tmp_path: Path) -> None:
    for part in ("documents", "queries", "judgements"):
        with pytest.raises(InputError, match="empty holds no rows"):
            stage.run(config_of(smart(write) | {part: write("empty", "\n")}), tmp_path)
    source = msmarco(write)
    source["queries"] = {"train": source["queries"]["train"]}
    with pytest.raises(InputError, match=r"judgements\.valid is given, ingest\.source\.queries\.valid is not"):
        stage.run(config_of(source), tmp_path)
    nothing = smart(write, "1 1 2\n") | {"documents": write("d", "8\tx\n" * 400)}
    with pytest.raises(InputError, match=r"1 of 1 judgements are bad .*cranqrel:1: unknown document: '1' is not among"):
        stage.run(config_of(nothing), tmp_path)


def test_an_id_with_two_texts_is_put_aside_and_copies_are_not(ingest: Any, write: Any) -> None:
    source = {
        "format": "msmarco",
        "documents": write("d", "d1\tone\nd1\tone\nd1\tother\nd2\ttwo\n"),
        "queries": {"test": write("q", "q1\tfirst\nq1\tfirst\nq1\tsecond\nq2\tthird\n")},
        "judgements": {"test": write("j", "q1 d1 1\nq2 d2 1\n")},
    }
    result = ingest(source, max_quarantined_share=0.25)
    assert [(e["source"], e["row"], e["reason"]) for e in result.quarantine] == [
        ("d", 3, "id used with two texts: document id 'd1' is another text's"),
        ("q", 3, "id used with two texts: query id 'q1' is another text's"),
    ]
    assert (result.counts["documents"]["duplicates"], result.counts["queries"]["duplicates"]) == (1, 1)
    assert result.collection() == {"d1": "one", "d2": "two"}
    assert {row["query"] for row in result.records("test")} == {"first", "third"}


def missing(result: Any, split: str) -> list[dict[str, Any]]:
    return pq.read_table(result.folder / f"missing-{split}.parquet").to_pylist()


def test_judgements_of_documents_that_are_not_kept_are_noted_for_valid_and_test(ingest: Any, write: Any) -> None:
    source = msmarco(write) | {"documents": write("d", "d0\tzero\nd1\t\nd2\ttwo\n")}
    source["judgements"] |= {"test": write("t", "q2 d2 1\nq2 gone 0\nq2 gone 2\nq9 gone 1\n")}
    source["judgements"] |= {"train": write("r", "q0 d0 1\nq0 gone 1\n")}
    result = ingest(source, max_quarantined_share=0.9)
    gone = {"query_id": "q2", "query": "query 2", "document_id": "gone", "relevance": 2.0}
    assert missing(result, "test") == [gone]
    assert [(row["query_id"], row["document_id"], row["relevance"]) for row in missing(result, "valid")] == [
        ("q1", "d1", 9.0)
    ]
    assert not (result.folder / "missing-train.parquet").exists()
    assert judged(result) == {("q0", "d0", 1.0), ("q2", "d2", 1.0)}
    assert result.counts["records"]["duplicates"] == 2, "the second judgement of q2 and gone, and of q1 and d1"


def test_each_kind_of_row_has_its_own_share_of_bad_ones(write: Any, tmp_path: Path) -> None:
    source = {
        "format": "msmarco",
        "documents": write("d", "".join(f"d{i}\ttext {i}\n" for i in range(1000))),
        "queries": write("q", "".join(f"q{i}\tquery {i}\n" for i in range(50))),
        "judgements": write("j", "".join(f"q{i} d{i} 1\n" for i in range(48)) + "q48 gone 1\nq49 gone 1\n"),
    }
    message = r"^2 of 50 judgements are bad \(4\.0%\), more than ingest\.max_quarantined_share=0\.01; the first: j:49: "
    with pytest.raises(InputError, match=message):
        stage.run(config_of(source), tmp_path)
