"""The process beside a run that sends its journal: `python -m pipeline.tracking`, started by `Tracking`.

A line of stdin says which journal and where to: an argument would show an address's password to everybody.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from pipeline.tracking import journal as journals
from pipeline.tracking.client import Address
from pipeline.tracking.journal import Journal
from pipeline.tracking.sender import follow


def main() -> int:
    """Follows the journal to its end; 0 when MLflow has all of it."""
    order = json.loads(sys.stdin.readline())
    os.nice(10)
    journal = Journal(Path(order["folder"]))
    where = Address(order["uri"], order["artifacts"], Path(order["root"]))
    if where.under_root:
        os.umask(0o077)  # a database and files under the root are the owner's
    with journals.held(journal.folder, journals.SENDER, patience_s=60.0) as alone:
        left = follow(journal, where) if alone else 1
        if order["remove"] and left == 0:
            shutil.rmtree(journal.folder, ignore_errors=True)
        return left


if __name__ == "__main__":
    sys.exit(main())
