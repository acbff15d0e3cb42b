"""Passwords and tokens, taken out of whatever is shown or kept.

Two ways to know one: it stands in an address (`://user:password@`, `?token=…`), or it is the value of a variable of the
environment whose name says so (MLFLOW_TRACKING_PASSWORD, AWS_SECRET_ACCESS_KEY, …).
"""

import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

MASK = "***"
_USER = re.compile(r"(?<=://)[^/\s'\"<>\\]+@")  # up to the last @ before the path: a password may hold one
_SECRET_WORDS = r"token|key|secret|passw|pwd|sig|credential|auth|session"
_HOOK = re.compile(r"(https://hooks\.slack\.com/\w+/)[^\s'\"<>\\]+")  # whoever knows it can write
_QUERY = re.compile(rf"(?i)([?&;][\w.%-]*(?:{_SECRET_WORDS})[\w.%-]*=)[^&#;\s'\"<>\\]+")
_VARIABLE = re.compile(r"(?i)(^|_)(password|passwd|passphrase|pwd|token|secret|credentials?|key|pat|sas)(_|$)")
_SHORTEST = 6  # a shorter value would be found in innocent words


def hide_addresses(text: str) -> str:
    """The text with user and password, and query values that are named like secrets, replaced in every address.

    >>> hide_addresses("http://ann:pw@host/x?token=abc&page=2")
    'http://***@host/x?token=***&page=2'
    """
    if "://" in text:
        text = _HOOK.sub(rf"\g<1>{MASK}", _USER.sub(f"{MASK}@", text))
    return _QUERY.sub(rf"\g<1>{MASK}", text) if "=" in text else text


def holds_secret(text: str) -> bool:
    """Whether a text has a password or token written out in an address; one that is left to ${NAME} is none.

    >>> holds_secret("http://ann:pw@host"), holds_secret("http://${USER}:${PASSWORD}@host/?token=${TOKEN}")
    (True, False)
    >>> holds_secret("slack: https://hooks.slack.com/services/T0/B0/x"), holds_secret("slack: ${SLACK_WEBHOOK}")
    (True, False)
    """
    text = re.sub(r"\$\{\w+\}", "", text)
    return bool(_HOOK.search(text) or re.search(r"://[^/\s'\"<>\\]*:[^/\s'\"<>\\@]+@", text) or _QUERY.search(text))


def names_secret(name: str) -> bool:
    """Whether a variable's name says that its value is a password or token.

    >>> names_secret("MLFLOW_TRACKING_PASSWORD"), names_secret("KEYBOARD")
    (True, False)
    """
    return bool(_VARIABLE.search(name))


def hide(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """As hide_addresses, and without the values of the environment's secrets."""
    for secret in _secrets(environment):
        text = text.replace(secret, MASK)
    return hide_addresses(text)


def hide_all(value: Any) -> Any:
    """A JSON-able value with the secrets of each address in it hidden, as it may be kept and read again.

    Every other text stays: a column that has the name that a variable has for its value is not a secret.
    """
    if isinstance(value, str):
        return hide(value) if "://" in value else value
    if isinstance(value, dict):
        return {key: hide_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide_all(item) for item in value]
    return value


def is_secret(name: str, value: str) -> bool:
    """Whether a variable's name says that its value is a secret; a short value or a path (of a key's file) is none.

    >>> is_secret("API_TOKEN", "abcdefg"), is_secret("SSH_KEY", "/home/ann/key"), is_secret("TOKENIZERS", "abcdefg")
    (True, False, False)
    """
    return len(value) >= _SHORTEST and names_secret(name) and not value.startswith(("/", "~", "./"))


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """Values of the variables that are named like secrets, longest first, as written and as an address has them."""
    values = set()
    for name, value in environment.items():
        if is_secret(name, value):
            values |= {value, urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value)}
    return sorted(values, key=len, reverse=True)
