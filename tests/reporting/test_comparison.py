"""Two runs side by side: what differs, paired differences, and who changed sides."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.commands import compare
from pipeline.core.errors import InputError
from pipeline.evaluation import bootstrap
from pipeline.evaluation.judged import Classes, Judged
from pipeline.reporting import captions_page, comparison
from pipeline.reporting.folder import Evaluation
from tests.reporting.conftest import grades, ranking, run_record, with_fused
from tests.reporting.test_page import EVIL, TAGS, Read

Load = Callable[..., Evaluation]


def test_settings_that_differ_and_no_others(loaded: Load) -> None:
    configuration = run_record("x")["configuration"]
    other = {**configuration, "model": {"layers": 3}, "extra": {"key": "value"}}
    found = comparison.compare([loaded("a"), loaded("b", configuration=other, test_data="d2")])
    rows = {row.name: row.values for row in found.settings}
    assert rows["model.layers"] == ["2", "3"]
    assert rows["extra.key"] == ["–", "value"]
    assert rows["test data"] == ["d1", "d2"]
    assert "train.metric" not in rows
    assert not found.same_test_data
    assert "not comparable" in comparison.text(found)
    same = comparison.compare([loaded("c"), loaded("d")])
    assert same.same_test_data
    assert same.settings == []


def test_figures_of_trainings_are_shown_to_six_digits(loaded: Load) -> None:
    stages = lambda value: {"train": {"key": "k", "counts": {"valid/mrr@10": value}}}
    found = comparison.compare([loaded("a", stages=stages(0.44644097222222223)), loaded("b", stages=stages(0.1))])
    rows = {row.name: row.values for row in found.settings}
    assert rows["train: valid/mrr@10"] == ["0.446441", "0.1"]


def test_differences_are_paired(loaded: Load) -> None:
    a, b = (
        loaded(name, {"ranking": ranking(60, quality, seed)}) for name, quality, seed in (("a", 0.5, 1), ("b", 0.45, 2))
    )
    found = {metric.name: metric for metric in comparison.compare([a, b]).metrics}
    values = [run.judged["ranking"].values["model", "mrr@10"] for run in (b, a)]
    wanted = bootstrap.paired_difference(values[0], values[1], 200, 1)
    assert found["mrr@10"].differences[0] == pytest.approx(wanted)
    assert found["mrr@10"].common == [60]
    with pytest.raises(InputError, match="no example in common"):
        comparison.compare([a, loaded("x", {"ranking": ranking(2, 0.5)._replace(ids=["u", "v"])})])


def test_queries_that_changed_sides(loaded: Load) -> None:
    def run(name: str, model: list[float]) -> Evaluation:
        values = {("model", "mrr@10"): np.array(model), ("bm25", "mrr@10"): np.array([0.5, 0.5, 0.5, 0.5])}
        rows = Judged("queries", list("wxyz"), ["first", "second", "third", "fourth"], None, {}, values)
        return loaded(name, {"ranking": rows})

    (change,) = comparison.compare([run("a", [1, 1, 0.5, 0.1]), run("b", [0.2, 1, 1, 0])]).changes
    assert change.reference == "bm25"
    assert change.counts == {"won → lost": 1, "tied → won": 1}
    assert change.examples["won → lost"][0] == comparison.Change("w", "first", 1.0, 0.2)
    assert change.examples["tied → won"][0].id == "y"


def test_classes_are_right_or_wrong(loaded: Load) -> None:
    rows = grades(40, ["0", "1"])
    assert rows.classes is not None
    turned = rows.classes._replace(probabilities=rows.classes.probabilities[:, ::-1])
    right = rows.values["model", "accuracy"]
    other = rows._replace(values={**rows.values, ("model", "accuracy"): 1 - right}, classes=turned)
    (change,) = comparison.compare([loaded("a", {"graded": rows}), loaded("b", {"graded": other})]).changes
    assert change.counts == {"right → wrong": int(right.sum()), "wrong → right": int((1 - right).sum())}


def test_answers_are_sure_or_not(loaded: Load) -> None:
    """All are right in both runs; only the second is less sure of one."""

    def run(name: str, sure: list[float]) -> Evaluation:
        values = {("model", "sure_share"): np.array(sure), ("model", "sure_precision"): np.ones(3)}
        classes = Classes(["wrong", "right"], np.ones(3, int), np.full((3, 2), 0.5), True)
        return loaded(name, {"answers": Judged("queries", list("abc"), list("ABC"), None, {}, values, {}, classes)})

    (change,) = comparison.compare([run("a", [1, 1, 0]), run("b", [1, 0, 0])]).changes
    assert change.counts == {"sure → not sure": 1}


def test_fused_answers_are_compared_where_all_have_them(loaded: Load) -> None:
    def run(name: str, model: float, fused: float) -> Evaluation:
        return loaded(name, {"ranking": with_fused(ranking(60, model), fused)})

    runs = [run("a", 0.5, 0.6), run("b", 0.5, 0.8)]
    found = {metric.title: metric for metric in comparison.compare(runs).metrics}
    assert found["mrr@10"].differences[0].mean == 0  # type: ignore[union-attr]
    assert found["fused mrr@10"].differences[0].mean == pytest.approx(0.2)  # type: ignore[union-attr]
    assert "fused mrr@10" in comparison.text(comparison.compare(runs))
    with_one = comparison.compare([runs[0], loaded("c")])
    assert {metric.system for metric in with_one.metrics} == {"model"}


def test_smaller_is_better_without_a_reference(loaded: Load) -> None:
    def run(name: str, nats: list[float]) -> Evaluation:
        values = {("model", "nats"): np.array(nats)}
        return loaded(name, {"test": Judged("texts", list("abc"), list("ABC"), None, {}, values)})

    (change,) = comparison.compare([run("a", [1, 2, 3]), run("b", [0.5, 2, 4])]).changes
    assert change.counts == {"same → worse": 1, "same → better": 1}
    assert change.examples["same → worse"][0] == comparison.Change("c", "C", 3.0, 4.0)


def test_shown_three_ways(loaded: Load) -> None:
    runs = [loaded("a", {"ranking": ranking(30, 0.5, text=EVIL.replace("{", "").replace("}", ""))}, EVIL), loaded("b")]
    found = comparison.compare(runs)
    json.dumps(comparison.as_dict(found), allow_nan=False)
    text = comparison.text(found)
    assert "mrr@10" in text
    page_text = comparison.html(found)
    read = Read(page_text)
    assert {tag for tag, _ in read.tags} <= TAGS
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert "onerror" in "".join(read.texts)


def test_runs_that_wrote_about_the_same_pictures_stand_side_by_side(loaded: Load) -> None:
    """Only pictures of all runs; each word above the places it looked at; a run is named by what it was set to."""
    picture = np.full((8, 8, 3), 200, np.uint8)
    looked = np.array([1.0, 0, 0, 0])
    shown = lambda name, caption, words=(): captions_page.Shown(name, picture, caption, ["a ref"], False, None, words)
    runs = []
    for inject in ("first", "attention"):
        configuration = {**run_record("x")["configuration"], "captioning": {"inject": inject}}
        run = loaded(inject, configuration=configuration)
        words = [("red", looked), (EVIL, looked)] if inject == "attention" else []
        captions_page.keep(run.folder, [shown("one", f"said by {inject}", words), shown(f"only {inject}", EVIL)])
        runs.append(run)
    found = comparison.compare(runs)
    assert [one.name for one in found.pictures] == ["one"]
    assert comparison.heads(found) == ["inject: first", "inject: attention"]
    json.dumps(comparison.as_dict(found))
    page_text = comparison.html(found)
    read = Read(page_text)
    images = [attributes["src"] or "" for tag, attributes in read.tags if tag == "img"]
    assert len(images) == 3 and all(source.startswith("data:image/png;base64,") for source in images)
    assert {tag for tag, _ in read.tags} <= TAGS | {"img"}
    texts = " ".join(read.texts)
    assert "said by first" in texts and "said by attention" in texts and "onerror" in texts
    place = np.asarray(Image.open(io.BytesIO(base64.b64decode(images[1].partition(",")[2]))))
    assert (place[:4, :4] == 200).all() and (place[4:] == 30).all()  # 0.15 of 200 where nothing was looked at
    for wrong, sentence in (
        ("{", "cannot be read"),
        ("[{}]", "is damaged"),
        (json.dumps([{**json.loads((run.folder / "captions.json").read_text())[0], "picture": '"'}]), "is damaged"),
    ):
        (run.folder / "captions.json").write_text(wrong)
        with pytest.raises(InputError, match=rf"captions\.json {sentence}"):
            comparison.compare(runs)
    assert "same pictures" not in comparison.html(comparison.compare([loaded("x"), loaded("y")]))


def test_a_sweeps_folder_stands_for_its_trials(evaluation: Callable[..., Path], tmp_path: Path) -> None:
    folders = [str(evaluation(name)) for name in ("a", "b")]
    trials = [{"evaluation": folder} for folder in folders]
    (tmp_path / "results.json").write_text(json.dumps({"trials": trials}))
    assert compare._trials(str(tmp_path)) == folders
    assert compare._trials(folders[0]) == [folders[0]]
    for content in ({"trials": [{"settings": {}}]}, {"metrics": {}}, []):
        (tmp_path / "results.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="one by one"):
            compare._trials(str(tmp_path))


def test_a_sweeps_trials_are_found_from_any_folder(tmp_path: Path) -> None:
    """The sweep of `root: runs` notes runs/evaluate/KEY."""
    sweep = tmp_path / "runs" / "sweeps" / "faq-1"
    sweep.mkdir(parents=True)
    (tmp_path / "runs" / "evaluate" / "1a").mkdir(parents=True)
    trials = [{"evaluation": f"runs/evaluate/{key}"} for key in ("1a", "2b")]
    (sweep / "results.json").write_text(json.dumps({"trials": trials}))
    assert compare._trials(str(sweep)) == [str(tmp_path.resolve() / "runs" / "evaluate" / "1a"), "runs/evaluate/2b"]
