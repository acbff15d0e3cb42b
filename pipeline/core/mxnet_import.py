"""Keeps MXNet's import from loading what it takes a third of its time for and nothing here uses.

That is scikit-learn, with pandas behind it, for one base class, and SciPy's statistics, for the quantization to int8 by
entropy. MXNet does without either where it is not installed; whoever imports them afterwards gets them as ever.
"""

import sys

UNUSED = ("sklearn", "scipy.stats")


class _Hidden:
    """An import hook: these are not there while MXNet is being imported."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name in UNUSED and getattr(getattr(sys.modules.get("mxnet"), "__spec__", None), "_initializing", False):
            raise ModuleNotFoundError(f"{name} is hidden from MXNet", name=name)


def install() -> None:
    """For this process, if MXNet is not imported yet."""
    if _Hidden not in sys.meta_path:
        sys.meta_path.insert(0, _Hidden)
