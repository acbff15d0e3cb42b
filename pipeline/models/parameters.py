"""A network's parameters as NumPy arrays."""

from typing import Any

from mxnet import gluon

TEACHER_MAP = "teacher_map"  # what only learning from a teacher needs, and no folder of a trained model holds


def parameters_of(network: gluon.Block) -> dict[str, Any]:
    """All parameters by structural name, each once where blocks share it."""
    seen: dict[int, tuple[str, Any]] = {}
    for name, parameter in sorted(network._collect_params_with_prefix().items()):
        seen.setdefault(id(parameter), (name, parameter))
    return dict(seen.values())


def model_of(network: gluon.Block) -> dict[str, Any]:
    """Those of the model itself, which its trained folder holds."""
    return {name: p for name, p in parameters_of(network).items() if not name.startswith(TEACHER_MAP)}
