"""What queries are ranked over, and what of it: against scoring everything at once, on untrained networks."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mxnet import nd

from pipeline.config import Config, check_config
from pipeline.distributed.world import World
from pipeline.evaluation import linear
from pipeline.evaluation.analysis import Analyzer
from pipeline.evaluation.fusion import Pool
from pipeline.models.matcher import Matcher
from pipeline.orchestration import flow
from pipeline.tasks import matching_evaluation, matching_ranking, matching_systems
from pipeline.tasks.base import task_of
from pipeline.tasks.matching_systems import Queries
from tests.conftest import small_configuration
from tests.networks import fresh

WORDS = [f"word{letter}" for letter in "abcdefghijklmnopqrst"]


def pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """Queries with a document that shares some words, one that shares fewer and is judged 0, and texts that repeat."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        query = rng.choice(WORDS, 3, replace=False).tolist()
        good, bad = [*query[:2], *rng.choice(WORDS, rng.integers(1, 6))], [query[2], *rng.choice(WORDS, 2)]
        for grade, words in ((1, good), (0, bad)):
            rows.append(
                {"qid": f"q{seed}-{i}", "query": " ".join(query), "document": " ".join(words), "relevance": grade}
            )
    return rows


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """judged(head, evaluate settings) -> configuration, ingested and tokenized folders, an untrained network."""
    folder = tmp_path_factory.mktemp("judged")
    paths = {}
    for seed, (name, count) in enumerate((("train", 40), ("valid", 12), ("test", 9))):
        paths[name] = str(folder / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in pairs(count, seed)))

    def make(head: str = "cosine", **evaluate: Any) -> tuple[Config, Path, Path, Matcher]:
        data = small_configuration(folder, model={"head": head, "dropout": 0.0}, evaluate=evaluate)
        columns = {"query_id": "qid", "relevance": "relevance"}
        data["ingest"] = {"source": {"format": "jsonl", "paths": paths, "columns": columns}}
        config = check_config(data, "test")
        stages: dict[str, Any] = flow.run(config, "test", "tokenize", lambda line: None).stages
        tokenized = Path(stages["tokenize"]["folder"])
        network = fresh(task_of(config, tokenized), 3, init=mx.init.Normal(0.5), force_reinit=True)
        return config, Path(stages["ingest"]["folder"]), tokenized, network

    return make


def everything(network: Matcher, queries: Queries) -> np.ndarray:
    """(Q, D) the score of each query with each document, a pair at a time."""
    table, scores = network.embedding.data(), []
    for query in range(queries.judgements.queries):
        sides = []
        for side, lines, row in (("query", queries.split.fields["query"], query), *(
            ("document", queries.collection, document) for document in range(len(queries.collection))
        )):  # fmt: skip
            ids, lengths = lines.padded(np.array([row]))
            sides.append(
                network.represent(side, table, nd.array(ids.T, dtype="int32"), nd.array(lengths, dtype="int32"))
            )
        scores.append([float(network.score_pairs(sides[0], one).asscalar()) for one in sides[1:]])
    return np.array(scores)


