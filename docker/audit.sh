#!/usr/bin/env bash
# `sbom` writes sbom.cdx.json, a CycloneDX 1.6 bill of what is installed in .venv; `advisories` asks PyPI's database of
# advisories about the locked packages. Both tools live in .audit, an environment of their own with locked hashes.
# Exit codes: 0 done, 1 an advisory was found or a tool failed, 75 the database cannot be reached.
set -euo pipefail
cd -P "$(dirname "$0")/.."
tools=$PWD/.audit

wanted=$(sha256sum docker/requirements-audit.txt | cut -d' ' -f1)
if [ "$(cat "$tools/.stamp" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$tools"
    "${DUPLET_PYTHON:-python3.11}" -m venv "$tools"
    "$tools/bin/python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes \
        -r docker/requirements-audit.txt
    echo "$wanted" >"$tools/.stamp"
fi

case ${1:-} in
sbom)
    "$tools/bin/cyclonedx-py" environment --pyproject pyproject.toml --output-reproducible --spec-version 1.6 \
        --output-format JSON --output-file sbom.cdx.json .venv/bin/python
    .venv/bin/python - <<'CHECK'
import importlib.metadata, json
bill = json.load(open("sbom.cdx.json"))
named = {part["name"].lower().replace("_", "-") for part in bill["components"]}
there = {d.metadata["Name"].lower().replace("_", "-").replace(".", "-") for d in importlib.metadata.distributions()}
missing = there - {name.replace(".", "-") for name in named} - {"duplet"}
assert not missing, f"sbom: not in the bill: {sorted(missing)}"
print(f"sbom.cdx.json: {len(named)} components, CycloneDX {bill['specVersion']}")
CHECK
    ;;
advisories)
    said=$(mktemp)
    trap 'rm -f "$said"' EXIT
    code=0
    "$tools/bin/pip-audit" --disable-pip --require-hashes -r requirements.txt --progress-spinner off --timeout 20 \
        >"$said" 2>&1 || code=$?
    cat "$said"
    # A package that the database was not asked about counts as clean for pip-audit: behind a mirror that is all of them.
    if grep -qiE 'could not be audited|ConnectionError|Max retries|timed out|ServiceError' "$said"; then
        echo "audit: not all packages could be looked up in the database of advisories: run this where it can be reached" >&2
        exit 75
    fi
    exit $code
    ;;
*) echo "usage: docker/audit.sh sbom|advisories" >&2; exit 2 ;;
esac
