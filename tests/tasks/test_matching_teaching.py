"""A teacher of matchers: what is kept of its files, what it adds to a loss, and that the student follows it."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mxnet import nd
from scipy.special import log_softmax, softmax

from pipeline.cli.main import main
from pipeline.config import Config, check_config
from pipeline.core.errors import InputError
from pipeline.orchestration import flow, teach_pairs
from pipeline.serving.export import model_card
from pipeline.serving.loading import open_encoder
from pipeline.tasks import matching_teaching, teacher_files
from pipeline.tasks.known_pairs import Scored, key_of
from pipeline.tasks.matching_teaching import Taught, Teacher
from tests.conftest import last_json, small_configuration
from tests.models.test_losses import difference, gradient
from tests.search.models import model_folder
from tests.tasks.teachers import WIDTH, for_all_pairs, records, scored, texts, vectors_of, written

RNG = np.random.default_rng(1)
SCORES = RNG.normal(0, 0.3, (3, 5)).astype(np.float32)
QUERIES, DOCUMENTS = (RNG.normal(size=(n, 4)).astype(np.float32) for n in (3, 5))


def settings(**teach: Any) -> Config:
    source = {"source": {"format": "docstrings"}}
    return check_config({"name": "t", "ingest": source, "teach": {"vectors": ["v.npz"], **teach}}, "test")


# --- the losses -------------------------------------------------------------------------------------------------------
def mixed(scores: nd.NDArray, taught: Taught, config: Config, piece: slice = slice(0, 3)) -> nd.NDArray:
    own = nd.arange(piece.stop - piece.start) + 1 + piece.start
    label = scores.sum().reshape(1) * 0 + 7
    return matching_teaching.mixed(label, scores, own, taught, piece, config, 0.5)


def row_by_hand(scores: np.ndarray) -> float:
    theirs, mine = QUERIES.astype(float) @ DOCUMENTS.T.astype(float) / 0.2, scores / 0.1
    apart = log_softmax(theirs, axis=1) - log_softmax(mine, axis=1)
    return float(0.7 * 7 + 0.3 * 2 * 0.5 * (softmax(theirs, axis=1) * apart).sum())


def test_the_rows_loss_and_its_gradient_are_those_of_the_formula() -> None:
    config = settings(weight=0.3, row_weight=2, row_temperature=0.2)
    taught = Taught({}, None, 0, QUERIES, DOCUMENTS)
    loss = lambda x: mixed(x, taught, config)
    assert loss(nd.array(SCORES)).asscalar() == pytest.approx(row_by_hand(SCORES.astype(float)), rel=1e-5)
    np.testing.assert_allclose(gradient(loss, SCORES), difference(row_by_hand, SCORES.astype(float)), atol=1e-4)
    pieces = [mixed(nd.array(SCORES[p]), taught, settings(weight=1, row_temperature=0.2), p) for p in
              (slice(0, 1), slice(1, 3))]  # fmt: skip
    whole = mixed(nd.array(SCORES), taught, settings(weight=1, row_temperature=0.2))
    assert sum(piece.asscalar() for piece in pieces) == pytest.approx(whole.asscalar(), rel=1e-5)


class Mapped:
    """A network that has brought texts to the teacher's width."""

    def as_teacher(self, vectors: np.ndarray) -> nd.NDArray:
        return nd.array(vectors)


def test_regression_is_the_mean_over_all_workers_texts() -> None:
    theirs = {"query": QUERIES, "further": DOCUMENTS}
    own = {"query": QUERIES + 0.5, "document": QUERIES, "further": DOCUMENTS * 2}
    found = matching_teaching.regression(Mapped(), own, Taught(theirs, None, 16), 2)  # type: ignore[arg-type]
    expected = 2 / 16 * (3 * 4 * 0.25 + float((DOCUMENTS**2).sum()))
    assert found.shape == (1,) and found.asscalar() == pytest.approx(expected, rel=1e-5)


