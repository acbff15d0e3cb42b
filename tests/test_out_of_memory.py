"""A worker whose memory does not hold an update ends with a sentence that names the setting to lower."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import small_configuration

# The limit is set behind the imports, on what an update needs beyond them.
CODE = """
import json, resource, sys
from pathlib import Path
from pipeline.config import check_config
from pipeline.distributed.launcher import Job
from pipeline.ingest import stage as ingest
from pipeline.training import worker
from pipeline.tokenization import stage as tokenization

root, megabytes = Path(sys.argv[1]), int(sys.argv[2])
config = check_config(json.loads((root / "config.json").read_text()), "test")
folders = {name: root / name for name in ("work", "output", "ingested", "tokenized")}
for folder in folders.values():
    folder.mkdir()
ingest.run(config, folders["ingested"])
tokenization.run(config, folders["ingested"], folders["tokenized"], workers=1)
job = Job(verb="train", config=config.model_dump(mode="json"), trained=None, token="t",
          **{name: str(folder) for name, folder in folders.items()})
(folders["work"] / "job.json").write_text(json.dumps(job.__dict__))
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (megabytes << 20),) * 2)
worker.main(folders["work"])
"""


def test_running_out_names_the_token_budget(tmp_path: Path) -> None:
    config = small_configuration(
        tmp_path,
        model={"embedding": 64, "hidden": 1024, "layers": 2},
        train={"max_pairs_per_update": 240, "max_tokens_per_update": 100_000, "max_updates": 3, "epochs": 1},
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), "300"], capture_output=True, text=True, timeout=200
    )
    outcome = json.loads((tmp_path / "work" / "outcome.json").read_text())
    assert done.returncode == outcome["exit_code"] == 2
    assert "train ran out of memory: lower train.max_tokens_per_update=100000" in outcome["message"]
    assert "\n" not in outcome["message"]
