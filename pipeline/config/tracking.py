"""The section `tracking`: what MLflow gets, and when."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from pipeline.config.base import Filled, Place, Positive, Settings
from pipeline.core import credentials


class TrackingConfig(Settings):
    """What MLflow gets; see docs/tracking.md."""

    uri: Annotated[Place, AfterValidator(credentials.reachable)] | None = Field(
        default=None,
        description="MLflow's address. Default: MLFLOW_TRACKING_URI, else a SQLite database under root.",
        examples=["http://127.0.0.1:5000"],
    )
    experiment: Filled = Field(default="", description="MLflow's experiment. Default: the configuration's name.")
    system_metrics: bool = Field(
        default=True,
        description="Sends the load of processors, memory, disk, network and GPUs as metrics too, every ten seconds.",
    )
    spool_mb: Positive = Field(
        default=64,
        description="MiB on disk for a training's points, and for a command's journal; above it older training points "
        "are thinned out.",
    )
    send: Literal["now", "later"] = Field(
        default="now",
        description="now: while the command works. later: the command keeps all on disk, for hosts that cannot reach "
        "MLflow, and `duplet sync` sends it.",
    )
    max_wait_s: Annotated[float, Field(ge=0)] = Field(
        default=30.0,
        description="Seconds that a command waits for MLflow at its end; `duplet sync` sends what is left then.",
    )

    @property
    def sending(self) -> dict[str, Any]:
        """The settings of how a run's journal is sent, as arguments of `tracking.Tracking`."""
        return {"spool_mb": self.spool_mb, "max_wait_s": self.max_wait_s, "later": self.send == "later"}
