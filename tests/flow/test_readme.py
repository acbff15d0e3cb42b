"""README's own configuration, which sets nothing but its source, through every command that README names for it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import last_json, reversed_pairs

README = Path(__file__).parents[2] / "README.md"
QUICK = ("train.epochs=1", "train.max_updates=2", "train.schedule.warmup_updates=0", "evaluate.bootstrap_samples=20")


@pytest.mark.timeout(600)
def test_the_configuration_of_the_readme_is_trained_indexed_and_searched(
    duplet: Callable[..., Any], tmp_path: Path
) -> None:
    [text] = re.findall(r"```yaml\n(# my\.yaml\n.*?)```", README.read_text(encoding="utf-8"), re.S)
    config = tmp_path / "my.yaml"
    config.write_text(text, encoding="utf-8")
    rows = reversed_pairs(120)
    lines = ["question\tanswer\tlabel", *(f"{row['query']}\t{row['document']}\t1" for row in rows)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    documents = [{"id": row["qid"], "text": row["document"]} for row in rows]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents), encoding="utf-8")

    ran = last_json(duplet("run", config, *QUICK, "--json", cwd=tmp_path))
    trained = tmp_path / ran["stages"]["train"]["folder"]
    kept = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    assert kept["tokenize"]["max_tokens"] == {"query": 64, "document": 256}

    for older in (False, True):  # config.json of an older version holds no limits
        if older:
            kept["tokenize"]["max_tokens"] = {}
            (trained / "config.json").write_text(json.dumps(kept), encoding="utf-8")
            manifest = json.loads((trained / "manifest.json").read_text(encoding="utf-8"))
            del manifest["files"]["config.json"]
            (trained / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        index = tmp_path / f"docs-{older}.index"
        made = duplet("index", trained, "--documents", "docs.jsonl", "--output", str(index), "--json", cwd=tmp_path)
        assert last_json(made)["documents"] == 120
        answer = last_json(duplet("search", index, rows[0]["query"], "--json", cwd=tmp_path))
        assert answer["results"]