@pytest.mark.parametrize("head", ["cosine", "bilinear", "mlp", "late_interaction", "cross_attention"])
def test_the_documents_of_all_splits_are_ranked(
    judged: Callable[..., Any], head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, ingested, tokenized, network = judged(head)
    test, valid = matching_systems.to_judge(config, tokenized, ingested)
    distinct = {row["document"] for seed, count in ((0, 40), (1, 12), (2, 9)) for row in pairs(count, seed)}
    assert len(test.collection) == len(distinct) and valid.collection is test.collection
    monkeypatch.setattr(matching_ranking, "TOKENS_PER_CHUNK", 40)
    monkeypatch.setattr(matching_ranking, "QUERY_TOKENS", 12)
    monkeypatch.setattr(matching_ranking, "COMPARED_PER_CHUNK", 300)
    ranking = matching_systems.ranked(config, network, test, World())
    scores = everything(network, test)
    for query in range(9):
        found = ranking.documents[query]
        assert len({*found.tolist()}) == len(found) == 100
        np.testing.assert_allclose(ranking.scores[query], np.sort(scores[query])[::-1][:100], atol=1e-5)
        np.testing.assert_allclose(scores[query][found], ranking.scores[query], atol=1e-5)


def test_the_documents_of_one_split_are_ranked(judged: Callable[..., Any]) -> None:
    config, ingested, tokenized, _ = judged(collection="split")
    test, valid = matching_systems.to_judge(config, tokenized, ingested)
    assert len(test.collection) == len({row["document"] for row in pairs(9, 2)})
    assert len(valid.collection) == len({row["document"] for row in pairs(12, 1)})


@pytest.mark.parametrize("titles", [False, True])
def test_every_document_of_a_collection_has_its_text(titles: bool, tmp_path: Path) -> None:
    documents = {f"d{i}": (WORDS[i + 2], f"{WORDS[i]} {WORDS[i + 1]}") for i in range(12)}
    judgements = {"train": range(4), "valid": range(4, 6), "test": range(6, 8)}  # of d8 to d11 there is none
    lines = {
        "corpus.jsonl": [json.dumps({"_id": k, "title": t, "text": x}) for k, (t, x) in documents.items()],
        "queries.jsonl": [json.dumps({"_id": f"q{i}", "text": WORDS[i]}) for i in range(8)],
        **{
            f"qrels/{'dev' if name == 'valid' else name}.tsv": ["query-id\tcorpus-id\tscore"]
            + [f"q{i}\td{i}\t1" for i in rows]
            for name, rows in judgements.items()
        },
    }
    (tmp_path / "qrels").mkdir()
    for name, written in lines.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in written))
    source = {"format": "beir", "path": str(tmp_path), "train_on_titles": titles}
    config = check_config(small_configuration(tmp_path, ingest={"source": source}), "test")
    stages: dict[str, Any] = flow.run(config, "test", "tokenize", lambda line: None).stages
    ingested, tokenized = (Path(stages[stage]["folder"]) for stage in ("ingest", "tokenize"))
    test, valid = matching_systems.to_judge(config, tokenized, ingested)
    whole = {key: f"{title}\n{text}" for key, (title, text) in documents.items()}
    for name, queries in (("test", test), ("valid", valid)):
        texts = dict(zip(queries.collection.keys, matching_systems.texts_of(ingested, name, queries)["document"]))
        # the text that was tokenized: a document has three words with its title and two without
        assert [len(text.split()) for text in texts.values()] == queries.collection.lengths.tolist()
        assert texts == whole or (titles and name == "valid")
    assert titles or valid.collection is test.collection
    matching_systems.Words(config, tokenized, ingested, test, valid)


def test_documents_of_the_same_tokens_are_equal(judged: Callable[..., Any]) -> None:
    """Punctuation and rare words aside, two texts may be the same ids; their order must not be float noise's."""
    config, ingested, tokenized, network = judged()
    test, _ = matching_systems.to_judge(config, tokenized, ingested)
    like = test.collection.like
    like[20:40] = 20  # as if they were the same
    ranking = matching_systems.ranked(config, network, test, World())
    for query in range(9):
        scores = dict(zip(ranking.documents[query].tolist(), ranking.scores[query].tolist()))
        assert len({scores[document] for document in range(20, 40) if document in scores}) <= 1


def test_wanted_documents_have_the_models_scores(judged: Callable[..., Any]) -> None:
    config, ingested, tokenized, network = judged()
    test, _ = matching_systems.to_judge(config, tokenized, ingested)
    wanted = np.random.default_rng(0).integers(-1, len(test.collection), (9, 7))
    asked = matching_ranking.Asked(test.split.fields["query"], test.judgements, wanted)
    (found,) = matching_ranking.rank(network, test.collection, [asked], 5, World())
    scores = everything(network, test)
    expected = np.where(wanted >= 0, np.take_along_axis(scores, np.maximum(wanted, 0), axis=1), -np.inf)
    np.testing.assert_allclose(found.wanted, expected, atol=1e-5)


