"""Documents that are longer than an encoder reads: kept in passages, ranked by the best, learnt one at a time."""

import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mxnet as mx
import numpy as np
import pyarrow.parquet as pq
import pytest
from mxnet import nd

from pipeline.config import Config, check_config
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.orchestration import flow
from pipeline.serving.export import validation
from pipeline.serving.predict import mxnet_encoder
from pipeline.tasks import matching_evaluation, matching_systems
from pipeline.tasks.base import task_of
from pipeline.tasks.collection import Collection
from pipeline.tokenization import shards, stage
from pipeline.tokenization.passages import cut
from tests.conftest import last_json, small_configuration
from tests.networks import fresh, untrained_folder
from tests.tasks.reads import plain, read_by

LIMIT, MOST = 8, 3


def rows() -> list[dict[str, str]]:
    """Documents of one to seven sentences of four words; two of seven are no longer than a passage, the longest begin
    alike, and those of three sentences end with a word that stands nowhere else."""
    rng = random.Random(4)
    sentence = lambda: f"{' '.join(rng.choices([f'w{c}' for c in 'abcdefghij'], k=4))}."
    found, begin = [], [sentence() for _ in range(3)]
    for i in range(120):
        text = [sentence() for _ in range(1 + i % 7)]
        if i % 7 == 6:
            text[:3] = begin
        if i % 7 == 2:
            text[2] = "wa wb wc wlate."
        found.append({"qid": f"q{i}", "query": sentence(), "document": " ".join(text)})
    return found


class Made(NamedTuple):
    config: Config
    ingested: Path
    tokenized: Path
    said: list[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Made]:
    """made(passages, head): tokenized documents, with settings for them."""
    folder = tmp_path_factory.mktemp("passages")
    source = folder / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows()))

    def make(passages: int = MOST, **model: str) -> Made:
        said: list[str] = []
        tokenize = {"max_tokens": {"query": LIMIT, "document": LIMIT}, "max_passages": passages}
        split = {"valid": 0.2, "test": 0.2}
        config = check_config(
            small_configuration(
                folder, ingest={"source": {"format": "jsonl", "path": str(source), "columns": {"query_id": "qid"}},
                                "split": split},
                tokenize=tokenize, model=model, tracking={"send": "later"},
            ), "test",
        )  # fmt: skip
        stages = flow.run(config, "test", "tokenize", said.append).stages
        return Made(config, *(Path(stages[name]["folder"]) for name in ("ingest", "tokenize")), said)

    return make


def texts_of(made: Made, split: str) -> dict[str, str]:
    """The documents of a split by their ids."""
    table = pq.read_table(made.ingested / f"records-{split}.parquet")
    return dict(zip(table["document_id"].to_pylist(), table["document"].to_pylist()))


def passages_of(made: Made, text: str) -> list[str]:
    """As an index cuts it, from the text itself."""
    tokens = shards.load_tokenizer(made.tokenized).tokens
    return [text[span.start : span.end] for span in cut(text, LIMIT, tokens)][:MOST]


def test_a_split_keeps_the_passages_that_an_index_cuts(made: Callable[..., Made]) -> None:
    it, cuts = made(), 0
    encoder = shards.load_tokenizer(it.tokenized)
    for split in ("train", "valid", "test"):
        documents, texts = shards.open_split(it.tokenized, split).fields["document"], texts_of(it, split)
        assert documents.passages
        for row, key in enumerate(documents.keys):
            [first], [count] = documents.passages.of(np.array([row]))
            kept = documents.passages.texts.read(np.arange(first, first + count))
            own = passages_of(it, texts[key])
            assert count == (len(own) if len(own) > 1 else 0)
            for ids, passage in zip(kept, own):
                np.testing.assert_array_equal(ids, encoder.encode(passage, "document"))
            cuts += len(own) > 1
    assert 40 < cuts < 110
    assert "wlate" in shards.load_vocabulary(it.tokenized) and "wlate" not in shards.load_vocabulary(made(1).tokenized)
    assert any(f"{cuts} of them in " in line and "cut behind those (tokenize.max_passages)" in line for line in it.said)


def test_without_the_setting_nothing_is_kept_and_the_key_is_that_of_before(made: Callable[..., Made]) -> None:
    off = made(1)
    assert (
        "max_passages" not in stage.parts(off.config, "x").config
        and "max_passages" in stage.parts(made().config, "x").config
    )
    assert shards.open_split(off.tokenized, "test").fields["document"].passages is None
    collection = Collection([shards.open_split(off.tokenized, "test").fields["document"]])
    assert collection.parts.max() == 1 and collection.lengths.max() == LIMIT


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-8])])
@pytest.mark.parametrize("name", ["passages.npy", "passage-00000.arrow"])
def test_what_is_damaged_is_named(
    name: str, damage: Callable[[Path], Any], made: Callable[..., Made], tmp_path: Path
) -> None:
    shutil.copytree(made().tokenized, tmp_path / "ids")
    damage(tmp_path / "ids" / "test" / name)
    if name == "passages.npy" and not (tmp_path / "ids" / "test" / name).exists():
        return  # as in a folder without passages
    with pytest.raises(InputError, match=name):
        shards.open_split(tmp_path / "ids", "test")


