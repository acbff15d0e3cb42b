"""From WARC files and a click log to a trained, judged and indexed model: `python benchmarks/search_engine.py FOLDER`.

Makes the crawl and the log up where the folder has none (see search_logs.py), runs `configs/search_engine.yaml` over
them, and makes an index of all pages. Words after the folder override settings, such as `train.epochs=1`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import search_logs

from pipeline import load_config, run

CONFIG = Path(__file__).parents[1] / "configs" / "search_engine.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pages", type=int, default=2000, help="pages of a crawl that is made (default 2000)")
    parser.add_argument("--output", type=Path, help="the index (default: pages.index in the folder)")
    given, overrides = parser.parse_known_args()
    folder: Path = given.folder
    if not (folder / "logs" / "_SUCCESS").exists():
        search_logs.make(folder, given.pages)
    places = [f"ingest.source.path={folder / 'logs'}", f"ingest.source.pages={folder / 'crawl'}"]
    overrides = [*places, *overrides]
    result = run(load_config(CONFIG, overrides))
    pages = Path(result.stages["ingest"]["folder"]) / "collection.parquet"
    index = [sys.executable, "-m", "pipeline.cli", "index", result.stages["train"]["folder"], "--documents", str(pages)]
    return subprocess.run([*index, "--output", str(given.output or folder / "pages.index")]).returncode


if __name__ == "__main__":
    sys.exit(main())
