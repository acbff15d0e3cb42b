"""What `--dry-run` prints."""

import json
from collections.abc import Mapping
from typing import Any


def show(rendered: Mapping[str, str], about: dict[str, Any], as_json: bool) -> None:
    """Prints each file that would be handed over; with --json, `about` and the files on the last line."""
    for name, text in rendered.items():
        print(f"# --- {name}\n{text.rstrip()}")
    if as_json:
        print(json.dumps({**about, "files": rendered}))
