"""Filters on fields: what they let through, in every ranking, and what is said of those that cannot be read."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import InputError
from pipeline.search import searcher
from pipeline.search.documents import Document
from pipeline.search.where import Comparison, Fields, parse
from tests.search.conftest import Indexed, topical

Make = Callable[..., Indexed]

ROWS: list[dict[str, Any]] = [
    {"language": "en", "date": "2024-03-01", "pages": 3}, {"language": "zh", "date": "2023-12-31", "pages": 12},
    {"language": "en", "date": "2024"}, {"language": "ZH", "date": "2024-11-30", "author": "Ann Li"},
    {"date": "2022-01-02", "author": "Bo"}, {}, {"language": "en", "pages": 7, "draft": True},
]  # fmt: skip


def documents() -> list[Document]:
    return [document._replace(fields=json.dumps(row) if row else "") for document, row in zip(topical(7), ROWS)]


def passing(index: Indexed, where: str) -> list[int]:
    return np.flatnonzero(Fields(index.open().snapshot).documents(where)).tolist()


def test_filters_let_through_what_pandas_does(indexed: Make) -> None:
    index, table = indexed(documents()), pd.DataFrame(ROWS)
    days = pd.to_datetime(table["date"], format="ISO8601")
    language = table["language"].str.lower()
    cases = {
        "lang=zh": language == "zh",
        "language!=en": language != "en",
        "pages>3": table["pages"] > 3,
        "pages<=7": table["pages"] <= 7,
        "date>=2024": days.dt.year >= 2024,
        "date<=2023": days.dt.year <= 2023,
        "date=2024-03": (days.dt.year == 2024) & (days.dt.month == 3),
        "date<2024-03-01 and date>2022": (days < "2024-03-01") & (days.dt.year > 2022) & (table["date"] != "2024"),
        "author~li": table["author"].str.lower().str.contains("li", na=False),
        'author="ann li" and language = zh AND date>2024-02': table["author"] == "Ann Li",
        "draft==true": table["draft"].notna(),
    }
    for where, wanted in cases.items():
        if "2024-03-01" in where:  # a date of a year alone compares as text does
            continue
        assert passing(index, where) == np.flatnonzero(wanted.fillna(False)).tolist(), where


@pytest.mark.parametrize("head", ["cosine", "late_interaction", "mlp"])
@pytest.mark.parametrize("mode", ["model", "hybrid", "words"])
@pytest.mark.parametrize("graph", [False, True])
def test_every_ranking_keeps_to_the_filter(indexed: Make, head: str, mode: Any, graph: bool) -> None:
    many = [document._replace(fields=json.dumps({"part": i % 3})) for i, document in enumerate(topical(60))]
    index = indexed(many, head, approximate_above=1 if graph else None, wanted_recall=0.0)
    searcher = index.open()
    assert (searcher.snapshot.clusters is not None) == (graph and head != "mlp")
    wanted = {f"d{i}" for i in range(1, 60, 3)}
    everything = [r.document.id for r in searcher.search("wing lift own3", 60, mode).results]
    found = [r.document.id for r in searcher.search("wing lift own3", 60, mode, "part=1").results]
    assert found and {*found} <= wanted
    if not graph and mode != "hybrid":  # whose scales are those of what it finds
        assert found == [name for name in everything if name in wanted]


@pytest.mark.parametrize("head", ["cosine", "late_interaction"])
def test_a_narrow_filter_is_searched_exactly(indexed: Make, monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    many = [document._replace(fields=json.dumps({"n": i})) for i, document in enumerate(topical(60))]
    index = indexed(many, head, approximate_above=1, wanted_recall=0.0)
    found = index.open()
    assert found.snapshot.clusters is not None
    for name in ("near_tokens", "near_vector"):
        monkeypatch.setattr(found.snapshot.clusters, name, lambda *_: pytest.fail("by clusters"))
    assert [r.document.id for r in found.search("heart", 10, "model", "n=37").results] == ["d37"]


@pytest.mark.parametrize("head", ["cosine", "late_interaction"])
def test_a_filter_is_kept_to_by_clusters(indexed: Make, monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    monkeypatch.setattr(searcher, "CANDIDATES_PER_PROBE", 2)
    many = [document._replace(fields=json.dumps({"part": i % 2})) for i, document in enumerate(topical(90))]
    index = indexed(many, head, approximate_above=1, wanted_recall=0.0)
    found = index.open()
    monkeypatch.setattr(found, "exact", lambda *_: pytest.fail("compared with everything"))
    state = found.snapshot.state
    object.__setattr__(state, "approximate", {**state.approximate, "effort": 8})
    ids = [r.document.id for r in found.search("wing lift", 5, "model", "part=1").results]
    assert len(ids) == 5 and all(int(name[1:]) % 2 for name in ids)


def test_nothing_passes(indexed: Make) -> None:
    answer = indexed(documents()).open().search("wing", where="pages>1000")
    assert answer.results == [] and answer.notices == ["no document passes the filter"]


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("langage=en", "no document has a field 'langage'; did you mean language?"),
        ("xyz=1", r"no document has a field 'xyz' \(author, date, draft, language, pages\)"),
        ("days=3", r"no document has a field 'days' \("),
        ("language", "cannot be read at 'language': write such as"),
        ("language==", "cannot be read at 'language==': write such as"),
        ("pages=>3", "cannot be read at 'pages=>3'"),
        ("language=en or pages=3", "cannot be read at"),
        ("language=en and", "cannot be read at ''"),
        ('author="Ann', "cannot be read at"),
        ("x" * 2000 + "=1", "the filter is too long"),
    ],
)
def test_filters_that_cannot_be_read_are_told(indexed: Make, where: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        indexed(documents()).open().search("wing", where=where)


def test_an_index_without_fields_says_so(indexed: Make) -> None:
    with pytest.raises(InputError, match=r"no document has a field 'date' \(none but id, title and text\)"):
        indexed(topical(3)).open().search("wing", where="date=2024")


def test_numbers_beyond_all_are_texts() -> None:
    assert Comparison("a", ">", "1").holds(10**400)
    assert parse("a>" + "9" * 400)[0].holds(5) is False


def test_choices_are_fields_of_few_values(indexed: Make) -> None:
    found = Fields(indexed(documents()).open().snapshot).choices()
    assert found == {
        "author": [("Ann Li", 1), ("Bo", 1)], "date": [("2024", 3), ("2023", 1), ("2022", 1)],
        "language": [("en", 3), ("zh", 1), ("ZH", 1)], "pages": [("3", 1), ("12", 1), ("7", 1)],
    }  # fmt: skip
    assert [*found] == ["date", "language", "pages", "author"], "what most have stands first"


def test_fields_that_few_documents_have_are_not_offered(indexed: Make) -> None:
    rows = [{"size": i % 2} | ({"rare": i} if i < 2 else {}) for i in range(21)]
    documents = [Document(f"d{i}", "", "wing", json.dumps(row)) for i, row in enumerate(rows)]
    assert [*Fields(indexed(documents).open().snapshot).choices()] == ["size"]


@pytest.mark.parametrize("value", ["~x", "<3", ">= 3", "=", "==a", "it's"])
def test_a_value_of_signs_stands_in_quotes(value: str) -> None:
    for sign in ("=", "~", "!="):
        assert parse(f'title{sign}"{value}" and date>2024')[0] == Comparison("title", sign, value)
        with pytest.raises(InputError, match=r"stands in quotes$"):
            parse(f"title{sign}{value} and date>2024")
