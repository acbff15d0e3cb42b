"""What settings are made of: the base of all sections, and the kinds of values that are checked alike everywhere."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from pipeline.core.atomic_files import at_home
from pipeline.core.redaction import holds_secret

# Ends of lines and other control characters, and the two line ends that only Unicode has.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
LONGEST_NAME = 250  # MLflow's limits for the names of experiments and models lie above it


class Settings(BaseModel):
    """Base of all sections: frozen. Unknown keys, numbers that are not finite and control characters are errors.

    Texts of settings become part of scripts, manifests, tables and names of files, where a line end would begin a line
    of its own. Those that only name what stands in the data (`free_texts`, "*" for all) may hold any character.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    free_texts: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*", mode="after")
    @classmethod
    def _one_line(cls, value: Any, info: ValidationInfo) -> Any:
        if not cls.free_texts & {info.field_name, "*"}:
            for text in _texts(value):
                if match := _CONTROL.search(text):
                    raise ValueError(f"must not hold a line end or another control character ({match[0]!r})")
        return value


def _texts(value: Any) -> Iterator[str]:
    """The texts of a setting, those within mappings and lists too; sections look after their own."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


class OrNull:
    """Marks a setting that may also be given as null, which stands for its default."""


def _filled(text: str) -> str:
    if len(text) > LONGEST_NAME:
        raise ValueError(f"must have at most {LONGEST_NAME} characters")
    if text and not text.strip():
        raise ValueError("must not be blank")
    return text


def _named(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return _filled(text)


def _own(path: str) -> str:
    if "://" in path:
        raise ValueError("must be a path on this machine, not an address")
    return path


def _stored(place: str) -> str:
    if place.startswith(("file://", "local://", "http://", "https://")):
        raise ValueError("must be a path on this machine, or an address of an object store such as s3://bucket/runs")
    if "://" in place and not re.match(r"[a-z][a-z0-9+.-]*://[^/]", place):
        raise ValueError("must name a store in small letters and a bucket, such as s3://bucket/runs")
    if "://" in place and holds_secret(place):
        raise ValueError("must hold no password or token: credentials come from the environment or the machine's role")
    return place


Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
# A file or folder, or (of sources) an address that fsspec knows.
Place = Annotated[str, AfterValidator(at_home)]
# One on this machine: of s3://bucket/x, say, a folder `s3:` would be made.
OwnPlace = Annotated[Place, AfterValidator(_own)]
# A folder on this machine, or one of an object store.
Root = Annotated[Place, AfterValidator(_stored)]
Name = Annotated[str, AfterValidator(_named), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 250})]
# A name whose default rests on other settings: Config fills it in, so what reads it finds neither null nor "".
Filled = Annotated[
    str,
    OrNull(),
    BeforeValidator(lambda value: "" if value is None else value),
    AfterValidator(_filled),
    WithJsonSchema({"anyOf": [{"type": "string", "maxLength": 250}, {"type": "null"}]}),
]
Format = Field(description="Format of the source; the other settings depend on it.")
