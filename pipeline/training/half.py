"""Gradients that travel between workers as float16: the scale that keeps them in its range, and what overflows.

Small gradients vanish in float16 and large ones overflow, so all are multiplied by a scale: it is halved when one
overflows, whose update is left out, and doubled after many updates without (Micikevicius et al., "Mixed precision
training", 2018, who scale the loss).
"""

from mxnet import gluon, nd

from pipeline.core.errors import DupletError
from pipeline.distributed.world import World
from pipeline.training.checkpoint import State
from pipeline.training.optimizer import Rows

LEAST, MOST, PATIENCE = 2.0**-10, 2.0**24, 1000  # scales; updates without an overflow before the scale is doubled


def scale(compression: str, state: State, world: World) -> float | None:
    """What gradients of the next update are multiplied by; None: they travel as float32, or not at all."""
    return state.half_scale if compression == "fp16" and world.size > 1 else None


def spoiled(parameters: list[gluon.Parameter], rows: Rows | None, world: World) -> nd.NDArray:
    """(1,): 1 where this worker's own gradients are not finite, so that no scale would help; else 0."""
    gradients = [parameter.grad(world.context) for parameter in parameters]
    gradients += [] if rows is None else [rows.values.grad]
    total = nd.multi_sum_sq(*gradients, num_arrays=len(gradients)).sum().reshape(1)
    return 1 - (0 * total == 0)


def passed(state: State) -> None:
    """Notes an update whose gradients fitted."""
    state.half_since += 1
    if state.half_since >= PATIENCE and state.half_scale < MOST:
        state.half_scale, state.half_since = 2 * state.half_scale, 0


def overflowed(state: State, update: int) -> str:
    """Notes an update that is left out, and gives the sentence. Raises DupletError where no scale helps."""
    state.overflows, state.half_scale, state.half_since = state.overflows + 1, state.half_scale / 2, 0
    if state.half_scale < LEAST:
        raise DupletError(
            f"gradients overflow float16 at update {update} even at the least scale: set train.compression=none, or "
            "train.optimizer.learning_rate lower"
        )
    return (
        f"gradients overflowed float16 at update {update}, which is left out ({state.overflows} so far); they travel "
        f"times {state.half_scale:g} from here on"
    )
