"""SQLite databases of MLflow: made and migrated beside their place, under a lock, and renamed when they are whole.

MLflow makes a new database, or brings an old one to its own version, by dozens of steps. A kill leaves them half done
for good, and two commands at once on a new root get in each other's way.
"""

import re
import sqlite3
import time
import urllib.parse
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.core import atomic_files
from pipeline.core.errors import InputError, one_line
from pipeline.core.progress import Say
from pipeline.distributed import launcher

_ADDRESS = re.compile(r"sqlite(?:\+pysqlite)?:///(?P<path>[^?]+)(?P<query>\?.*)?", re.DOTALL)
# SQLite's codes: "table … already exists", "duplicate column name" (and no full disk, no lock of others); damage
SQLITE_ERROR, SQLITE_CORRUPT, SQLITE_NOTADB = 1, 11, 26


def path_of(uri: str) -> Path | None:
    """The file of a SQLite address; None for other addresses, and for databases in memory."""
    match = _ADDRESS.fullmatch(uri)
    if not match or match["path"].startswith((":memory:", "file:")):
        return None
    return Path(urllib.parse.unquote(match["path"]))


def address_of(path: Path, query: str = "") -> str:
    """The address of a SQLite file, whatever its name holds.

    >>> address_of(Path("/data/runs/mlflow.db")), address_of(Path("/50%?/mlflow.db"))
    ('sqlite:////data/runs/mlflow.db', 'sqlite+pysqlite:////50%25%3F/mlflow.db')
    """
    quoted = str(path).replace("%", "%25").replace("?", "%3F")
    # for a plain sqlite:///, MLflow would make a folder that is named as the address is quoted
    return f"{'sqlite' if quoted == str(path) else 'sqlite+pysqlite'}:///{quoted}{query}"


def absolute(uri: str) -> str:
    """An address whose SQLite file does not depend on the working directory; others stay as they are."""
    path = path_of(uri)
    if path is None or path.is_absolute():
        return uri
    match = _ADDRESS.fullmatch(uri)
    return address_of(path.absolute(), (match and match["query"]) or "")


def prepare(path: Path, artifacts: str, say: Say) -> None:
    """Makes the database, or brings it to this MLflow's version, unless it is that already.

    Args:
        artifacts: the address of the default experiment's files, in a new database.
        say: told where a half-made database without runs was set aside.

    Raises:
        InputError: it is not a database, or a newer MLflow's. What SQLite and MLflow raise: it cannot be migrated.
    """
    if _is_current(path):
        return
    with launcher.outliving_parent(), atomic_files.lock(lock_of(path)):
        if not _is_current(path):
            _make(path, artifacts, say)


def lock_of(path: Path) -> Path:
    """The file that is locked while a database is made; whoever holds that lock should not be killed."""
    return path.with_name(f".{path.name}.lock")


def _is_current(path: Path) -> bool:
    """Whether MLflow would use the file without a change. Raises InputError where a newer MLflow made it."""
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow import __version__
    from mlflow.store.db.utils import _get_alembic_config

    if not path.exists():
        return False
    try:
        with closing(_opened(path)) as database:
            version = next((row[0] for row in _rows(database, "SELECT version_num FROM alembic_version")), None)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode in (SQLITE_CORRUPT, SQLITE_NOTADB):
            raise InputError(
                f"{path} is not an MLflow database ({error}): move it away, or give another root"
            ) from None
        raise
    known = ScriptDirectory.from_config(_get_alembic_config(""))
    try:
        if version is not None:
            known.get_revision(version)
    except CommandError:
        raise InputError(
            f"the MLflow database {path} was made by a newer MLflow than {__version__}: use that one, or another root"
        ) from None
    return version is not None and version in known.get_heads()


def _make(path: Path, artifacts: str, say: Say) -> None:
    if not path.exists():
        with atomic_files.new_database(path) as new:
            _to_newest(new, artifacts)
        return
    with closing(_opened(path)) as old:
        old.execute(
            "BEGIN IMMEDIATE"
        )  # others cannot write to what is copied; afterwards SQLite sees that it was moved
        runs = sum(
            count for table in ("runs", "registered_models") for (count,) in _rows(old, f"SELECT count(*) FROM {table}")
        )
        try:
            with atomic_files.new_database(path) as new:
                with closing(_opened(path)) as same, closing(sqlite3.connect(new)) as copy:
                    same.backup(copy)  # `old` itself cannot be read from while it holds the others off
                new.chmod(path.stat().st_mode & 0o777)
                _to_newest(new, artifacts)
            return
        except Exception as error:
            code = getattr(getattr(error, "orig", None), "sqlite_errorcode", SQLITE_ERROR)
            if runs or code != SQLITE_ERROR:
                raise
            aside = path.with_name(f"{path.name}.half-made-{time.strftime('%Y%m%dT%H%M%S')}")
            path.rename(aside)
            say(f"{path} was half made and held no run: it is set aside as {aside.name} ({one_line(error, 100)})")
    _make(path, artifacts, say)


def _to_newest(path: Path, artifacts: str) -> None:
    """MLflow's own steps, on a file that nobody else knows of: it is not waited for the disk at each of them."""
    import sqlalchemy
    from mlflow.store.db import utils
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    def hurry(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    engine = utils.create_sqlalchemy_engine(address_of(path))
    sqlalchemy.event.listen(engine, "connect", hurry)
    try:
        if utils._get_schema_version(engine) is None:
            utils._initialize_tables(engine)
        else:
            utils._upgrade_db(engine)
    finally:
        engine.dispose()
    store = SqlAlchemyStore(address_of(path), artifacts)  # makes the default experiment
    store.engine.dispose()
    del SqlAlchemyStore._engine_map[address_of(path)]


def _opened(path: Path) -> sqlite3.Connection:
    """A database that is there; opening it rolls back what a killed process had begun."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=20)


def _rows(database: sqlite3.Connection, query: str) -> list[Any]:
    """What a query gives; nothing where the table is not there."""
    try:
        return database.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != SQLITE_ERROR:
            raise
        return []
