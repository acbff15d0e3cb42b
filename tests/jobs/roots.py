"""Small roots: stages' folders that are finished, with what they were made from."""

import json
import time
from pathlib import Path
from typing import Any

from pipeline.core import manifest
from pipeline.core.manifest import KeyParts


def stage(root: Path, name: str, own: str, days: float = 0.0, configuration: str = "faq", **inputs: Any) -> str:
    """A finished folder of a stage, made some days ago; its key.

    Args:
        inputs: the stages that it was made from; `counts`: of its manifest.
    """
    counts = inputs.pop("counts", {})
    parts = KeyParts(1, {"own": own}, inputs, {})
    folder = root / name / parts.key
    folder.mkdir(parents=True)
    (folder / "content").write_bytes(own.encode() * 2000)
    manifest.write(folder, name, parts, counts, time.time(), {"configuration": configuration})
    written = json.loads((folder / manifest.NAME).read_text())
    written["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 86_400 * days))
    (folder / manifest.NAME).write_text(json.dumps(written))
    return parts.key


def names(keys: dict[str, str], *stages: str) -> set[str]:
    """The folders of keys by stage, or of some stages, under their root."""
    return {f"{stage}/{key}" for stage, key in keys.items() if not stages or stage in stages}
