"""MLflow, and the only package that imports it.

`runs` records what commands do, `client` reaches MLflow and asks it for models, `listing` for runs, `removal`
removes them.
"""

from pipeline.tracking.client import Address, address, asked, connect, model_of_registry, model_of_run
from pipeline.tracking.runs import Tracking, metric_name, tag_ended

__all__ = [
    "Address", "Tracking", "address", "asked", "connect", "metric_name", "model_of_registry", "model_of_run",
    "tag_ended",
]  # fmt: skip
