"""A stand-in for a cluster's API on the loopback: keeps objects, answers discovery; for the real kubectl to talk to."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml

from jobs.pod_api import Api

GROUPS = {
    "v1": [("configmaps", "ConfigMap"), ("pods", "Pod"), ("pods/log", "Pod"), ("serviceaccounts", "ServiceAccount")],
    "batch/v1": [("jobs", "Job"), ("cronjobs", "CronJob")],
    "kubeflow.org/v2beta1": [("mpijobs", "MPIJob")],
    "rbac.authorization.k8s.io/v1": [("roles", "Role"), ("rolebindings", "RoleBinding")],
}
ACCOUNT = Path(__file__).parents[2] / "configs" / "jobs" / "kubernetes_account.yaml"
VERBS = ["create", "delete", "get", "list", "patch", "watch"]


class Cluster(ThreadingHTTPServer):
    """`objects`: (plural, name) -> object; `refusals`: plural -> (HTTP code, message)
    of what is made; `log`: of any pod."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.log = ""
        self.asked: set[tuple[str, str]] = set()  # (verb of Kubernetes' access control, plural)
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    def kubeconfig(self, path: Path) -> Path:
        """Writes a configuration of kubectl that leads here."""
        address = f"http://127.0.0.1:{self.server_port}"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": address}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {}}],
        }))  # fmt: skip
        return path

    def account(self, folder: Path) -> Api:
        """Makes the files that a pod with a service account finds, and returns the API as that pod sees it."""
        folder.mkdir()
        (folder / "token").write_text("a token")
        (folder / "namespace").write_text("search\n")
        return Api(f"http://127.0.0.1:{self.server_port}", folder)

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Cluster
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, code: int, body: dict[str, Any] | str) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, code: int, reason: str, message: str) -> None:
        self.answer(code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
                           "reason": reason, "code": code})  # fmt: skip

    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        return found

    def target(self) -> tuple[str, str, str]:
        """Plural, name and what of it, from /api/v1/namespaces/N/PLURAL/NAME/WHAT."""
        parts = urlsplit(self.path).path.strip("/").split("/")
        rest = parts[parts.index("namespaces") + 2 :] if "namespaces" in parts else []
        plural, name, what = [*rest, "", "", ""][:3]
        return plural, name, what

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        plural, name, what = self.target()
        if path == "/api":
            self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            groups = []
            for version in [v for v in GROUPS if "/" in v]:
                listed = {"groupVersion": version, "version": version.split("/")[1]}
                groups.append({"name": version.split("/")[0], "versions": [listed], "preferredVersion": listed})
            self.answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        elif path.removeprefix("/apis/").removeprefix("/api/") in GROUPS:
            version = path.removeprefix("/apis/").removeprefix("/api/")
            resources = [{"name": n, "singularName": k.lower(), "namespaced": True, "kind": k, "verbs": VERBS}
                         for n, k in GROUPS[version]]  # fmt: skip
            self.answer(200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
                              "resources": resources})  # fmt: skip
        elif path == "/openapi/v3":
            self.answer(200, {"paths": {_place(v): {"serverRelativeURL": f"/openapi/v3/{_place(v)}"} for v in GROUPS}})
        elif path.startswith("/openapi/v3/"):
            self.answer(200, _openapi(path.removeprefix("/openapi/v3/")))
        elif what == "log":
            self.answer(200, self.server.log)
        elif plural and self.forbidden("get" if name else "list", plural):
            pass
        elif name and (plural, name) in self.server.objects:
            self.answer(200, self.server.objects[plural, name])
        elif name:
            self.refuse(404, "NotFound", f'{plural} "{name}" not found')
        elif plural:
            kind = next(k + "List" for kinds in GROUPS.values() for n, k in kinds if n == plural)
            self.answer(200, {"kind": kind, "apiVersion": "v1", "metadata": {}, "items": self.chosen(plural)})
        else:
            self.refuse(404, "NotFound", f"no such path: {self.path}")

    def forbidden(self, verb: str, plural: str) -> bool:
        """Notes what was asked; whether it was refused, which is then answered. `refusals` of "VERB PLURAL" count."""
        self.server.asked.add((verb, plural))
        refusal = self.server.refusals.get(f"{verb} {plural}")
        if refusal:
            self.refuse(refusal[0], "Forbidden", refusal[1])
        return refusal is not None

    def chosen(self, plural: str) -> list[dict[str, Any]]:
        """The objects of a kind that have all labels of the query's selector."""
        selector = parse_qs(urlsplit(self.path).query).get("labelSelector", [""])[0]
        wanted = dict(part.split("=") for part in selector.split(",") if part)
        found = [o for (kind, _), o in self.server.objects.items() if kind == plural]
        return [o for o in found if wanted.items() <= o["metadata"].get("labels", {}).items()]

    def do_POST(self) -> None:
        plural, _, _ = self.target()
        body = self.body()
        name = body["metadata"]["name"]
        self.server.asked.add(("create", plural))
        if plural in self.server.refusals:
            code, message = self.server.refusals[plural]
            self.refuse(code, "Forbidden", message)
        elif (plural, name) in self.server.objects:
            self.refuse(409, "AlreadyExists", f'{plural} "{name}" already exists')
        else:
            body["metadata"].setdefault("uid", f"uid-of-{name}")
            self.server.objects[plural, name] = body
            self.answer(201, body)

    def do_PATCH(self) -> None:
        plural, name, _ = self.target()
        merged = _merge(self.server.objects[plural, name], self.body())
        self.server.objects[plural, name] = merged
        self.answer(200, merged)

    def do_DELETE(self) -> None:
        plural, name, _ = self.target()
        self.body()
        self.server.asked.add(("delete", plural))
        if self.server.objects.pop((plural, name), None) is None:
            self.refuse(404, "NotFound", f'{plural} "{name}" not found')
        else:
            self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})