# --- judging ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("head", ["cosine", "mlp", "late_interaction"])
@pytest.mark.parametrize("listed", [False, True])
def test_a_document_is_ranked_by_its_best_passage(
    listed: bool, head: str, made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each passage encoded by itself, from its text; and a document alone in its chunk is what it is among others."""
    it, world, encoder = made(head=head), World(), shards.load_tokenizer(made(head=head).tokenized)
    network = fresh(task_of(it.config, it.tokenized), init=mx.init.Normal(0.5))
    alone = lambda side, text: network.represent(
        side, network.embedding.data(), nd.array(encoder.encode(text, side)[:, None], dtype="int32"),
        nd.array([len(encoder.encode(text, side))], dtype="int32"),
    )  # fmt: skip
    split = shards.open_split(it.tokenized, "test")
    table = pq.read_table(it.ingested / "records-test.parquet")
    asked = dict(zip(table["query_id"].to_pylist(), table["query"].to_pylist()))
    documents = texts_of(it, "test")
    expected = np.array([
        [max(float(network.score_all(alone("query", asked[query]), alone("document", passage)).asscalar())
             for passage in passages_of(it, documents[document])) for document in split.fields["document"].keys]
        for query in split.fields["query"].keys
    ])  # fmt: skip
    evaluate = it.config.evaluate.model_copy(update={"candidates": "listed"} if listed else {})
    config = it.config.model_copy(update={"evaluate": evaluate})
    queries = matching_systems.queries_of(split, Collection([split.fields["document"]]))
    for most in (16_384, 20):
        monkeypatch.setattr("pipeline.tasks.matching_ranking.TOKENS_PER_CHUNK", most)
        ranking = matching_systems.ranked(config, network, queries, world)
        found, places = np.nonzero(ranking.documents >= 0)
        assert len(found) >= (len(split.relevance) if listed else expected.size)
        np.testing.assert_allclose(
            ranking.scores[found, places], expected[found, ranking.documents[found, places]], atol=2e-5
        )


def test_documents_that_begin_alike_and_go_on_otherwise_are_two(made: Callable[..., Made]) -> None:
    it = made()
    documents = shards.open_split(it.tokenized, "train").fields["document"]
    collection = Collection([documents])
    assert len({*collection.like.tolist()}) == len(collection)
    assert len({documents.ids(row).tobytes() for row in range(len(documents))}) < len(documents)
    assert documents.passages
    same = np.zeros(int(documents.passages.of(np.arange(len(documents)))[1].sum()), np.int64)
    documents.passages.texts.ids = lambda row: np.array([7], np.int32)  # type: ignore[method-assign]
    again = Collection([documents])
    several = np.flatnonzero(again.parts == MOST)
    assert len(same) and len({*again.like[several].tolist()}) == 1, "equal passages are scored once"


@pytest.mark.parametrize("candidates, depth", [("collection", 100), ("collection", 20), ("listed", 100)])
def test_an_opened_model_is_judged_as_validation_judges_it(
    candidates: str, depth: int, made: Callable[..., Made], tmp_path: Path
) -> None:
    it = made()
    evaluate = it.config.evaluate.model_copy(update={"candidates": candidates, "depth": depth})
    config = it.config.model_copy(update={"evaluate": evaluate})
    folder = untrained_folder(config, it.tokenized, tmp_path / "model")
    shutil.copy(it.tokenized / "tokenizer.json", folder)
    found = validation.judged(mxnet_encoder.open_encoder(config, folder), it.tokenized, "valid")
    network = fresh(task_of(config, it.tokenized), 5, init=mx.init.Normal(0.5), force_reinit=True)
    expected = matching_evaluation.validate(config, it.tokenized, network, World())
    assert found == pytest.approx(expected, abs=1e-6)
    if candidates == "collection":
        cut_off = made(1)
        assert found != pytest.approx(
            matching_evaluation.validate(config, cut_off.tokenized, network, World()), abs=1e-6
        )


def test_prediction_scores_as_evaluation_does(made: Callable[..., Made], tmp_path: Path) -> None:
    it, world = made(), World()
    folder = untrained_folder(it.config, it.tokenized, tmp_path / "model")
    shutil.copy(it.tokenized / "tokenizer.json", folder)
    predictor = mxnet_encoder.open_predictor(it.config, folder)
    network = fresh(task_of(it.config, it.tokenized), 5, init=mx.init.Normal(0.5), force_reinit=True)
    split = shards.open_split(it.tokenized, "test")
    queries = matching_systems.queries_of(split, Collection([split.fields["document"]]))
    scores = matching_systems.listed_scores(it.config, network, queries, world)
    table = pq.read_table(it.ingested / "records-test.parquet").select(["query", "document"]).to_pylist()
    assert max(len(passages_of(it, row["document"])) for row in table) == MOST
    np.testing.assert_allclose([answer["score"] for answer in predictor.predict(table)], scores, atol=2e-5)
    [listed] = predictor.predict([{"query": table[0]["query"], "documents": [row["document"] for row in table]}])
    alone = [predictor.predict([{**row, "query": table[0]["query"]}])[0]["score"] for row in table]
    np.testing.assert_allclose(listed["scores"], alone, atol=2e-5)


# --- training ---------------------------------------------------------------------------------------------------------
def test_training_reads_one_passage_drawn_anew_and_the_same_by_any_number_of_workers(made: Callable[..., Made]) -> None:
    it = made()
    task, count = task_of(it.config, it.tokenized), 60
    documents = task.train.fields["document"]
    assert documents.passages
    first, counts = documents.passages.of(task.train.rows["document"][task.examples[:count]])
    own = [[ids.tolist() for ids in documents.passages.texts.read(np.arange(a, a + n))] for a, n in zip(first, counts)]
    seen: list[set[int]] = [set() for _ in own]
    whole = plain(task, count)
    for epoch in range(30):
        read = read_by(task, 1, [1, epoch, 0, 4], count)
        if epoch < 2:
            assert read == read_by(task_of(it.config, it.tokenized), 3, [1, epoch, 0, 4], count)
        assert read["query"] == whole["query"]
        for text, passages, places, alone in zip(read["document"], own, seen, whole["document"]):
            if passages:
                places.add(passages.index(text))
            else:
                assert text == alone
    assert all(len(places) == len(passages) for places, passages in zip(seen, own)), "each passage is drawn"


@pytest.mark.parametrize(("changes", "told"), [
    ({"task": "tagging"}, "tokenize.max_passages is for task matching, not tagging"),
    ({"train": {"loss": {"kind": "pointwise"}}, "evaluate": {"kinds": ["graded"]}},
     "takes the best score of a document's passages, and train.loss.kind=pointwise learns grades"),
])  # fmt: skip
def test_where_no_score_is_the_best_it_is_refused(changes: dict[str, Any], told: str) -> None:
    data = {"name": "t", "ingest": {"source": {"format": "jsonl", "path": "x"}}, "tokenize": {"max_passages": 3}}
    with pytest.raises(InputError, match=told):
        check_config({**data, **changes}, "test")


@pytest.mark.learns
@pytest.mark.parametrize(("passages", "least", "most"), [(3, 0.85, 1.0), (1, 0.0, 0.25)])
def test_words_that_decide_stand_beyond_what_is_read_at_once(
    passages: int, least: float, most: float, duplet: Callable[..., Any], tmp_path: Path
) -> None:
    """A document is eighteen words, of which two of the last six are the other names of what the query asks for."""
    rng, found = random.Random(6), []
    filler = [f"f{c}" for c in "abcdefghijkl"]
    names = [f"{a}{b}" for a in "xy" for b in "abcdefghij"]
    for one, other in itertools.product(names, names):
        words = rng.choices(filler, k=18)
        words[rng.randrange(12, 15)], words[rng.randrange(15, 18)] = f"c{one}", f"d{other}"
        text = ". ".join(" ".join(words[start : start + 6]) for start in (0, 6, 12)) + "."
        query = f"{rng.choice(filler)} a{one} b{other}"
        found.append({"qid": f"q{one}{other}", "query": query, "document": text})
    source = tmp_path / "long.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in found))
    config = small_configuration(
        tmp_path, ingest={"source": {"format": "jsonl", "path": str(source), "columns": {"query_id": "qid"}}},
        tokenize={"max_tokens": {"query": 8, "document": 8}, "max_passages": passages},
        model={"embedding": 24, "hidden": 24, "layers": 1, "dropout": 0.0},
        train={"max_pairs_per_update": 32, "epochs": 40, "patience_validations": None,
               "optimizer": {"learning_rate": 0.01}},
        evaluate={"collection": "split"}, tracking={"send": "later"},
    )  # fmt: skip
    metrics = last_json(duplet("run", config, "--json"))["metrics"]
    assert least < metrics["test/mrr@10"] <= most
