"""To whom the environment's credentials go: to the addresses that the person has named, and to nobody a file names.

A configuration may come from anybody. It names addresses (`tracking.uri`, sources) and variables (`${NAME}`), so that
without these rules it could send any token anywhere.
"""

import difflib
import os
import re
import urllib.parse
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.redaction import hide_addresses, is_secret

# By what MLflow reaches a server, a database or a folder; packages may bring more.
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "file", "databricks", "databricks-uc", "uc")
_STORES = "mlflow.tracking_store"
NAMED = "DUPLET_MLFLOW_URIS"  # addresses of MLflow that --uri named, for the processes that a command starts
# What MLflow sends with each request, to whatever server it is told to use.
MLFLOW_SENDS = (
    "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_CLIENT_CERT_PATH",
)  # fmt: skip
MLFLOW_FILE = "~/.mlflow/credentials"
# Secrets of programs that read them by themselves: no address has to name them.
_OWN_PROGRAM = re.compile(
    r"(?i)(AWS|AZURE|GOOGLE|GCP|GCLOUD|MLFLOW|HF|HUGGING_?FACE\w*|GITHUB|GH|GITLAB|CI|SSH|KUBE\w*|DATABRICKS|OPENAI|"
    r"ANTHROPIC|WANDB|DOCKER|NPM|PYPI|TWINE|UV|PG|POSTGRES\w*|MYSQL|VAULT|AIRFLOW)_"
)
_LOOPBACK = re.compile(r"localhost|127(\.[0-9]+){3}|::1|\[::1\]")


def reachable(uri: str) -> str:
    """An address of MLflow again. Raises ValueError for one by which no MLflow can be reached, however long one waits.

    >>> reachable("http://host:5000"), reachable("runs/mlruns")
    ('http://host:5000', 'runs/mlruns')
    """
    parts = urllib.parse.urlsplit(uri)
    scheme = parts.scheme.lower().partition("+")[0]
    if not scheme or scheme in _SCHEMES or any(point.name == scheme for point in entry_points(group=_STORES)):
        if scheme in ("http", "https") and not parts.hostname:
            raise ValueError(f"{hide_addresses(uri)!r} names no host: write such as http://127.0.0.1:5000")
        return uri
    near = difflib.get_close_matches(scheme, _SCHEMES, 1)
    raise ValueError(
        f"no MLflow is reached by {scheme}:" + (f" (did you mean {near[0]}?)" if near else "")
        + f"; an address begins with one of {', '.join(_SCHEMES)}"
    )  # fmt: skip


def trust(uri: str) -> None:
    """Notes an address of MLflow that the command line named, for this process and those that it starts."""
    os.environ[NAMED] = " ".join(dict.fromkeys([*os.environ.get(NAMED, "").split(), hide_addresses(uri)]))


def is_trusted(uri: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether MLflow's credentials may go to an address: MLFLOW_TRACKING_URI or --uri names its server.

    >>> is_trusted("http://host:5000/", {"MLFLOW_TRACKING_URI": "http://host:5000"})
    True
    >>> is_trusted("http://elsewhere/", {"MLFLOW_TRACKING_URI": "http://host"}), is_trusted("sqlite:///a.db", {})
    (False, True)
    """
    if not uri.lower().startswith(("http:", "https:")):
        return True  # a database or a folder: MLflow sends no credentials
    named = [environment.get("MLFLOW_TRACKING_URI", ""), *environment.get(NAMED, "").split()]
    return _server(uri) in {_server(address) for address in named}


def withheld(uri: str) -> str:
    """A sentence on the credentials that do not go to an address; empty where none are kept from it."""
    if is_trusted(uri):
        return ""
    names = [name for name in MLFLOW_SENDS if os.environ.get(name)]
    names += [MLFLOW_FILE] if Path(os.path.expanduser(MLFLOW_FILE)).exists() else []
    if not names:
        return ""
    shown = hide_addresses(uri)
    return (
        f"{', '.join(names)} not sent to {shown}, which only the configuration names: "
        f"if it is your server, export MLFLOW_TRACKING_URI={shown}"
    )


def check_sent(text: str, written: str, names: list[str], environment: Mapping[str, str] = os.environ) -> None:
    """Looks at the secrets among the variables of a setting.

    Args:
        text: the setting's value; written: as it was written; names: the variables that it takes.

    Raises:
        InputError: a secret would be kept in a setting that is not an address, belongs to another program, or would
            cross the network in the clear.
    """
    for name in names:
        if not is_secret(name, environment.get(name, "")):
            continue
        if "://" not in text:
            raise InputError(
                f"{written!r} holds the secret {name}, and is not an address: it would be kept in files and tables. "
                "If it is not a secret, give the variable another name"
            )
        if _OWN_PROGRAM.match(name):
            raise InputError(
                f"{written!r} would send {name} to {server_of(text)}: that is a secret of a program that reads it by "
                "itself. If it is meant for this address, export it under a name of its own"
            )
        if re.match(r"(?i)(\w+::)*http://", text) and not _LOOPBACK.fullmatch(server_of(text)):
            raise InputError(
                f"{written!r} would send {name} to {server_of(text)} without encryption: use https, or write the "
                "address without it"
            )


def server_of(address: str) -> str:
    """The host that an address names.

    >>> server_of("filecache::https://ann:pw@host:8000/a?b=c")
    'host'
    """
    place = address.rpartition("://")[2] if "::" in address else address.partition("://")[2]
    return re.sub(r":[0-9]*$", "", re.split(r"[/?#\\]", place)[0].rpartition("@")[2])


def _server(uri: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of a server."""
    try:
        parts = urllib.parse.urlsplit(uri)
        return parts.scheme.lower(), parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme.lower())
    except ValueError:  # a port that is no number
        return uri, None, None
