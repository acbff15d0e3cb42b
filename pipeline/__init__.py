"""What happens to data and models: ingest, tokenize, train, evaluate. docs/python.md shows the calls from Python."""

from typing import TYPE_CHECKING, Any

from pipeline.core import mxnet_import
from pipeline.core.version import __version__

if TYPE_CHECKING:
    from pipeline.api import Hit, Index, Model, load_model, open_index, run
    from pipeline.config import Config, load_config

__all__ = ["Config", "Hit", "Index", "Model", "__version__", "load_config", "load_model", "open_index", "run"]

mxnet_import.install()


def __getattr__(name: str) -> Any:
    """The public names, loaded when first used: `import pipeline` stays quick."""
    if name in ("Config", "load_config"):
        from pipeline import config

        return getattr(config, name)
    if name in __all__:
        from pipeline import api

        return getattr(api, name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
