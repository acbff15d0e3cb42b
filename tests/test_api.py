"""docs/python.md runs as it stands, in a process of its own; and what the Python calls refuse."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.core.errors import InputError

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COLOURS = ("red", "green", "blue", "black", "white", "brown", "pink", "grey")
THINGS = [f"{colour} {fruit}" for colour in COLOURS for fruit in ("apple", "pear", "plum", "lemon", "grape", "melon")]
CONFIGURATION = """
ingest:
  source: {format: tsv, path: pairs.tsv, columns: {query: question, document: answer}}
tokenize: {min_count: 1}
model: {embedding: 8, hidden: 8, head: HEAD}
train: {epochs: 1, schedule: {warmup_updates: 0}}
evaluate: {bootstrap_samples: 20}
tracking: {system_metrics: false}
"""


@pytest.fixture(scope="module", params=["late_interaction", "cosine"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where docs/python.md was run: my.yaml trained, docs.index made of its documents."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "my.yaml").write_text(CONFIGURATION.replace("HEAD", request.param), encoding="utf-8")
    rows = [("question", "answer"), *((f"where is a {t}", f"the shop sells a {t}") for t in THINGS)]
    (folder / "pairs.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    lines = ["id\ttitle\ttext", *(f"{i}\t{t}\ta {t} is sold here" for i, t in enumerate(THINGS))]
    (folder / "docs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    first = subprocess.run([sys.executable, "-P", "-c", EXAMPLES[0]], cwd=folder, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    command = [sys.executable, "-m", "pipeline.cli", "index", "my.yaml", "--documents", "docs.tsv", "--output"]
    made = subprocess.run([*command, "docs.index"], cwd=folder, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder


def test_the_page_runs_and_loads_no_mxnet(folder: Path) -> None:
    assert len(EXAMPLES) == 3
    check = "import sys; assert 'mxnet' not in sys.modules and 'horovod' not in sys.modules"
    code = "\n".join([*EXAMPLES[1:], check])
    ran = subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    shape, *hits = ran.stdout.splitlines()
    assert shape.startswith("(1,) ('question', 'answer')")
    assert [hit.split()[0] for hit in hits] == ["1", "2", "3"]
    assert any(hit.endswith("a red apple is sold here") for hit in hits)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, pipeline; print({'numpy', 'pyarrow', 'mxnet', 'mlflow'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "set()\n", ran.stderr


def test_a_model_encodes_scores_and_predicts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    model = pipeline.load_model("my.yaml")
    late = model.config.model.head == "late_interaction"
    texts = ["the shop sells a red apple", "a pear"]
    vectors = model.encode(texts)
    if late:
        assert [len(v) for v in vectors] == [6, 2]
    else:
        assert isinstance(vectors, np.ndarray) and vectors.shape == (2, 16)
        query = model.encode(["where is a pear"], "query")
        score = model.score(["where is a pear"], ["a pear"])[0]
        alike = float(query[0] @ vectors[1] / np.linalg.norm(query[0]) / np.linalg.norm(vectors[1]))
        assert score == pytest.approx(alike, abs=1e-5)
    scores = model.score(["a pear", "a pear"], texts)
    rows = model.predict([{"question": "a pear", "answer": text} for text in texts])
    np.testing.assert_allclose([row["score"] for row in rows], scores, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda m: m.encode("one text"), TypeError, "texts must be a list of texts, not a str"),
        (lambda m: m.encode([]), ValueError, "texts is empty"),
        (lambda m: m.encode([1]), TypeError, "not a value of type int"),
        (lambda m: m.encode(["a"], "left"), ValueError, "neither query nor document"),
        (lambda m: m.score(["a"], "a"), TypeError, "documents must be a list"),
        (lambda m: m.score(["a"], ["b", "c"]), ValueError, "1 queries and 2 documents"),
        (lambda m: m.predict({"question": "a"}), TypeError, "a list of rows"),
        (lambda m: m.predict([]), ValueError, "at least one row"),
        (lambda m: m.predict(["a"]), TypeError, "each row is a mapping"),
        (lambda m: m.predict([{"question": "a"}]), InputError, "answer"),
        (lambda m: pipeline.load_model(3), TypeError, "not a int"),
        (lambda m: pipeline.load_model("no-such-folder"), InputError, "no model 'no-such-folder'"),
        (lambda m: pipeline.open_index(None), TypeError, "not a NoneType"),
        (lambda m: pipeline.open_index("docs.index").search("a", 0), ValueError, "k=0"),
        (lambda m: pipeline.open_index("docs.index").search(["a"]), TypeError, "one text"),
        (lambda m: pipeline.open_index("docs.index").search("a", mode="best"), ValueError, "model, hybrid, words"),
        (lambda m: pipeline.open_index("docs.index").search(" "), InputError, "empty"),
        (lambda m: pipeline.run("my.yaml"), TypeError, "load_config"),
        (lambda m: pipeline.run(m.config, until="all"), ValueError, "not a stage"),
        (lambda m: pipeline.nothing, AttributeError, "nothing"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_in_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[Any], Any], kind: type[Exception], says: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(kind, match=re.escape(says)) as raised:
        call(pipeline.load_model("my.yaml"))
    assert "\n" not in str(raised.value)
