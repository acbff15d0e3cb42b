#!/usr/bin/env bash
# Makes an environment that setup.sh built in the folder $1 fit for an image: Duplet itself installed rather than linked,
# without what only developing needs, without tests and byte code. Called where pyproject.toml lies.
set -euo pipefail
venv=$1
"$venv/bin/pip" --disable-pip-version-check install --quiet --no-deps --no-build-isolation --force-reinstall .
# What the extra `dev` names, and what it alone brings. Left in: setuptools, whose pkg_resources GluonNLP and jieba import,
# and boto3, by which MLflow's client reaches artifacts in S3.
only_dev=$("$venv/bin/python" - setuptools boto3 <<'LIST'
import importlib.metadata
import sys
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

installed = {canonicalize_name(d.metadata["Name"]): d for d in importlib.metadata.distributions() if d.metadata["Name"]}


def brought(lines):
    """The names of what these requirements bring, themselves included."""
    found, ahead = set(), [Requirement(line) for line in lines]
    while ahead:
        needed = ahead.pop()
        key = (canonicalize_name(needed.name), frozenset(needed.extras))
        if key in found or key[0] not in installed:
            continue
        found.add(key)
        for line in installed[key[0]].requires or []:
            below = Requirement(line)
            if below.marker is None or any(below.marker.evaluate({"extra": e}) for e in ("", *needed.extras)):
                ahead.append(below)
    return {name for name, _ in found}


with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
dev = [line for line in extras.pop("dev") if canonicalize_name(Requirement(line).name) not in sys.argv[1:]]
others = [*project["dependencies"], *(line for extra in extras.values() for line in extra), *sys.argv[1:]]
named = {canonicalize_name(Requirement(line).name) for line in dev}
named -= {canonicalize_name(Requirement(line).name) for line in others}
print(*sorted((named & installed.keys()) | (brought(dev) - brought(others))))
LIST
)
# shellcheck disable=SC2086  # several names
"$venv/bin/pip" --disable-pip-version-check uninstall --quiet --yes $only_dev
find "$venv" -name __pycache__ -type d -prune -exec rm -rf {} +
find "$venv" -path '*/site-packages/*' \( -name tests -o -name test \) -type d -prune \
    -not -path '*/numpy/*' -not -path '*/mxnet/*' -exec rm -rf {} +
rm -f "$venv/setup.log" "$venv/.duplet-lock" "$venv/.duplet-setup"
