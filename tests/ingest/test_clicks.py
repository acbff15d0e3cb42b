"""Click logs as a source: what a model of clicks finds again, how logs are read, and what is not kept of people."""

import gzip
import hashlib
import hmac
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import pearsonr, spearmanr

from pipeline.core.errors import InputError
from pipeline.ingest.click_models import MODELS, Impressions, _cascade_step

WHOLE = {"valid": 0, "test": 0}
DOCUMENTS = "d1\tfry an egg\nd2\tboil rice\nd3\tbake bread\n"
ROWS = [
    {"session": "ann", "query": "egg", "shown": ["d1", "d2", "d3"], "clicked": ["d1"], "time": 1},
    {"session": "bob", "query": "egg", "shown": ["d2", "d1", "d3"], "clicked": ["d1"], "time": 2},
    {"session": "bob", "query": "rice", "shown": ["d3", "d2"], "clicked": [], "time": 3},
]


# --- the models -------------------------------------------------------------------------------------------------------
def by_position(chances: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A place k is looked at with a chance of 1/k."""
    return (draw.random(len(chances)) < 1 / np.arange(1, len(chances) + 1)) & (draw.random(len(chances)) < chances)


def by_cascade(chances: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """From the top on; a clicked result satisfies with the same chance as it attracts; 15 % give up at each."""
    clicks = np.zeros(len(chances), bool)
    for place, chance in enumerate(chances):
        clicks[place] = draw.random() < chance
        if (clicks[place] and draw.random() < chance) or draw.random() < 0.15:
            break
    return clicks


def simulated(
    truth: np.ndarray, lists: int, people: Callable[[np.ndarray, np.random.Generator], np.ndarray], folder: Path
) -> Impressions:
    """Lists of ten for each query, in an order of the search engine's own that is shuffled a little each time."""
    draw = np.random.default_rng(1)
    queries, documents = truth.shape
    order = draw.normal(0, 0.3, truth.shape)
    log = Impressions(folder)
    for query, _ in itertools.product(range(queries), range(lists)):
        shown = np.argsort(order[query] + draw.normal(0, 0.2, documents))[:10]
        log.add((query * documents + shown).tolist(), people(truth[query, shown], draw).tolist())
    return log


def correlations(truth: np.ndarray, log: Impressions, model: str) -> tuple[float, float]:
    """Pearson's and Spearman's, of the pairs that were shown."""
    fit = MODELS[model](log, 1.0, 50)
    known = truth.ravel()[: len(fit.relevance)]
    shown = fit.views > 0
    return (
        float(pearsonr(fit.relevance[shown], known[shown])[0]),
        float(spearmanr(fit.relevance[shown], known[shown])[0]),
    )


def graded(seed: int = 0) -> np.ndarray:
    """(60, 15) chances of a click by grade: most documents are bad, few are good."""
    return np.random.default_rng(seed).choice([0.05, 0.15, 0.35, 0.7], size=(60, 15), p=[0.6, 0.2, 0.12, 0.08])


@pytest.mark.parametrize(
    ("people", "model", "margin"), [(by_position, "position", 0.12), (by_cascade, "cascade", 0.06)]
)
def test_a_model_finds_relevance_where_clicks_find_places(
    people: Any, model: str, margin: float, tmp_path: Path
) -> None:
    truth = graded()
    log = simulated(truth, 300, people, tmp_path)
    found, naive = (correlations(truth, log, name) for name in (model, "clicks"))
    assert found[0] > naive[0] + margin
    assert found[0] > 0.85


def test_the_position_model_finds_the_chances_of_looking(tmp_path: Path) -> None:
    places = np.array([1, 0.9, 0.5, 0.5, 0.3, 0.3, 0.2, 0.2, 0.1, 0.4])  # the last is near the end of a page

    def people(chances: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        return (draw.random(len(chances)) < places) & (draw.random(len(chances)) < chances)

    fit = MODELS["position"](simulated(graded(), 300, people, tmp_path), 1.0, 100)
    np.testing.assert_allclose(fit.examination, places, atol=0.06)


def test_the_cascade_finds_how_often_people_go_on(tmp_path: Path) -> None:
    """Where nothing satisfies, the chance to look at place k is 0.85 to the power of k - 1."""

    def never_satisfied(chances: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        stays = np.cumprod(np.concatenate([[True], draw.random(len(chances) - 1) < 0.85])).astype(bool)
        return stays & (draw.random(len(chances)) < chances)

    fit = MODELS["cascade"](simulated(graded(), 300, never_satisfied, tmp_path), 1.0, 50)
    np.testing.assert_allclose(fit.examination, 0.85 ** np.arange(10), atol=0.05)


def hidden(a: list[float], s: list[float], goes_on: float, clicks: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """(looked at, satisfied): expected by going through every hidden course of one list."""
    looked, content, total = np.zeros(len(a)), np.zeros(len(a)), 0.0
    for flags in itertools.product([False, True], repeat=2 * len(a)):
        satisfied, on = flags[: len(a)], flags[len(a) :]
        chance, looks, at, sat = 1.0, True, [], []
        for place, click in enumerate(clicks):
            at.append(looks)
            if not looks:
                chance *= (not click) * (not satisfied[place]) * (not on[place])
                sat.append(False)
                continue
            chance *= a[place] if click else 1 - a[place]
            chance *= (s[place] if satisfied[place] else 1 - s[place]) if click else float(not satisfied[place])
            sat.append(satisfied[place])
            if satisfied[place]:
                chance *= not on[place]
                looks = False
            else:
                chance *= goes_on if on[place] else 1 - goes_on
                looks = on[place]
        total += chance
        looked += chance * np.array(at)
        content += chance * np.array(sat)
    return looked / total, content / total


@pytest.mark.parametrize("seed", range(12))
def test_the_cascades_expectations_are_those_of_all_courses(seed: int) -> None:
    draw = np.random.default_rng(seed)
    size = int(draw.integers(1, 5))
    a, s = draw.uniform(0.1, 0.9, size), draw.uniform(0.1, 0.9, size)
    clicks, goes_on = draw.random(size) < 0.4, float(draw.uniform(0.3, 0.95))
    looked, content, _ = _cascade_step(a[None], s[None], goes_on, clicks[None], np.ones((1, size), bool))
    expected = hidden(a.tolist(), s.tolist(), goes_on, clicks.tolist())
    np.testing.assert_allclose(looked[0], expected[0], atol=1e-12)
    np.testing.assert_allclose(content[0], expected[1], atol=1e-12)


def test_lists_of_many_lengths_keep_their_places(tmp_path: Path) -> None:
    log = Impressions(tmp_path)
    log.add([0], [True])
    log.add([1, 0, 2], [False, False, True])
    [(pairs, clicks, there)] = log.chunks()
    assert there.tolist() == [[True, False, False], [True, True, True]]
    assert pairs[there].tolist() == [0, 1, 0, 2]
    assert clicks.tolist() == [[True, False, False], [False, False, True]]
    assert [len(chunk[0]) for chunk in log.chunks()] == [2]  # a second time from the beginning


DATA = Path(os.environ.get("DUPLET_DATA", "/nowhere")) / "nfcorpus"


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="DUPLET_DATA names no folder with the public sets")
def test_the_judgements_of_nfcorpus_are_found_again_better_than_by_click_through_rate(tmp_path: Path) -> None:
    """Judged relevance 1 to 3 and 0 for documents of other queries; margin in Pearson's correlation: 0.1."""
    judged: dict[str, dict[str, int]] = {}
    for line in (DATA / "test.3-2-1.qrel").read_text(encoding="utf-8").split("\n"):
        if line:
            query, _, document, level = line.split("\t")
            judged.setdefault(query, {})[document] = int(level)
    every = sorted({document for documents in judged.values() for document in documents})
    draw = np.random.default_rng(3)
    truth = []
    for _, documents in sorted(judged.items())[:80]:
        some = sorted(documents)[:6]
        levels = [documents[document] for document in some]
        levels += [documents.get(every[i], 0) for i in draw.integers(0, len(every), 15 - len(some))]
        truth.append(np.array([0.05, 0.2, 0.4, 0.75])[levels])
    log = simulated(np.array(truth), 200, by_position, tmp_path)
    found, naive = (correlations(np.array(truth), log, name) for name in ("position", "clicks"))
    assert found[0] > naive[0] + 0.1
    assert found[1] > naive[1]


# --- the source -------------------------------------------------------------------------------------------------------
@pytest.fixture
def source(write: Any) -> Callable[..., dict[str, Any]]:
    """source(rows, **settings): a log of JSON Lines beside the documents."""

    def make(rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
        log = write("log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return {"format": "clicks", "path": log, "documents": write("docs.tsv", DOCUMENTS), **settings}

    return make


def of_query(result: Any, query: str) -> dict[str, float]:
    return {row["document_id"]: row["relevance"] for row in result.records() if row["query"] == query}


def test_a_log_becomes_graded_pairs_and_unclicked_ones_listed_negatives(source: Any, ingest: Any) -> None:
    result = ingest(source(ROWS * 20, columns={"session": None}), split=WHOLE)
    assert of_query(result, "egg") == {"d1": 3.0, "d2": 0.0, "d3": 0.0}
    assert of_query(result, "rice") == {"d3": 0.0, "d2": 0.0}
    assert result.collection() == {"d1": "fry an egg", "d2": "boil rice", "d3": "bake bread"}
    told = next(json.loads(row["metadata"]) for row in result.records() if row["relevance"] == 3)
    assert (told["views"], told["clicks"]) == (40, 40)
    found = json.loads((result.folder / "clicks.json").read_text(encoding="utf-8"))
    assert (found["lists"], found["pairs"], found["views"], found["clicks"]) == (60, 5, 160, 40)
    assert len(found["examination"]) == 3
    assert result.counts["lists"] == {"read": 60, "kept": 60, "quarantined": 0, "duplicates": 0}


def test_click_through_rate_by_hand(source: Any, ingest: Any) -> None:
    """Without smoothing d1 was clicked 2 of 2 times; a grade begins at its bound."""
    result = ingest(source(ROWS, model="clicks", smoothing=0, grades=[0.5, 1 - 1e-6]), split=WHOLE)
    assert of_query(result, "egg") == {"d1": 2.0, "d2": 0.0, "d3": 0.0}


@pytest.mark.parametrize("form", ["jsonl.gz", "tsv", "csv", "parquet"])
def test_logs_of_every_format(form: str, source: Any, ingest: Any, tmp_path: Path) -> None:
    expected = ingest(source(ROWS), split=WHOLE)
    path, kind = tmp_path / f"other.{form}", form.removesuffix(".gz")
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "jsonl":
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))
    else:
        between = "\t" if kind == "tsv" else ","
        text = [{k: "|".join(v) if isinstance(v, list) else str(v) for k, v in row.items()} for row in ROWS]
        rows = [list(text[0]), *(list(row.values()) for row in text)]
        path.write_text("\n".join(between.join(row) for row in rows), encoding="utf-8")
    given = {"path": str(path), "log": kind} | ({"separator": "|"} if kind in ("tsv", "csv") else {})
    result = ingest(source(ROWS) | given, split=WHOLE)
    assert result.records() == expected.records()


def test_a_list_that_is_logged_twice_counts_once(source: Any, ingest: Any) -> None:
    assert ingest(source(ROWS * 3), split=WHOLE).counts["lists"]["duplicates"] == 6
    assert ingest(source(ROWS * 3, columns={"time": None}), split=WHOLE).counts["lists"]["duplicates"] == 0


@pytest.mark.parametrize("form", ["tsv", "jsonl", "parquet"])
def test_lists_without_a_session_or_a_time_are_no_copies_in_any_format(
    form: str, source: Any, ingest: Any, tmp_path: Path
) -> None:
    """Null, NaN and an empty cell are the same: nobody knows whether these lists are one."""
    rows = [{**ROWS[0], "session": 7, "time": 1}, *({**ROWS[0], "session": None, "time": None} for _ in range(3)),
            {**ROWS[0], "session": 7, "time": None}, {**ROWS[0], "session": None, "time": 1}]  # fmt: skip
    rows += [{**rows[-2]}, {**rows[-1]}, {**rows[0]}]
    path = tmp_path / f"other.{form}"
    if form == "parquet":
        whole = pa.Table.from_pylist(rows).set_column(
            0, "session", pa.array([r["session"] for r in rows], pa.float64())
        )
        pq.write_table(whole.set_column(4, "time", pa.array([r["time"] or float("nan") for r in rows])), path)
    elif form == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        cell = lambda value: "|".join(value) if isinstance(value, list) else "" if value is None else str(value)
        path.write_text("\n".join(["\t".join(ROWS[0]), *("\t".join(map(cell, row.values())) for row in rows)]))
    given = {"path": str(path), "log": form} | ({"separator": "|"} if form == "tsv" else {})
    counts = ingest(source(ROWS) | given, split=WHOLE).counts["lists"]
    assert (counts["kept"], counts["duplicates"]) == (8, 1)


def test_half_a_character_in_a_session_ends_nothing(source: Any, ingest: Any) -> None:
    rows = [{**row, "session": f"{row['session']}\ud800"} for row in ROWS]
    counts = ingest(source(rows * 2), split=WHOLE).counts["lists"]
    assert (counts["kept"], counts["duplicates"]) == (3, 3)


@pytest.mark.parametrize("nobody", [None, "", float("nan")])
def test_a_bad_list_without_a_session_has_no_hash_of_one(
    nobody: Any, source: Any, ingest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUPLET_SALT", "secret")
    rows = [*ROWS, {**ROWS[0], "session": nobody, "clicked": ["d9"]}]
    [bad] = ingest(source(rows, sessions="hash"), split=WHOLE, max_quarantined_share=0.5).quarantine
    assert "d9" in bad["copy"] and "session" not in bad["copy"]


def test_documents_that_are_missing_or_rare_are_counted(source: Any, ingest: Any) -> None:
    rows = [*ROWS, {"session": "eve", "query": "egg", "shown": ["gone", "d1"], "clicked": ["gone"], "time": 4}]
    result = ingest(source(rows, min_views=2), split=WHOLE)
    assert result.counts["notes"] == {
        "pairs whose document is not there": 1, "pairs that were shown too rarely (ingest.source.min_views)": 2
    }  # fmt: skip
    assert set(of_query(result, "egg")) == {"d1", "d2", "d3"}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no query": ({"query": ""}, "empty text"),
    "nothing shown": ({"shown": []}, "missing field: 'shown' names no document"),
    "clicked but not shown": ({"clicked": ["d9"]}, "click: a document was clicked that was not shown"),
    "too many": ({"shown": [f"d{n}" for n in range(101)], "clicked": []}, "too long"),
    "no list": ({"shown": [["d1"]]}, "no text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lists_are_put_aside_without_who_it_was(name: str, source: Any, ingest: Any) -> None:
    change, reason = BAD[name]
    rows = [*ROWS, {**ROWS[0], "session": "mallory@example.org 10.1.2.3", "time": 9, **change}]
    result = ingest(source(rows), split=WHOLE, max_quarantined_share=0.5)
    [bad] = result.quarantine
    assert reason in bad["reason"]
    for path in result.folder.iterdir():
        assert b"mallory" not in path.read_bytes() and b"10.1.2.3" not in path.read_bytes()


def test_sessions_are_hashed_with_a_secret_or_kept_on_request(
    source: Any, ingest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*ROWS, {**ROWS[0], "session": "mallory", "clicked": ["d9"]}]
    settings = {"split": WHOLE, "max_quarantined_share": 0.5}
    monkeypatch.delenv("DUPLET_SALT", raising=False)
    with pytest.raises(InputError, match="DUPLET_SALT"):
        ingest(source(rows, sessions="hash"), **settings)
    monkeypatch.setenv("DUPLET_SALT", "secret")
    copy = ingest(source(rows, sessions="hash"), **settings).quarantine[0]["copy"]
    assert hmac.new(b"secret", b"mallory", hashlib.sha256).hexdigest()[:20] in copy and "mallory" not in copy
    assert "mallory" in ingest(source(rows, sessions="keep"), **settings).quarantine[0]["copy"]


def test_a_row_that_cannot_be_read_leaves_no_copy(write: Any, ingest: Any) -> None:
    log = write("log.jsonl", "\n".join(map(json.dumps, ROWS)) + '\n{"session": "mallory", "query"\n')
    given = {"format": "clicks", "path": log, "documents": write("docs.tsv", DOCUMENTS)}
    [bad] = ingest(given, split=WHOLE, max_quarantined_share=0.5).quarantine
    assert bad["copy"] == ""


def test_clicks_on_pages_are_joined_by_address(tmp_path: Path, ingest: Any) -> None:
    words = "the heron feeds on small fish near the river and rests on warm stones in the afternoon sun "
    for name in ("heron", "otter"):
        canonical = f"https://example.org/{name}"
        (tmp_path / f"{name}.html").write_text(
            f'<html><head><title>{name}</title><link rel="canonical" href="{canonical}"></head>'
            f"<body><p>{name} {words * 3}{name}</p></body></html>", encoding="utf-8",
        )  # fmt: skip
    shown = ["https://EXAMPLE.org/heron?utm_source=mail#top", "https://example.org/otter", "https://example.org/gone"]
    rows = [{"query": "fishing bird", "shown": shown, "clicked": shown[:1]}] * 40
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = {"format": "clicks", "path": str(tmp_path / "log.jsonl"), "pages": f"{tmp_path}/*.html"}
    given |= {"columns": {"session": None, "time": None}, "near_duplicates": None}
    result = ingest(given, split=WHOLE)
    assert of_query(result, "fishing bird") == {"https://example.org/heron": 3.0, "https://example.org/otter": 0.0}
    assert result.counts["notes"] == {"pairs whose document is not there": 1}
    assert set(result.collection()) == {"https://example.org/heron", "https://example.org/otter"}
