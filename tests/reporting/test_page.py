"""The page: every section from its file, no text of the data as markup, nothing from outside, a bounded size."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.evaluation.judged import Judged
from pipeline.reporting import examples, figures, page
from pipeline.reporting.folder import Evaluation, load, thinned
from pipeline.reporting.slices import TOO_FEW, slices
from tests.reporting.conftest import compared, grades, ranking

Make = Callable[..., Path]
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&lt; $x^2$ #0072b2; {{ 7 * 7 }} \x00\u202e"
TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "nav", "section", "div", "p", "h1",
    "h2", "h3", "a", "b", "i", "span", "small", "code", "pre", "strong", "table", "thead", "tbody", "tr", "th", "td",
    "figure", "figcaption", "details", "summary", "ol", "li",
    "dl", "dt", "dd",
    "svg", "g", "path", "text", "tspan", "use", "defs", "clippath", "rect", "image",
}  # fmt: skip


class Read(HTMLParser):
    """All tags, attributes and texts of a page."""

    def __init__(self, page_text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page_text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def fill(folder: Path, text: str, wins: int = 3, tokens: int = 5) -> None:
    """Adds all other files that an evaluation may hold, with this text wherever one comes from data."""
    document = {"id": text, "text": text, "relevance": 1, "score": 0.5}
    lines = [
        {
            "query_id": text, "query": text, "model": 1.0, "bm25": 0.5, "difference": difference,
            "relevant": [document], "model_top": [document] * 5,
            "bm25_top": [document | {"score": None, "relevance": 0}] * 5,
        }
        for difference in (0.5, 0.0, -0.5)
        for _ in range(wins)
    ]  # fmt: skip
    (folder / "wins.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    alignment = {
        "title": text, "rows": [text] * tokens, "columns": [text] * tokens, "label": "cosine", "maxima": True, "cut": 3,
        "values": np.random.default_rng(1).random((tokens, tokens)).tolist(),
        "weights": [{"text": "query", "what": "attention", "tokens": [text] * tokens, "values": [0.2] * tokens}],
    }  # fmt: skip
    (folder / "alignments.json").write_text(json.dumps([alignment]))
    histogram = {"title": text, "x": text, "edges": [0, 1, 2], "series": [{"name": text, "counts": [3, 4]}]}
    (folder / "histograms.json").write_text(json.dumps([histogram]))
    said = [
        {"id": text, "text": text, "given": text, "label": text, "probabilities": {text: 0.5, "other": 0.4}},
        {"id": text, "words": [text] * tokens, "tags": [text] * tokens, "given": ["other"] * tokens},
        {"references": [text] * tokens, "deep": [{text: [text]}], "score": 0.25},
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said * 20))
    (folder / "written.txt").write_text(text * 100)
    history = [{"update": i, "loss": 1 / i} for i in range(1, 30)] + [{"update": 29, "valid/" + text: 0.4}]
    (folder / "history.json").write_text(json.dumps(history))


def hostile(evaluation: Make, text: str, **fills: Any) -> Evaluation:
    """An evaluation with this text in every place that data or settings reach."""
    rows = ranking(40, 0.5, text=text.replace("{", "{{").replace("}", "}}") + "{}")
    rows = rows._replace(slices={text: np.arange(40.0)}, unit=text)
    classes = grades(60, ["0", text])
    settings = {"name": text, "train": {"metric": "mrr@10"}, text: {text: text}}
    folder = evaluation(
        "evil", {"ranking": rows, "graded": classes}, title=text, command=text, made=text, git_commit=text,
        versions={text: text}, configuration=settings, test_data=text,
    )  # fmt: skip
    tables = json.loads((folder / "metrics.json").read_text())
    tables["ranking"]["systems"][text] = tables["ranking"]["systems"].pop("bm25")
    tables["ranking"]["reference"] = text
    (folder / "metrics.json").write_text(json.dumps(tables))
    fill(folder, text, **fills)
    return load(folder)


def test_no_text_of_the_data_becomes_markup(evaluation: Make) -> None:
    text = page.build(hostile(evaluation, EVIL))
    found = Read(text)
    assert {tag for tag, _ in found.tags} <= TAGS
    assert "<script" not in text
    assert "onerror" in "".join(found.texts)  # it is shown, as text
    assert "49" not in [part.strip() for part in found.texts]
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src", "xlink:href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,")), (tag, value)
    # what stands in a style, within the svg's own marks or in a meta is ours alone
    assert not re.search(r"url\((?!#)", text)


def test_equal_ids_are_of_equal_things_and_all_references_lead_somewhere(evaluation: Make) -> None:
    text = page.build(hostile(evaluation, "plain"))
    found = Read(text)
    ids = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    wanted = {(a.get("xlink:href") or a.get("href") or "")[1:] for t, a in found.tags if t in ("a", "use")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert wanted <= ids
    shapes: dict[str, str] = {}
    for name, shape in re.findall(r'<path id="([^"]+)" (d="[^"]*")', text):
        assert shapes.setdefault(name, shape) == shape


def test_the_size_is_bounded(evaluation: Make) -> None:
    found = hostile(evaluation, "很长 " * 3000, wins=200, tokens=200)
    assert len(page.build(found).encode()) < 2_000_000


def test_sections_come_with_their_files(evaluation: Make) -> None:
    titles = {
        "wins.jsonl": "Queries won and lost", "alignments.json": ">Alignments<", "histograms.json": ">Histograms<",
        "history.json": 'id="training"', "judged-ranking.parquet": ">Slices<", "run.json": "To do it again",
    }  # fmt: skip
    folder = evaluation()
    fill(folder, "text")
    whole = page.build(load(folder))
    for name, title in titles.items():
        assert title in whole
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        assert title not in page.build(load(folder)), name
        (folder / name).write_bytes(kept)
    for name in titles:
        (folder / name).unlink()
    bare = page.build(load(folder))
    assert "Result on the test split" in bare


def test_the_figures_of_the_page_are_those_of_the_evaluation(evaluation: Make) -> None:
    folder = evaluation()
    fill(folder, "text", wins=5)
    found = load(folder)
    text = page.build(found)
    value = found.compared["ranking"]["systems"]["model"]["metrics"]["mrr@10"]
    assert f"<b>{value['mean']:.3f}</b>" in text
    assert f"{value['low']:.3f} to {value['high']:.3f}" in text
    assert "5 won, 5 tied, 5 lost" in text
    assert "duplet run small.yaml" in text
    assert "prefers-color-scheme: dark" in text


def test_calibration_and_confusion() -> None:
    rows = grades(600, ["no", "yes"])
    assert rows.classes is not None
    found = page.confusion(rows.classes)
    assert found["names"] == ["no", "yes"]
    assert np.sum(found["counts"]) == 600
    right = np.trace(found["counts"])
    assert right == rows.values["model", "accuracy"].sum()
    np.testing.assert_allclose(np.sum(found["shares"], axis=1), 100)
    bins = page.reliability_bins(np.linspace(50, 100, 600), (np.arange(600) % 2) * 100.0)
    assert sum(count for _, _, count in bins) == 600
    assert all(share.mean == pytest.approx(50) for _, share, _ in bins)
    many = grades(300, [f"c{i}" for i in range(50)])
    assert many.classes is not None
    assert page.confusion(many.classes)["left_out"] == 50 - page.MAX_CLASSES


def test_slices_part_the_rows() -> None:
    rows = ranking(100, 0.5)._replace(
        slices={
            "spread": np.arange(100.0),
            "mostly 0": np.where(np.arange(100) < 70, 0.0, np.arange(100)),
            "constant": np.ones(100),
            "one outlier": np.where(np.arange(100) == 5, 9.0, 1.0),
            "unknown": np.full(100, np.nan),
            "half unknown": np.where(np.arange(100) < 50, np.nan, np.arange(100)),
        }
    )
    found = {one.name: one for one in slices(rows, "mrr@10", ["model", "bm25"], 50, 1)}
    assert set(found) == {"spread", "mostly 0", "half unknown"}
    assert [part.examples for part in found["spread"].parts] == [25, 25, 25, 25]
    assert found["spread"].parts[0].label == "0 to 24"
    assert found["mostly 0"].parts[0].label == "0"
    assert sum(part.examples for part in found["half unknown"].parts) == 50
    first = found["spread"].parts[0]
    assert first.systems[0] is not None
    assert first.difference is not None
    assert first.systems[0].mean == pytest.approx(rows.values["model", "mrr@10"][:25].mean())
    few = slices(ranking(TOO_FEW * 2 - 1, 0.5), "mrr@10", ["model"], 50, 1)
    assert all(part.systems == [None] for one in few for part in one.parts if part.examples < TOO_FEW)


def test_figures_take_the_pages_colours_and_texts_as_they_are() -> None:
    entry = {"title": "t", "x": "a $x^2$ <b> & #0072b2", "edges": [0, 1], "series": [{"name": "s", "counts": [1]}]}
    svg = figures.histogram(entry)
    assert "a $x^2$ &lt;b&gt; &amp; #0072b2" in svg
    assert "currentColor" in svg
    assert "var(--s1)" in svg
    assert "#0072b2" not in re.sub(r">[^<]*<", "><", svg).lower()
    assert svg == figures.histogram(entry)


def test_history_is_thinned_but_keeps_its_validations() -> None:
    history = [{"update": i, "loss": 1.0} for i in range(5000)] + [{"update": i, "valid/map": 0.1} for i in (99, 4999)]
    kept = thinned(history)
    assert len(kept) <= 402
    assert [row["update"] for row in kept] == sorted(row["update"] for row in kept)
    assert [row["update"] for row in kept if "valid/map" in row] == [99, 4999]


def test_damaged_and_foreign_folders_are_named(evaluation: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no evaluation \(no metrics.json\)"):
        load(tmp_path)
    folder = evaluation()
    (folder / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run.json cannot be read"):
        load(folder)
    (folder / "run.json").unlink()
    (folder / "metrics.json").write_text("[]")
    with pytest.raises(InputError, match=r"metrics\.json is damaged"):
        load(folder)


def test_a_task_without_rows_has_its_page(evaluation: Make) -> None:
    rows = Judged("sentences", ["a", "b"], ["", ""], None, {}, {("model", "bleu"): np.array([0.1, 0.2])})
    folder = evaluation("bleu", {"translation": rows})
    (folder / "judged-translation.parquet").unlink()
    tables = {"translation": compared(rows, "model")}
    tables["translation"]["systems"]["model"]["metrics"]["nats"] = {"mean": 3.2, "low": 3.0, "high": 3.4}
    tables["translation"]["systems"]["model"]["metrics"]["auc"] = {"mean": None, "low": None, "high": None}
    (folder / "metrics.json").write_text(json.dumps(tables))
    text = page.build(load(folder))
    assert "3.200" in text
    assert "bleu" in text


def test_examples_are_the_first_and_the_worst(evaluation: Make) -> None:
    """Worst by the metric that the training was after, unless all are alike; a smaller loss is better."""
    values = np.array([0.5, 0.2, 0.9, 0.2, 1.0, 0.7, 1.0, 0.8, 1.0, 0.6])
    rows = Judged("texts", [f"t{i}" for i in range(10)], ["x"] * 10, None, {}, {
        ("model", "mrr@10"): values, ("bm25", "mrr@10"): values, ("model", "nats"): values, ("bm25", "nats"): values,
    })  # fmt: skip
    lines = [{"id": f"t{i}", "text": f"text {i}", "probabilities": {"a": i / 10, "b": 0.5}} for i in range(10)]

    def shown(**record: Any) -> list[tuple[str, list[str]]]:
        folder = evaluation(f"one-{len(record)}-{record}"[:60].replace("/", ""), {"ranking": rows}, **record)
        (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        made = examples.chosen(load(folder))
        assert Read(page.build(load(folder))).texts.count("text 1") >= 1
        return [(part["title"], [line["facts"][0][1].removeprefix("text ") for line in part["lines"]]) for part in made]

    first = ("As they come", list("012345"))
    assert shown() == [first, ("Least mrr@10", list("130957"))]
    nats = {"configuration": {"train": {"metric": "nats"}}}
    assert shown(**nats) == [first, ("Most nats", list("468275"))]


def test_all_alike_has_no_worst(evaluation: Make) -> None:
    rows = ranking(12, 5.0)  # clipped: all are 1
    folder = evaluation("alike", {"ranking": rows})
    (folder / "predictions.jsonl").write_text(json.dumps({"id": "q0", "text": "x"}) + "\n")
    assert [part["title"] for part in examples.chosen(load(folder))] == ["As they come"]


def test_wrong_tags_are_told_from_right_ones(evaluation: Make) -> None:
    folder = evaluation("tags")
    line = {"id": "s", "words": ["time", "flies"], "tags": ["NOUN", "NOUN"], "given": ["NOUN", "VERB"]}
    (folder / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "written.txt").write_text("once upon <a> time")
    text = page.build(load(folder))
    assert (
        '<span>time <small>NOUN</small></span> <span class="wrong">flies <small>NOUN, not VERB</small></span>' in text
    )
    assert "<pre>once upon &lt;a&gt; time</pre>" in text