PAIRS = [(4, 2, 3.0), (4, 7, 1.0), (4, 9, -1.0), (5, 9, 2.0), (6, 2, 0.5), (6, 7, 5.0), (8, 1, 1.0)]


def margin_teacher(folder: Path, shift: float = 0.0, **teach: Any) -> Teacher:
    rows = np.array([(q, d) for q, d, _ in PAIRS])
    folder.mkdir(exist_ok=True)
    np.save(folder / matching_teaching.KEYS, key_of(rows[:, 0], rows[:, 1]))
    np.save(folder / matching_teaching.SCORES, np.array([s + shift * (q == 4) for q, _, s in PAIRS], np.float32))
    return Teacher(folder, settings(margin_scale=0.1, **teach).teach)


def margins_by_hand(scores: np.ndarray) -> float:
    """Query 4's own document is 7, in column 1; 5's is 9 (2), which no other score stands beside; 6's is 2 (3)."""
    four = (scores[0, 1] - scores[0, 3] - 0.1 * (1 - 3)) ** 2 + (scores[0, 1] - scores[0, 2] - 0.1 * (1 + 1)) ** 2
    six = (scores[2, 3] - scores[2, 1] - 0.1 * (0.5 - 5)) ** 2 + (scores[2, 3] - scores[2, 4] - 0.1 * (0.5 - 5)) ** 2
    return float(0.7 * 7 + 0.3 * 3 * 0.5 * (four / 2 + six / 2))


def test_the_margins_loss_is_that_of_the_formula_and_knows_no_constants(tmp_path: Path) -> None:
    config, found = settings(weight=0.3, margin_weight=3), []
    for shift in (0.0, 5.0):
        teacher = margin_teacher(tmp_path / str(shift), shift)
        queries, documents = np.array([4, 5, 6]), np.array([3, 7, 9, 2, 7])
        taught = teacher.joined(Taught({}, None, 10), queries, documents, 1, 2)
        assert taught.total == 12  # two documents are no pair's own
        found.append((taught, lambda x, taught=taught: mixed(x, taught, config)))
    assert [list(place) for place in found[0][0].places.T] == [[0, 3], [0, 2], [2, 1], [2, 4]]
    for _, loss in found:
        assert loss(nd.array(SCORES)).asscalar() == pytest.approx(margins_by_hand(SCORES.astype(float)), rel=1e-5)
        np.testing.assert_allclose(
            gradient(loss, SCORES), difference(margins_by_hand, SCORES.astype(float)), atol=1e-4
        )  # fmt: skip


def test_scores_are_found_by_pair() -> None:
    rows = np.array([(q, d) for q, d, _ in PAIRS])
    known = Scored(key_of(rows[:, 0], rows[:, 1]), np.array([s for *_, s in PAIRS], np.float32))
    queries, documents = RNG.integers(0, 10, 40), RNG.integers(0, 12, 60)
    places, scores = known.among(queries, documents)
    by_hand = {(i, j, s) for i, q in enumerate(queries) for j, d in enumerate(documents) for a, b, s in PAIRS
               if (a, b) == (q, d)}  # fmt: skip
    assert set(zip(*places.tolist(), scores.tolist())) == by_hand and len(scores) == len(by_hand) > 10


# --- the files --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], teach_pairs.Folders]:
    """A small configuration and its folders, ingested and tokenized."""
    folder = tmp_path_factory.mktemp("taught")
    base = small_configuration(folder, tracking={"send": "later"})
    stages = flow.run(check_config(base, "test"), "test", "tokenize", lambda line: None).stages
    return base, teach_pairs.Folders(Path(stages["ingest"]["folder"]), Path(stages["tokenize"]["folder"]), folder)


def kept(made: Any, output: Path, **teach: Any) -> tuple[dict[str, Any], list[str]]:
    """What the stage keeps and says."""
    output.mkdir()
    config = check_config({**made[0], "teach": {"by": "a sage", **teach}}, "test")
    counts = teach_pairs.keep(config, made[1]._replace(output=output))
    return counts, list(teach_pairs.sentences(config, counts))


