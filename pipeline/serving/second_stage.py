"""A second model that scores a ranking's first documents anew: as an evaluation chose it, or as an export carries it.

Imports no MXNet, and nothing that does: the MLflow model holds a copy.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError
from pipeline.evaluation import confidence, fusion
from pipeline.evaluation.confidence import Answering
from pipeline.evaluation.fusion import Mix
from pipeline.serving import model_folder
from pipeline.serving.predict.base import SecondStage
from pipeline.serving.predict.text_encoder import TextEncoder

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sure = Annotated[Answering, AfterValidator(confidence.checked)]
STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Rerank:
    """Which model scores a ranking's first documents anew, and how its scores are mixed with the ranking's."""

    __pydantic_config__ = STRICT

    key: str  # of its folder's manifest
    folder: Annotated[str, Field(pattern=r"^/[^\x00]*$", max_length=4096)]  # absolute
    top: Annotated[int, Field(ge=1)]  # documents
    weight: Share  # of its scores
    scale: Scale  # by what they are divided, and the ranking's
    first_scale: Scale

    @property
    def mix(self) -> Mix:
        """How the scores are mixed."""
        return Mix(self.weight, self.scale, self.first_scale)


_RERANK, _SURE = TypeAdapter(Rerank), TypeAdapter(Sure)


def chosen(made: dict[str, Any], of: str) -> Rerank | None:
    """The second model that an evaluation mixed in (fusion.json's `rerank`); None where it gave it no weight.

    Args:
        of: the first model, as the person names it.

    Raises:
        InputError: there is no such model any more, or what the file says cannot be.
    """
    try:
        if not made["weight"]:
            return None
        folder = atomic_files.path_at_home(made["model"]).absolute()
        key = key_of(model_folder.checked(folder))
        mixed = {name: made[name] for name in ("top", "weight", "scale", "first_scale")}
        return _RERANK.validate_json(json.dumps({"key": key, "folder": str(folder), **mixed}))
    except InputError as error:
        raise InputError(
            f"the second model of {of} cannot be used ({error}): put it back, or evaluate without rerank.model"
        ) from None
    except (ValidationError, KeyError, TypeError, AttributeError):
        raise InputError(f"{fusion.NAME} of {of} is damaged: evaluate or export the model again") from None


def sure_of(made: dict[str, Any]) -> Answering | None:
    """Which first documents of a ranking are sure answers, by the ranking's own scores; None: it does not say.

    Args:
        made: what fusion.json says of that ranking. Raises InputError where it is damaged.
    """
    if (said := made.get("answering")) is None:
        return None
    try:
        return _SURE.validate_python(said)
    except ValidationError:
        raise InputError(f"{fusion.NAME} is damaged (answering): evaluate or export the model again") from None


def opened(made: dict[str, Any], of: str, opens: Callable[[Path], TextEncoder]) -> SecondStage | None:
    """The second stage for lists that are ranked without BM25 (`alone` in fusion.json); None where there is none.

    Args:
        made: fusion.json; opens: what opens a model's folder. Raises InputError as `chosen` does.
    """
    alone = alone_of(made)
    if alone is None or (rerank := chosen(alone, of)) is None:
        return None
    encoder = opens(Path(rerank.folder))
    encoder.joined = None  # the evaluation chose the weight, and what is sure, by its network's own scores
    return SecondStage(encoder, rerank.key, rerank.mix, rerank.top, sure_of(alone))


def alone_of(made: Mapping[str, Any]) -> dict[str, Any] | None:
    """What fusion.json says of a second stage over the model's own ranking; None where there is none."""
    return made["rerank"] | made["rerank"]["alone"] if "rerank" in made else None


def weighs(made: Mapping[str, Any]) -> bool:
    """Whether an evaluation gave a second stage a weight, over the fused ranking or over the model's own."""
    return any(stage and stage["weight"] for stage in (made.get("rerank"), alone_of(made)))


def carried(folder: Path) -> dict[str, Any]:
    """fusion.json of an exported folder, whose second model lies within; {} of a folder that has none.

    Raises:
        InputError: it is damaged.
    """
    made = atomic_files.json_object(folder / fusion.NAME)
    if "rerank" in made:
        second = made["rerank"]
        if not isinstance(second, dict) or not isinstance(second.get("alone"), dict):
            raise InputError(f"{folder / fusion.NAME} is damaged (rerank): export the model again")
        made["rerank"] = second | {"model": str((folder / model_folder.SECOND).absolute())}  # wherever it says
    return made


def key_of(folder: Path) -> str:
    """What tells a model's folder from others."""
    stage = model_folder.stage_of(folder)
    return manifest.load(folder, stage, f"duplet {stage}", verify=False).key
