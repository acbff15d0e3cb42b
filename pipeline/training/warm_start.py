"""A training that starts from another one's parameters, over texts that may have changed since."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mxnet import gluon, nd

from pipeline.config import task_specs
from pipeline.config.task_spec import TaskSpec
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.core.record_schema import RESERVED, Field
from pipeline.models.parameters import model_of
from pipeline.tokenization.encoder import VOCABULARY_NAME

PARAMETERS = "parameters.npz"
ENCODERS = ("encoder", "query_tower.encoder", "document_tower.encoder")  # by name in the networks of tasks
PARTS = ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")
# Where a network of another task keeps its words and the layers that read forwards and backwards.
ELSEWHERE = (
    ("embedding", ("both.forwards.layers", "both.backwards.layers")),  # cloze: a network for each direction
    ("words.weight", ("layers", None)),  # language_model
    ("output.weight", ("layers", None)),  # the same with tied weights
    *(("embedding", (f"{name}.layers", f"{name}.layers")) for name in ENCODERS),
)


def start_from(
    folder: Path, network: gluon.Block, tokenized: Path, task: str | None = None, cell: str | None = None
) -> str:
    """Gives an initialized network the parameters in `folder`; what it did, as a sentence without a full stop.

    Of a network of another task than `task`, only the words' vectors and the layers that read them are taken.

    Parameters that have a place per token, class, tag or letter (`rows` of the task's TaskSpec), as an embedding of
    (old vocabulary, d) in `folder` and (new vocabulary, d) here, are matched by it: what is new keeps random values.

    Args:
        task: None: the network has no such parameter but `embedding`.

    Raises:
        InputError: there are no such parameters, or they are another network's.
    """
    trained, parameters = _configuration(folder), model_of(network)
    elsewhere = task is not None and trained["task"] not in (None, task)
    along = {"embedding": [Field()]} | ({} if task is None or elsewhere else _along(task_specs()[task], parameters))
    forms = {form.vocabulary: form for axes in along.values() for form in axes}
    try:
        arrays = atomic_files.arrays(folder / PARAMETERS)
        places = {name: Places.of(folder, tokenized, form) for name, form in sorted(forms.items())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"train.start_from={folder} is not a trained model folder ({error})") from None
    if cell is not None and (old_cell := trained["cell"]) not in (None, cell):
        raise _other(folder, "model.cell", old_cell, cell)  # cells of equal shapes mean other things by them
    words = places[""]
    if elsewhere:
        taken = _from_elsewhere(folder, arrays, parameters, words)
        return f"starting from {folder}, of another task: {words.said('token')}, {taken}"
    if arrays.keys() != parameters.keys():
        odd = sorted(arrays.keys() ^ parameters.keys())[0]
        raise InputError(
            f"train.start_from={folder} holds another network ({odd} is in one of the two only): use its section model"
        )
    for name, parameter in parameters.items():
        own = parameter.data(parameter.list_ctx()[0]).asnumpy()
        axes = [places[form.vocabulary] for form in along.get(name, ())]
        _set(folder, parameter, name, _matched(folder, name, arrays[name], own, axes))
    others = [where.said(name) for name, where in places.items() if name]
    return f"starting from {folder}, which knew {', '.join([words.said('token'), *others])}"


def _along(spec: TaskSpec, parameters: Iterable[str]) -> dict[str, list[Field]]:
    """Of these parameters, whose vocabulary's tokens stand along their first axes."""
    return {name: [spec.fields[field] for field in spec.rows[name]] for name in parameters if name in spec.rows}


class Places(NamedTuple):
    """Where a vocabulary's tokens stand along an axis: here, and in the parameters to start from."""

    tokens: np.ndarray  # (n, 2), here and there, of those that both have
    new: int  # tokens with a place here
    old: int

    @classmethod
    def of(cls, folder: Path, tokenized: Path, field: Field) -> "Places":
        """Raises what reading a file raises."""
        first = len(RESERVED) if field.names else 0  # no place is theirs
        old, new = (_tokens(place / field.vocabulary) for place in (folder, tokenized))
        both = [(i - first, old[token] - first) for token, i in new.items() if i >= first and token in old]
        return cls(np.array(both, int).reshape(-1, 2), len(new) - first, len(old) - first)

    def matched(self, new: int, old: int) -> np.ndarray | None:
        """(m, 2) places here and there along axes of these lengths: the tokens', and those after the last token's;
        None where the axes have not as many of these."""
        after = new - self.new
        if after < 0 or old - self.old != after:
            return None
        return np.concatenate([self.tokens, np.arange(after)[:, None] + (self.new, self.old)])

    def said(self, what: str) -> str:
        """How many of the tokens here it knew."""
        return f"{len(self.tokens)} of {self.new} {what}{'' if what.endswith('s') else 's'}"


def _matched(folder: Path, name: str, values: np.ndarray, own: np.ndarray, places: list[Places]) -> np.ndarray:
    """`own` with the values of `folder` wherever they are of the same tokens; of a parameter without places, all."""
    wrong = InputError(
        f"train.start_from={folder}: {name} is {values.shape} there and {own.shape} here: use its section model"
    )
    if values.ndim != own.ndim or values.shape[len(places) :] != own.shape[len(places) :]:
        raise wrong
    if not places:
        return values
    axes = [axis.matched(new, old) for axis, new, old in zip(places, own.shape, values.shape)]
    known = [axis for axis in axes if axis is not None]
    if len(known) < len(axes):
        raise wrong
    own[np.ix_(*(axis[:, 0] for axis in known))] = values[np.ix_(*(axis[:, 1] for axis in known))]
    return own


def _from_elsewhere(folder: Path, arrays: dict[str, np.ndarray], parameters: dict[str, Any], known: Places) -> str:
    """Takes the words, by token, and the encoder's layers from another task's network; what was taken.

    Where both directions read together from the second layer on, and the other network has one for each, a direction's
    weights stand in its own half of the inputs, and the other half starts at 0: the layer starts as what it was.
    """
    encoders = [name for name in ENCODERS if f"{name}.layers.0.f_i2h_weight" in parameters]
    readers = ((words, stacks) for words, stacks in ELSEWHERE if f"{stacks[0]}.0.f_i2h_weight" in arrays)
    source = next((reader for reader in readers if reader[0] in arrays), None)
    if not encoders or "embedding" not in parameters or source is None:
        raise InputError(
            f"train.start_from={folder}: from another task can start matching, classification and tagging, and what "
            "they start from is one of these, cloze or language_model"
        )
    words, (forwards, backwards) = source
    table = parameters["embedding"]
    own_values = table.data(table.list_ctx()[0]).asnumpy()
    width, values = own_values.shape[1], arrays[words]
    if words == "embedding" and forwards.startswith("both"):
        values = values[:, : arrays[f"{forwards}.0.f_i2h_weight"].shape[1]]  # the other half is the left reader's
    if values.shape[1] != width:
        raise _other(folder, "model.embedding", values.shape[1], width)
    if len(values) < known.old:
        raise InputError(
            f"train.start_from={folder}: {words} has fewer rows than its vocabulary: train that model again"
        )
    own_values[known.tokens[:, 0]] = values[known.tokens[:, 1]]
    _set(folder, table, "embedding", own_values)
    layers = 0
    for encoder in encoders:
        while f"{encoder}.layers.{layers}.f_i2h_weight" in parameters:
            for d, place in (("f", forwards), ("b", backwards)):
                if place is not None and f"{encoder}.layers.{layers}.{d}_i2h_weight" in parameters:
                    _take_layer(folder, arrays, parameters, f"{encoder}.layers.{layers}", place, layers, d)
            layers += 1
        taken, layers = layers, 0
    return f"{taken} layer{'s' if taken > 1 else ''}, {'both directions' if backwards else 'forwards'}"


def _take_layer(
    folder: Path, arrays: dict[str, np.ndarray], parameters: dict[str, Any], target: str, place: str, layer: int, d: str
) -> None:
    """One direction of one layer; a network that reads in one direction alone has its weights under `f`."""
    theirs = d if f"{place}.{layer}.{d}_i2h_weight" in arrays else "f"
    for part in PARTS:
        name, parameter = f"{place}.{layer}.{theirs}_{part}", parameters[f"{target}.{d}_{part}"]
        if name not in arrays:
            raise InputError(
                f"train.start_from={folder} has no {name}: use its section model (model.layers, model.cell)"
            )
        values, shape = arrays[name], parameter.shape
        if part == "i2h_weight" and layer and values.shape == (shape[0], shape[1] // 2):
            nothing = np.zeros_like(values)
            values = np.concatenate([values, nothing] if d == "f" else [nothing, values], axis=1)
        if values.shape != shape:
            raise InputError(
                f"train.start_from={folder}: {name} is {values.shape} there and {shape} here: use its section model "
                "(model.embedding, model.hidden, model.cell; tagging.characters needs a model of tagging)"
            )
        _set(folder, parameter, name, values)


def _set(folder: Path, parameter: Any, name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise InputError(f"train.start_from={folder}: {name} is not finite there: train that model again")
    parameter.set_data(nd.array(values))


def _other(folder: Path, setting: str, there: int | str, here: int | str) -> InputError:
    return InputError(f"train.start_from={folder}: {setting} is {there} there and {here} here: use its section model")


def _configuration(folder: Path) -> dict[str, str | None]:
    """The task and the cell that a trained folder says it is of; None where it does not say."""
    config = atomic_files.json_object(folder / "config.json")
    model = config.get("model")
    return {"task": config.get("task"), "cell": model.get("cell") if isinstance(model, dict) else None}


def _tokens(folder: Path) -> dict[str, int]:
    """Token -> row."""
    listed = json.loads((folder / VOCABULARY_NAME).read_text(encoding="utf-8"))["idx_to_token"]
    return {token: i for i, token in enumerate(listed)}
