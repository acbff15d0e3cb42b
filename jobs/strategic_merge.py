"""Kubernetes' strategic merge patch of a pod template: what a person adds to, or takes from, a rendered pod.

Mappings are merged, null removes a key. Of lists, those in KEYS are merged entry by entry, told apart by one field; all
others (tolerations, command, args, …) are replaced. `$patch: delete` removes an entry, `$patch: replace` the rest of a
mapping. Source: the patchMergeKey of each field in Kubernetes' API, and its page "Update API Objects in Place".
"""

from typing import Any

KEYS = {
    "containers": "name", "initContainers": "name", "ephemeralContainers": "name", "env": "name", "volumes": "name",
    "imagePullSecrets": "name", "volumeMounts": "mountPath", "volumeDevices": "devicePath", "ports": "containerPort",
    "hostAliases": "ip", "topologySpreadConstraints": "topologyKey",
}  # fmt: skip
PATCH = "$patch"


def merged(old: Any, patch: Any) -> Any:
    """The old value as the patch changes it; neither is changed itself.

    >>> merged({"env": [{"name": "A", "value": "1"}], "x": 1}, {"env": [{"name": "B", "value": "2"}], "x": None})
    {'env': [{'name': 'A', 'value': '1'}, {'name': 'B', 'value': '2'}]}
    """
    if not isinstance(patch, dict):
        return patch
    if patch.get(PATCH) == "replace":
        return {name: value for name, value in patch.items() if name != PATCH}
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None or (isinstance(value, dict) and value.get(PATCH) == "delete"):
            result.pop(name, None)
        elif name in KEYS and isinstance(value, list):
            result[name] = _entries(result.get(name) or [], value, KEYS[name])
        else:
            result[name] = merged(result.get(name), value)
    return result


def _entries(old: list[Any], patch: list[Any], key: str) -> list[Any]:
    entries = list(old)
    for entry in patch:
        named = entry.get(key) if isinstance(entry, dict) else None
        at = next((i for i, old_entry in enumerate(entries) if named is not None and old_entry.get(key) == named), None)
        if isinstance(entry, dict) and entry.get(PATCH) == "delete":
            entries = [old_entry for i, old_entry in enumerate(entries) if i != at]
        elif at is None:
            entries.append(entry)
        else:
            entries[at] = merged(entries[at], entry)
    return entries
