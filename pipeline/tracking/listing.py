"""The runs that MLflow knows, each with the stages that it is of."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pipeline.tracking.client import Address, asked
from pipeline.tracking.journal import stage_keys
from pipeline.tracking.sender import ASKED


class Known(NamedTuple):
    """A run of MLflow: of one stage where it has a key, else of a command."""

    run_id: str
    parent: str | None
    name: str
    key: str | None
    keys: dict[str, str]  # stage -> key of those that the command needed
    status: str
    ended: float  # as time.time(); its beginning where it has no end
    journal: str | None  # of the command of Duplet's that made it; None: another program did


def known(where: Address) -> list[Known]:
    """All runs that are not in the bin, the newest first; none where there is no database.

    Raises:
        TryAgain: MLflow does not answer.
    """
    if where.database and not where.database.exists():
        return []
    with asked(where, "run") as (_, client):
        experiments = [one.experiment_id for one in pages(lambda token: client.search_experiments(page_token=token))]
        search = lambda token: client.search_runs(
            experiments, order_by=["attributes.start_time DESC"], max_results=1000, page_token=token
        )
        return [_known(run) for run in pages(search)]


def _known(run: Any) -> Known:
    tags, info = run.data.tags, run.info
    ended = (info.end_time or info.start_time or 0) / 1000
    return Known(
        info.run_id, tags.get("mlflow.parentRunId"), info.run_name or "", run.data.params.get("key"), stage_keys(tags),
        info.status, ended, tags[ASKED].partition("/")[0] if ASKED in tags else None,
    )  # fmt: skip


def by_key(found: list[Known]) -> dict[str, str]:
    """Key of a stage -> the newest command's run that made it."""
    return {one.key: one.parent or one.run_id for one in reversed(found) if one.key}


def pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """All that a paged question has for an answer."""
    token = None
    while True:
        found = ask(token)
        yield from found
        token = found.token
        if not token:
            return