@pytest.mark.parametrize("candidates", ["collection", "listed"])
def test_the_linear_combination_is_fitted_to_the_pool_and_told(
    judged: Callable[..., Any], candidates: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve validation queries are too few: the mix stays, and the table says so; with a lower bound they are not."""
    config, ingested, tokenized, network = judged(fusion="linear", candidates=candidates)
    plain = judged(candidates=candidates)[0]
    made, tables = [], []
    for number, (one, least) in enumerate(((plain, 40), (config, 40), (config, 5))):
        monkeypatch.setattr(linear, "LEAST_QUERIES", least)
        (output := tmp_path / str(number)).mkdir()
        matching_evaluation.evaluate(one, tokenized, network, World(), ingested, output)
        made.append(json.loads((output / "fusion.json").read_text()))
        tables.append((output / "table.txt").read_text())
    assert "linear" not in made[0] and made[1].pop("linear")["why"].startswith("12 validation queries have a relevant")
    assert made[1] == made[0]  # the mix is the same
    assert "(linear: 12 validation queries have a relevant and an irrelevant document, and it takes 40)" in tables[1]
    fit, value = made[2]["linear"], max(made[0]["tried"].values())
    assert fit["mix"] == value and ("why" in fit) == (min(fit["held_out"], fit["validation"]) <= value)
    # by hand: two pairs' features
    sets = matching_systems.to_judge(config, tokenized, ingested)
    words = matching_systems.Words(config, tokenized, ingested, *sets)
    pool = words.looks(0, Pool(np.array([0, 3]), np.array([5, 7]), np.zeros(2), np.zeros(2)))
    texts, analyzer = words.texts, Analyzer("english")
    holding = Counter(term for text in texts["document"] for term in {*analyzer.terms(text.split())})
    for number, (query, document) in enumerate(((0, 5), (3, 7))):
        asked = {t: np.log(1 + (len(texts["document"]) - holding[t] + 0.5) / (holding[t] + 0.5))
                 for t in analyzer.terms(texts["query"][query].split()) if t in holding}  # fmt: skip
        terms = analyzer.terms(texts["document"][document].split())
        share = sum(asked[t] for t in asked if t in terms) / (sum(asked.values()) or 1)
        assert pool.looks is not None
        np.testing.assert_allclose(pool.looks[number], [share, share, np.log(1 + len(terms))])


@pytest.mark.parametrize("settings", [{}, {"collection": "split"}, {"candidates": "listed"}, {"depth": 10}])
def test_the_mix_is_at_least_its_parts_on_validation(
    judged: Callable[..., Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    config, ingested, tokenized, network = judged(**settings)
    flat = matching_evaluation.evaluate(config, tokenized, network, World(), ingested, tmp_path)
    made = json.loads((tmp_path / "fusion.json").read_text())
    tried = {float(weight): value for weight, value in made["tried"].items()}
    assert tried[made["weight"]] == max(tried.values()) >= max(tried[0], tried[1])
    assert (made["validation_queries"], made["stemmer"]) == (12, "english")
    depth = settings.get("depth", 100)
    assert (f"test/map@{depth}" in flat) and ("test/recall@100" in flat) == (depth == 100)
    over = (
        18
        if settings.get("collection")
        else len({row["document"] for s in range(3) for row in pairs((40, 12, 9)[s], s)})
    )
    if settings.get("candidates") != "listed":
        assert f"9 queries over {over} documents" in (tmp_path / "table.txt").read_text().replace(",", "")
    # the validation values are those of a ranking of the validation queries
    _, valid = matching_systems.to_judge(config, tokenized, ingested)
    ranking = matching_systems.ranked(config, network, valid, World())
    assert tried[1] == pytest.approx(matching_systems.mean_of(config, ranking, valid.judgements))


def test_the_test_split_chooses_nothing(judged: Callable[..., Any], tmp_path: Path) -> None:
    """With other judgements of the test split all that is chosen stays."""
    config, ingested, tokenized, network = judged()
    other = tmp_path / "tokenized"
    shutil.copytree(tokenized, other)
    path = other / "test" / "examples.arrow"
    with pa.ipc.open_file(str(path)) as file:
        table = file.read_all()
    turned = pa.array(1 - table["relevance"].to_numpy(), pa.float32())
    table = table.set_column(table.schema.get_field_index("relevance"), "relevance", turned).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    made = []
    for folder in (tokenized, other):
        output = tmp_path / folder.name / "out"
        output.mkdir(parents=True)
        matching_evaluation.evaluate(config, folder, network, World(), ingested, output)
        made.append((output / "fusion.json").read_text())
        assert len(pq.read_table(output / "judged-ranking.parquet")) == 9
    assert made[0] == made[1]


def test_numbers_of_bm25_are_set_or_chosen(judged: Callable[..., Any], tmp_path: Path) -> None:
    config, ingested, tokenized, _ = judged(bm25_k1=0.7, bm25_b=0.1, stemmer="english")
    sets = matching_systems.to_judge(config, tokenized, ingested)
    words = matching_systems.Words(config, tokenized, ingested, *sets)
    assert (words.k1, words.b, words.stemmer) == (0.7, 0.1, "english")
    config = judged(bm25_b=0.1)[0]
    words = matching_systems.Words(config, tokenized, ingested, *sets)
    values = {
        k1: matching_systems.mean_of(config, words.ranking(1, k1, 0.1), sets[1].judgements)
        for k1 in (0.6, 0.9, 1.2, 1.5, 2.0)
    }
    assert words.b == 0.1 and values[words.k1] == max(values.values())
