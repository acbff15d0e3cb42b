"""Which nodes a job leaves out, and how a bad node is told from what is the job's own fault.

What fails on one node and works on another is that node's fault. What fails on all nodes is the job's: no node is left
out for it, and the run says what is wrong. On a single node nobody can tell: it is left out on suspicion, and taken
back where the next one fails alike. `nodes.json` in the job's folder keeps it, over all starts of the job.
"""

import json
from pathlib import Path
from typing import NamedTuple

from pipeline.core import atomic_files

NODES = "nodes.json"


class Known(NamedTuple):
    """What nodes.json holds."""

    given: str = ""  # the nodes that the job was submitted without, as SLURM writes them
    excluded: dict[str, str] = {}  # node -> the check that it failed and what that said
    suspected: dict[str, str] = {}  # check -> the one node that failed it, where it could not be compared
    own: tuple[str, ...] = ()  # checks that fail by the job's own fault

    @property
    def nodes(self) -> str:
        """For --exclude, with those that the job was submitted without."""
        return ",".join([*filter(None, [self.given]), *sorted(self.excluded)])

    @property
    def words(self) -> str:
        """For people; "" where no node is left out."""
        listed = ", ".join(f"{node} ({why})" for node, why in sorted(self.excluded.items()))
        return f"left out: {listed}" if listed else ""


def known(folder: Path) -> Known:
    """What is known of the nodes of a job."""
    data = atomic_files.json_object(folder / NODES)
    try:
        return Known(
            str(data["given"]), {str(node): str(why) for node, why in data["excluded"].items()},
            {str(check): str(node) for check, node in data["suspected"].items()}, tuple(map(str, data["own"])),
        )  # fmt: skip
    except (KeyError, AttributeError, TypeError):
        return Known()


def judged(before: Known, found: dict[str, dict[str, str]]) -> tuple[Known, dict[str, str]]:
    """What is known after a look at some nodes, and the nodes of these that are bad, each with the reason.

    Args:
        found: node -> check -> "" or what is wrong.

    >>> judged(Known(), {"one": {"disk": ""}, "two": {"disk": "full"}})[1]
    {'two': 'disk: full'}
    >>> judged(Known(), {"one": {"python": "no mxnet"}, "two": {"python": "no mxnet"}})[1]  # the job's own fault
    {}
    """
    excluded, suspected, own = dict(before.excluded), dict(before.suspected), set(before.own)
    bad: dict[str, str] = {}
    for check in sorted({check for checks in found.values() for check in checks}):
        failed = {node: f"{check}: {checks[check]}" for node, checks in found.items() if checks.get(check)}
        if len(failed) < len(found):  # it works somewhere
            bad |= {node: why for node, why in failed.items() if node not in bad}
            suspected.pop(check, None)
            own.discard(check)
        elif check in own:
            continue
        elif len(found) == 1 and suspected.get(check, next(iter(found))) in found:
            [(node, why)] = failed.items()
            bad.setdefault(node, why)
            suspected[check] = node
        else:  # on every node, or on a second one
            own.add(check)
            if (suspect := suspected.pop(check, None)) and excluded.get(suspect, "").startswith(f"{check}: "):
                del excluded[suspect]
    return before._replace(excluded=excluded, suspected=suspected, own=tuple(sorted(own))), bad


def keep(folder: Path, what: Known) -> None:
    """Writes nodes.json; on a full disk the job goes on without it."""
    try:
        atomic_files.write_text(folder / NODES, json.dumps(what._asdict(), indent=1))
    except OSError:
        return
