"""A training that starts from another one's parameters, over texts that may have changed since."""

import json
from pathlib import Path

import numpy as np
from mxnet import gluon, nd

from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.models.parameters import parameters_of
from pipeline.tokenization.encoder import VOCABULARY_NAME

PARAMETERS = "parameters.npz"


def start_from(folder: Path, network: gluon.Block, tokenized: Path) -> str:
    """Gives an initialized network the parameters in `folder`; what it did, as a sentence without a full stop.

    A table with a row per token, (old vocabulary, d) in `folder` and (new vocabulary, d) here, is matched by token: a
    token that is new keeps its random row.

    Raises:
        InputError: there are no such parameters, or they are another network's.
    """
    try:
        found = atomic_files.arrays(folder / PARAMETERS)
        old, new = _tokens(folder), _tokens(tokenized)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"train.start_from={folder} is not a trained model folder ({error})") from None
    parameters = parameters_of(network)
    if found.keys() != parameters.keys():
        odd = sorted(found.keys() ^ parameters.keys())[0]
        raise InputError(
            f"train.start_from={folder} holds another network ({odd} is in one of the two only): use its section model"
        )
    rows = [(i, old[token]) for token, i in new.items() if token in old]
    for name, parameter in parameters.items():
        given, shape = found[name], parameter.shape
        if old != new and given.shape == (len(old), *shape[1:]) and shape[0] == len(new):
            mine = parameter.data(parameter.list_ctx()[0]).asnumpy()
            mine[[i for i, _ in rows]] = given[[i for _, i in rows]]
            given = mine
        if given.shape != shape:
            raise InputError(
                f"train.start_from={folder}: {name} is {given.shape} there and {shape} here: use its section model"
            )
        if not np.isfinite(given).all():
            raise InputError(f"train.start_from={folder}: {name} is not finite there: train that model again")
        parameter.set_data(nd.array(given))
    return f"starting from {folder}, which knew {len(rows)} of {len(new)} tokens"


def _tokens(folder: Path) -> dict[str, int]:
    """Token -> row."""
    listed = json.loads((folder / VOCABULARY_NAME).read_text(encoding="utf-8"))["idx_to_token"]
    return {token: i for i, token in enumerate(listed)}
