"""The cluster's API from inside a pod that has a service account's token: the few requests that jobs make there.

The image has no kubectl; a pod needs no more than this. Paths are those of the API, such as `pods` or `mpijobs/NAME`.
"""

import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from pipeline.core.errors import InputError, TryAgain, one_line

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ANSWER_S = 30.0
GROUPS = {"mpijobs": "apis/kubeflow.org/v2beta1"}  # all others are of the core's group
RIGHTS = "configs/jobs/kubernetes_account.yaml has the rights that a pod's service account needs"


class Api(NamedTuple):
    """Where the API is and who asks; `account` is the folder of token, namespace and certificate."""

    address: str
    account: Path

    @property
    def namespace(self) -> str:
        """That of this pod."""
        return (self.account / "namespace").read_text(encoding="ascii").strip()

    def get(self, what: str) -> dict[str, Any] | None:
        """An object, None where there is none."""
        return self._ask("GET", what)

    def labelled(self, what: str, **labels: str) -> list[dict[str, Any]]:
        """The objects of a kind that have these labels; `_` stands for `/` in a label's name."""
        selector = ",".join(f"{name.replace('_', '/')}={value}" for name, value in labels.items())
        found: list[dict[str, Any]] = (self._ask("GET", what, {"labelSelector": selector}) or {}).get("items", [])
        return found

    def create(self, what: str, content: dict[str, Any]) -> dict[str, Any] | None:
        """The object as the cluster has made it; None where there is one of that name."""
        return self._ask("POST", what, body=content, allow=409)

    def delete(self, what: str) -> None:
        """Removes an object and what it owns, if it is there."""
        self._ask("DELETE", what, body={"propagationPolicy": "Background"})

    def _ask(
        self, method: str, what: str, query: dict[str, str] | None = None, body: dict[str, Any] | None = None,
        allow: int = 404,
    ) -> dict[str, Any] | None:  # fmt: skip
        """The answer; None for one of the HTTP code `allow`.

        Raises:
            InputError: the account may not do this. TryAgain: the API does not answer, or not now.
        """
        group = GROUPS.get(what.partition("/")[0], "api/v1")
        asked = "&".join(f"{name}={quote(value)}" for name, value in (query or {}).items())
        url = f"{self.address}/{group}/namespaces/{self.namespace}/{what}" + (f"?{asked}" if asked else "")
        headers = {"Authorization": f"Bearer {self._read('token')}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers, method=method)
        try:
            with self._opener().open(request, timeout=ANSWER_S) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as error:
            if error.code == allow:
                return None
            problem = f"{method} {what}: {_message(error)}"
            if error.code in (401, 403):
                raise InputError(f"the cluster refuses ({problem}): {RIGHTS}") from None
            raise TryAgain(f"the cluster cannot do this now ({problem}): try again later") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TryAgain(f"the cluster does not answer ({one_line(error, 200)}): try again later") from None

    def _read(self, name: str) -> str:
        return (self.account / name).read_text(encoding="ascii").strip()

    def _opener(self) -> urllib.request.OpenerDirector:
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]  # it is in this very cluster
        if self.address.startswith("https"):
            context = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
            handlers.append(urllib.request.HTTPSHandler(context=context))
        return urllib.request.build_opener(*handlers)


def inside(account: Path | None = None) -> Api | None:
    """The API of the cluster that this pod is in; None outside of one, and where the pod has no account's token."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    folder = account or ACCOUNT
    if not host or not (folder / "token").is_file():
        return None
    named = f"[{host}]" if ":" in host else host
    return Api(f"https://{named}:{port}", folder)


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return one_line(json.loads(error.read())["message"], 200)
    except (OSError, ValueError, LookupError, TypeError):
        return f"HTTP {error.code}"