def test_vectors_come_by_text_or_by_id(made: Any, tmp_path: Path) -> None:
    train, both = (records(made[1].ingested, *splits) for splits in (("train",), ("train", "valid")))
    queries = {row["query_id"]: row["query"] for row in both}
    documents = {row["document_id"]: row["document"] for row in both}
    held_out = records(made[1].ingested, "test")[0]["query"].upper()  # but for case it is test's
    more = ["w one", "w two w three", held_out]
    all_texts = [*texts(both), *more]
    by_text = written(tmp_path / "t.parquet", all_texts, 3 * vectors_of(all_texts))
    by_id = [
        written(tmp_path / "q.npz", list(queries), vectors_of(queries.values()), "query_id"),
        written(tmp_path / "d.parquet", list(documents), vectors_of(documents.values()), "document_id"),
    ]
    for name, files in (("text", [by_text]), ("id", by_id)):
        counts, said = kept(made, tmp_path / name, vectors=files)
        figure = re.search("a sage, by vectors, has mrr@10 (0.[0-9]{4}) on", said[1])
        assert figure and float(figure[1]) > 0.8  # the words tell a query's document, but for orders of the same
        teacher = Teacher(tmp_path / name, settings().teach)
        table = {row["document"]: i for i, row in enumerate(train)}
        array = np.load(tmp_path / name / "document.npy")
        assert array.shape == (counts["documents"], WIDTH) and len(table) == counts["documents"]
        np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, rtol=1e-5)
        split = teach_pairs.shards.open_split(made[1].tokenized, "train")
        keys = split.fields["document"].keys
        expected = vectors_of(documents[key] for key in keys)
        np.testing.assert_allclose(array, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
        if name == "id":
            assert counts["further"] == 0 and teacher.drawn(2, 0, [1, 0, 0, 0])[1] == 0
            continue
        valid = len(texts(both)) - len({text for row in train for text in (row["query"], row["document"])})
        queries_left = len(texts([{"query": r["query"], "document": r["query"]} for r in both if r not in train]))
        assert (counts["held_out"], counts["further"]) == (queries_left + 1, valid - queries_left + 2)
        assert f"{counts['held_out']:,} left out as queries of valid or test" in said[0]
        tokenizer = teach_pairs.shards.load_tokenizer(made[1].tokenized)
        drawn, count = teacher.drawn(1, 0, [1, 0, 0, 0])
        assert count == len(drawn) == counts["further"]
        ids = {tuple(text.tolist()): row for text, row in zip(teacher.texts(drawn), drawn.tolist())}
        row = ids[tuple(tokenizer.encode("w two w three", "document").tolist())]
        [wanted] = vectors_of(["w two w three"])
        further = np.load(tmp_path / name / "further.npy")
        np.testing.assert_allclose(further[row], wanted / np.linalg.norm(wanted), atol=1e-6)


def bad_vectors(folder: Path, all_texts: list[str]) -> dict[str, tuple[list[str], str]]:
    good = vectors_of(all_texts)
    nan, nothing = good.copy(), good.copy()
    nan[3, 2], nothing[3] = np.nan, 0
    more = [*all_texts, "x", "x"]
    path = lambda name: folder / f"{name}.parquet"
    write = lambda name, *rest: written(path(name), *rest)
    (folder / "cut.parquet").write_bytes(Path(write("whole", all_texts, good)).read_bytes()[:-20])
    ragged = [*good[:-1].tolist(), good[-1, :3].tolist()]
    teach_pairs.pq.write_table(teacher_files.pa.table({"text": all_texts, "vector": ragged}), path("ragged"))
    teach_pairs.pq.write_table(teacher_files.pa.table({"text": all_texts, "vector": all_texts}), path("words"))
    lacks = {"text": all_texts, "vector": good.tolist(), "query_id": all_texts}
    teach_pairs.pq.write_table(teacher_files.pa.table(lacks), path("two"))
    np.savez(folder / "shape.npz", texts=all_texts, vectors=good[:-1])
    narrow = written(folder / "narrow.npz", ["another text"], good[:1, :3])
    return {
        "absent": ([str(path("nowhere"))], "nowhere.parquet cannot be read"),
        "cut": ([str(path("cut"))], "cut.parquet cannot be read"),
        "of words": ([str(path("words"))], "its column vector is of string"),
        "two kinds of key": ([str(path("two"))], "it has query_id and text of query_id, document_id, text"),
        "another number of vectors": ([str(folder / "shape.npz")], "vectors of the shape"),
        "ragged": ([str(path("ragged"))], "has a vector of 3 numbers for .* and one of 16 before it"),
        "other widths": ([str(path("whole")), narrow], "has vectors of 3 numbers and the file before it of 16"),
        "not finite": ([write("nan", all_texts, nan)], "has a vector that is not finite, or all zeros, for"),
        "zeros": ([write("zeros", all_texts, nothing)], r"all zeros, for .* \(1 such among"),
        "twice": ([str(path("whole"))] * 2, "gives the vector of the text .* twice"),
        "further twice": ([write("more", more, vectors_of(more))], "text 'x' twice"),
        "lacks some": ([write("less", all_texts[:-5], good[:-5])], r"lacks \d+ of \d+ (queries|documents) of the tr"),
    }


def test_bad_files_of_vectors_are_one_sentence(made: Any, tmp_path: Path) -> None:
    for name, (files, said) in bad_vectors(tmp_path, texts(records(made[1].ingested, "train"))).items():
        with pytest.raises(InputError, match=said) as raised:
            kept(made, tmp_path / name, vectors=files)
        assert "\n" not in str(raised.value), name


def test_bad_files_of_scores_are_one_sentence(made: Any, tmp_path: Path) -> None:
    train = records(made[1].ingested, "train")
    good = for_all_pairs(train)
    own = [(row["query_id"], row["document_id"], 1.0) for row in train]
    for name, rows, said in (
        ("twice", [*good, good[0]], f"has the pair {good[0][0]!r}, {good[0][1]!r} twice"),
        ("not finite", [*good[1:], (*good[0][:2], float("nan"))], r"is not a finite number \(1 such\)"),
        ("lacks", [row for row in good if row[:2] != own[4][:2]], f"lacks 1 of {len(train)} relevant pairs"),
        ("no others", own, "has one document for each query of train"),
    ):
        with pytest.raises(InputError, match=said):
            kept(made, tmp_path / name, scores=scored(tmp_path / f"{name}.parquet", rows))
    counts, said = kept(made, tmp_path / "good", scores=scored(tmp_path / "s.parquet", [*good, ("q", "d", 1.0)]))
    assert counts == {"pairs": len(good), "unknown": 1}
    assert "1 others are of no query" in said[0] and "has not all scores of valid" in said[1]


def test_a_teacher_that_valid_speaks_against_is_refused_after_its_figure(made: Any, tmp_path: Path) -> None:
    rows = records(made[1].ingested, "train", "valid")
    all_texts = texts(rows)
    shuffled = vectors_of(all_texts)
    of = dict(zip(all_texts, shuffled))
    for row in rows:  # each document is as far from its query as can be
        of[row["document"]] = -of[row["query"]]
    path = written(tmp_path / "bad.parquet", list(of), np.array(list(of.values())))
    pairs = [(q, d, -score) for q, d, score in for_all_pairs(rows)]
    files = {"vectors": [path], "scores": scored(tmp_path / "s.parquet", pairs)}
    for kind in files:
        (tmp_path / kind).mkdir()
        config = check_config({**made[0], "teach": {"by": "a fool", kind: files[kind]}}, "test")
        counts = teach_pairs.keep(config, made[1]._replace(output=tmp_path / kind))
        lines, said = teach_pairs.sentences(config, counts), []
        with pytest.raises(InputError, match=f"a fool, by {kind}, ranks the documents of valid no better than chance"):
            said.extend(lines)
        for line in teach_pairs.sentences(config, counts):
            said.append(line)
            if line.startswith("teach: a fool"):
                break
        assert f"teach: a fool, by {kind}, has mrr@10 0.0" in said[-1]


def test_what_a_teacher_needs_is_said_at_once() -> None:
    source = {"source": {"format": "docstrings"}}
    graded = {"loss": {"kind": "pointwise"}}
    for given, said in (
        ({"train": graded, "evaluate": {"candidates": "listed"}, "teach": {"scores": "s.npz"}}, "or teach.vectors"),
        ({"task": "tagging", "teach": {"vectors": ["v.npz"]}}, "teach.vectors is for task matching, not tagging"),
    ):
        with pytest.raises(InputError, match=said):
            check_config({"name": "t", "ingest": source, **given}, "test")


def test_who_taught_is_on_the_card() -> None:
    for teach, who in (({"by": "a sage"}, "a sage"), ({"vectors": ["a/v.npz", "w.npz"]}, "v.npz, w.npz")):
        config = settings(**teach)
        card = {"trained": {"created": "", "figures": {}}, "name": "", "task": "matching", "int8": False,
                "model": config.model.model_dump(), "data": {}, "tokenizer": config.tokenize.model_dump(),
                "metric": "", "taught": config.teach.who}  # fmt: skip
        assert f"- Taught by {who}, beside the labels." in model_card.text(card)


# --- the student ------------------------------------------------------------------------------------------------------
def word(form: str, concept: int) -> str:
    """Each concept is one word in queries and another in documents."""
    return f"{form}{chr(97 + concept // 10)}{chr(97 + concept % 10)}"


def meaning(of: str) -> str:
    return of[1:]


def lesson(folder: Path, concepts: dict[str, range], right: bool) -> dict[str, Any]:
    """Pairs that have their concepts in common; those of train are wrong unless `right`."""
    rng, paths = random.Random(1), {}
    for split, count in (("train", 300), ("valid", 40), ("test", 80)):
        chosen = [rng.sample(concepts[split], 3) for _ in range(count)]
        other = chosen if right or split != "train" else [*chosen[1:], chosen[0]]
        rows = []
        for mine, theirs in zip(chosen, other):
            rng.shuffle(theirs := list(theirs))
            sides = (" ".join(word(form, c) for c in side) for form, side in (("q", mine), ("d", theirs)))
            rows.append(dict(zip(("query", "document"), sides)))
        paths[split] = str(folder / f"{split}.jsonl")
        Path(paths[split]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "name": "taught", "root": str(folder / "runs"), "ingest": {"source": {"format": "jsonl", "paths": paths}},
        "tokenize": {"kind": "whitespace", "min_count": 1},
        "model": {"embedding": 24, "hidden": 24, "head": "cosine", "dropout": 0.0, "pooling": "mean"},
        "train": {"threads_per_worker": 1, "max_pairs_per_update": 32, "epochs": 15, "patience_validations": None,
                  "optimizer": {"learning_rate": 0.01}, "schedule": {"warmup_updates": 5}},
        "evaluate": {"bootstrap_samples": 20, "collection": "split"},
        "tracking": {"system_metrics": False, "send": "later"},
    }  # fmt: skip


ALONE = {
    "embedding": {"row_weight": 0, "embedding_weight": 1},
    "row": {"row_weight": 1, "embedding_weight": 0},
    "margin": {"margin_weight": 4},
}


@pytest.mark.learns
@pytest.mark.timeout(900)  # trains two models
@pytest.mark.parametrize("term", ALONE)
def test_a_student_follows_its_teacher_or_the_labels(term: str, duplet: Callable[..., Any], tmp_path: Path) -> None:
    """Train's pairs are all wrong, the teacher is right: with weight 1 the student is right, with 0 it is at chance."""
    config = lesson(tmp_path, dict.fromkeys(("train", "valid", "test"), range(25)), right=False)
    ingested = Path(last_json(duplet("ingest", config, "--json"))["stages"]["ingest"]["folder"])
    rows = records(ingested, "train", "valid")
    if term == "margin":
        by_split = [for_all_pairs(records(ingested, split), meaning) for split in ("train", "valid")]
        once = {(query, document): score for pairs in by_split for query, document, score in pairs}
        pairs = [(*pair, score) for pair, score in once.items()]
        given: dict[str, Any] = {"scores": scored(tmp_path / "s.parquet", pairs)}
    else:
        given = {"vectors": [written(tmp_path / "v.parquet", texts(rows), vectors_of(texts(rows), meaning))]}
    found = {}
    for weight in (0, 1):
        config["teach"] = {"weight": weight, "by": "a sage", "further_per_update": 0, **ALONE[term], **given}
        ran = duplet("run", config, "--json")
        assert "a sage, by " in ran.stderr
        found[weight] = last_json(ran)["metrics"]["test/mrr@10"]
    assert found[1] > 0.9 and found[0] < 0.4


@pytest.mark.learns
@pytest.mark.timeout(900)  # trains two models
def test_texts_without_labels_teach_words_that_no_pair_has(duplet: Callable[..., Any], tmp_path: Path) -> None:
    """Train's pairs have other concepts than test's, whose words stand in further texts alone."""
    config = lesson(tmp_path, {"train": range(25), "valid": range(25, 50), "test": range(25, 50)}, right=True)
    forms = [word(form, concept) for form in "qd" for concept in range(50)]
    (tmp_path / "words.txt").write_text("".join(f"{form} 0 0\n" for form in forms))
    config["tokenize"]["more_words"] = str(tmp_path / "words.txt")
    ingested = Path(last_json(duplet("ingest", config, "--json"))["stages"]["ingest"]["folder"])
    rng = random.Random(2)
    more = {" ".join(word(form, c) for c in rng.sample(range(25, 50), 3)) for form in "qd" for _ in range(400)}
    all_texts = list(dict.fromkeys([*texts(records(ingested, "train", "valid")), *sorted(more)]))
    found = {}
    for count in (0, 64):
        path = written(tmp_path / "v.parquet", all_texts, vectors_of(all_texts, meaning))
        config["teach"] = {"vectors": [path], "further_per_update": count}
        found[count] = last_json(duplet("run", config, "--json"))["metrics"]["test/mrr@10"]
    assert found[64] > 0.8 and found[0] < 0.4


def test_what_a_matcher_predicts_beside_records_is_a_file_of_scores(tmp_path: Path) -> None:
    """Its documents go to what stands in `records-train.parquet`, whatever the source's columns were called."""
    model = model_folder(tmp_path / "model", ["wing", "lift", "moon"], head="cross_attention")
    rows = [
        {"id": f"r{i}", "query_id": f"q{i // 2}", "query": query, "document_id": f"d{i}", "document": document,
         "relevance": float(i % 2), "metadata": "{}"}
        for i, (query, document) in enumerate([("wing", "lift"), ("wing", "wing moon"), ("moon", "lift wing lift")])
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "records-train.parquet")
    paths = ("--input", str(tmp_path / "records-train.parquet"), "--output", str(tmp_path / "scores.parquet"))
    assert main(["predict", str(model), *paths]) == 0
    queries, documents, scores = teacher_files.scores(tmp_path / "scores.parquet")
    assert (queries, documents) == (["q0", "q0", "q1"], ["d0", "d1", "d2"])
    wanted = open_encoder(model).score([row["query"] for row in rows], [row["document"] for row in rows])
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)
    assert np.ptp(scores) > 1e-3
