"""BPE-dropout: against SentencePiece where nothing is left out, and by hand where all is."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import check_config
from pipeline.orchestration import flow
from pipeline.tasks.base import task_of
from pipeline.tokenization import segments, vocabulary
from pipeline.tokenization.encoder import UNKNOWN_ID, Encoder, Form, load_tokenizer, write_settings
from pipeline.tokenization.segments import Segments
from tests.conftest import small_configuration
from tests.tasks.reads import plain, read_by

BPE: dict[str, Any] = {"kind": "sentencepiece", "sentencepiece_model": "bpe", "vocabulary_size": 120}
SYLLABLES = ["ba", "do", "ke", "li", "mu", "na", "po", "re", "si", "tu"]


def sentences(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    word = lambda: "".join(rng.choices(SYLLABLES, [2**i for i in range(10)], k=rng.randint(1, 5)))
    return [" ".join(word() for _ in range(rng.randint(1, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bpe")
    form = Form("sentencepiece", True, {"text": 40}, 200, 1, "bpe")
    write_settings(form, made)
    vocabulary.write_sentencepiece(sentences(400), form, made)
    return made


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_tokenizer(folder)


TEXTS = [*sentences(60, 2), "☃", "ba☃do ke", "snow ☃☃ man", "badokelimunaporesitu" * 4, "ba  do"]


@pytest.mark.parametrize("longest", [24, 5])
def test_without_dropout_the_pieces_are_sentencepieces(
    folder: Path, encoder: Encoder, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "LONGEST", longest)
    plain = Segments(folder, 0.0)
    for text in TEXTS:
        ids = encoder.encode(text, "text")
        np.testing.assert_array_equal(plain.anew(ids, 40, [1, 2]), ids)


def test_every_segmentation_joins_to_the_text(folder: Path, encoder: Encoder) -> None:
    names = {i: piece for piece, i in encoder._ids.items()}
    joined = lambda ids: "".join(names.get(i, "?") for i in ids.tolist())
    for dropout, most in ((0.1, 200), (0.5, 200), (1.0, 1000)):
        cut, others = Segments(folder, dropout), 0
        for number, text in enumerate(TEXTS):
            ids = encoder.encode(text, "text")
            anew = cut.anew(ids, most, [1, number])
            assert joined(anew) == joined(ids) and (anew == UNKNOWN_ID).sum() == (ids == UNKNOWN_ID).sum()
            others += len(anew) != len(ids)
            if dropout == 1:
                assert all(len(names.get(i, "?")) == 1 for i in anew.tolist())
        assert others > (3 if dropout < 0.2 else 40)
    assert len(Segments(folder, 1.0).anew(encoder.encode(TEXTS[-2], "text"), 5, [1])) == 5  # cut again


def test_a_merge_is_left_out_as_often_as_asked(folder: Path, encoder: Encoder) -> None:
    """Of a piece of two letters, one merge makes it, so it stays whole as often as that one is not left out."""
    cut = Segments(folder, 0.3)
    whole = [np.mean([len(cut._drawn(word, variant)) == 1 for variant in range(2000)])
             for word in SYLLABLES[-4:] if word in encoder._ids]  # fmt: skip
    assert len(whole) >= 3
    assert np.mean(whole) == pytest.approx(0.7, abs=0.02)


def test_it_rests_on_the_seed_and_the_text_alone(folder: Path, encoder: Encoder) -> None:
    ids = [encoder.encode(text, "text") for text in TEXTS]
    first, other = Segments(folder, 0.3), Segments(folder, 0.3)
    one = [first.anew(text, 40, [7, row]) for row, text in enumerate(ids)]
    two = {row: other.anew(ids[row], 40, [7, row]) for row in reversed(range(len(ids)))}
    assert all(np.array_equal(text, two[row]) for row, text in enumerate(one))
    assert sum(not np.array_equal(text, first.anew(ids[row], 40, [8, row])) for row, text in enumerate(one)) > 40


# --- in training ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = tmp_path_factory.mktemp("task")
    train = {"bpe_dropout": 0.3, "loss": {"listed_negatives": 0}}
    config = check_config(small_configuration(made, tokenize=BPE, train=train, tracking={"send": "later"}), "test")
    stages: dict[str, Any] = flow.run(config, "test", "tokenize", lambda line: None).stages
    return task_of(config, Path(stages["tokenize"]["folder"]))


def test_an_update_reads_the_same_by_any_number_of_workers_and_again(task: Any) -> None:
    once = read_by(task, 1, [1, 0, 0, 4])
    assert once == read_by(task, 3, [1, 0, 0, 4]) == read_by(task_of(task.config, task.folder), 2, [1, 0, 0, 4])
    later = read_by(task, 1, [1, 1, 0, 4])
    assert once != later and once != plain(task)
    assert max(len(ids) for side in once for ids in once[side]) <= 8  # tokenize.max_tokens


@pytest.mark.parametrize(("changes", "told"), [
    ({"task": "tagging", "tokenize": BPE}, "for tasks matching, classification, translation, not tagging"),
    ({"tokenize": {**BPE, "sentencepiece_model": "unigram"}}, "which only a SentencePiece model of BPE has: set"),
    ({}, "set tokenize.kind=sentencepiece and tokenize.sentencepiece_model=bpe"),
])  # fmt: skip
def test_where_there_are_no_merges_it_is_refused(changes: dict[str, Any], told: str) -> None:
    data = {"name": "t", "ingest": {"source": {"format": "jsonl", "path": "x"}}, "train": {"bpe_dropout": 0.1}}
    with pytest.raises(Exception, match=told):
        check_config({**data, **changes}, "test")
