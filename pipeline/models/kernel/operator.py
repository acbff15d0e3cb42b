"""The operator of the library in MXNet: recurrent layers over the tokens of texts, none of them padding."""

import ctypes
import functools

from mxnet import Context, MXNetError, autograd, base, nd
from mxnet._ctypes.ndarray import _imperative_invoke

from pipeline.models.kernel import library

_failure = ""
_setting = "auto"
_bfloat16 = False


@functools.cache
def _handle() -> int | None:
    """The operator, loaded into MXNet at the first call of a process; None where MXNet's own layers are used.

    Not by `mx.library.load`, which makes the Python functions of all of MXNet's operators anew: half a second.
    """
    global _failure
    _failure, path = "", library.found().path
    if path is None:
        return None
    if (known := _registered()) is not None:  # a second registration is an error
        return known
    try:
        base.check_call(base._LIB.MXLoadLib(ctypes.c_char_p(str(path).encode()), ctypes.c_uint(0)))
    except MXNetError as error:
        _failure = library.without(f"its own do not load into MXNet: {' '.join(str(error).split())[:200]}").phrase
    return _registered()


def _registered() -> int | None:
    handle = ctypes.c_void_p()
    unknown = base._LIB.NNGetOpHandle(base.c_str("duplet_recurrent"), ctypes.byref(handle))
    return None if unknown else handle.value


def use(kernel: str, bfloat16: bool = False) -> None:
    """From here on MXNet runs recurrent layers in this process (mxnet), or our operator wherever it can (own, auto).

    bfloat16: the factors of its products, where `library.found` has no reason why not.
    """
    global _setting, _bfloat16
    _setting, _bfloat16 = kernel, bfloat16


def ready(context: Context) -> bool:
    """Whether layers on this device are run by our operator."""
    return context.device_type == "cpu" and _setting != library.MXNET and _handle() is not None


def instructions() -> str:
    """Of our operator, as `library.Found` has them; empty where it cannot be used."""
    return library.found().instructions if _handle() is not None else ""


def no_bfloat16() -> str:
    """Why products of our operator cannot have factors of bfloat16; empty: they can."""
    return library.found().no_bfloat16 if _handle() is not None else told()


def told() -> str:
    """One phrase: what can run recurrent layers on the CPU here, and why it is not our operator."""
    _handle()
    return _failure or library.found().phrase


def recurrent(
    cell: str,
    hidden: int,
    directions: int,
    x: nd.NDArray,
    packed: nd.NDArray,
    padding: nd.NDArray | None = None,
    states: list[nd.NDArray] | None = None,
) -> list[nd.NDArray]:
    """One layer.

    Args:
        x: (T, N, C).
        packed: all parameters as MXNet's RNN takes them.
        padding: (T, N, 1), 1 after the end of a text; None where all texts are T long.
        states: the first h and, for LSTM, c, each (directions, N, hidden); None: zeros.

    Returns:
        (T, N, directions * hidden), zero on padding; with `states`, also those after each text's last token.
    """
    inputs = [x, *([] if padding is None else [padding]), packed, *(states or [])]
    settings = {
        "cell": cell, "hidden": hidden, "directions": directions, "padded": int(padding is not None),
        "states": int(states is not None), "keep": int(autograd.is_recording()), "bfloat16": int(_bfloat16),
    }  # fmt: skip
    outputs: list[nd.NDArray] = _imperative_invoke(
        _handle(), inputs, list(settings), list(settings.values()), None, False, True
    )
    return outputs
