"""A network's parameters as NumPy arrays."""

from typing import Any

from mxnet import gluon


def parameters_of(network: gluon.Block) -> dict[str, Any]:
    """All parameters by structural name, each once where blocks share it."""
    seen: dict[int, tuple[str, Any]] = {}
    for name, parameter in sorted(network._collect_params_with_prefix().items()):
        seen.setdefault(id(parameter), (name, parameter))
    return dict(seen.values())