def _place(version: str) -> str:
    return f"apis/{version}" if "/" in version else f"api/{version}"


def _openapi(place: str) -> dict[str, Any]:
    """Says no more than that fields are checked by the server, as they are by any since Kubernetes 1.25."""
    version = place.removeprefix("apis/").removeprefix("api/")
    group, _, number = version.rpartition("/")
    paths = {}
    for plural, kind in GROUPS[version]:
        parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
        named = {"group": group, "version": number, "kind": kind}
        patch = {"parameters": parameters, "x-kubernetes-group-version-kind": named}
        paths[f"/{place}/namespaces/{{namespace}}/{plural}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "stand-in"}, "paths": paths}


def _merge(old: Any, patch: Any) -> Any:
    """JSON merge patch, RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    base = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            base.pop(key, None)
        else:
            base[key] = _merge(base.get(key), value)
    return base


def rights() -> set[tuple[str, str]]:
    """(verb, plural) that the role in configs/jobs allows."""
    _, role, _ = yaml.safe_load_all(ACCOUNT.read_text())
    return {(verb, plural) for rule in role["rules"] for plural in rule["resources"] for verb in rule["verbs"]}


def mpijob_schema() -> jsonschema.Draft7Validator:
    """The MPI operator's schema, in which an unknown key is an error."""
    packed = Path(__file__).with_name("schemas").joinpath("mpijob_v2beta1.json.gz").read_bytes()
    return jsonschema.Draft7Validator(_closed(json.loads(gzip.decompress(packed))))


def _closed(schema: Any) -> Any:
    """The schema with unknown keys refused: a cluster would drop them in silence."""
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if schema.get("properties", {}).keys() >= {"kind", "metadata"}:
            schema["properties"]["metadata"] = {"type": "object"}
        for name, value in schema.items():
            if name != "additionalProperties" or isinstance(value, dict):
                _closed(value)
        template = schema.get("properties", {}).get("template")
        if template and "spec" in template.get("properties", {}):
            template["properties"]["metadata"] = {"type": "object"}
    return schema
