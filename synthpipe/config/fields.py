"""Types of settings with their ranges, and the base class of all sections of settings files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from synthpipe.core.display import without_secrets
from synthpipe.core.records import STRATEGIES, Strategy

# strict: text is never a number, true is not 1, and 1.0 is not a whole number
Flag = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=4096)]
Secretive = Annotated[Text, PlainSerializer(without_secrets)]
"""A path or a URL; its credentials are used for reading, but never stored."""
Precision = Annotated[
    Literal["mixed", "32"],
    BeforeValidator(lambda value: "32" if value == 32 else value),  # YAML reads 32 without quotes as a number
]

MOST = 100_000_000
"""Largest value of a setting that counts something; the driver needs some bytes for each candidate."""
LARGEST = 8192
"""Largest side of an image in pixels: such a composite has 256 MiB, and a worker holds several composites."""
_MOST_TILES = 64

Positive = Annotated[Whole, Field(ge=1, le=MOST)]
Draws = Annotated[Whole, Field(ge=1, le=10_000)]
Side = Annotated[Whole, Field(ge=1, le=LARGEST)]
Above0 = Annotated[Number, Field(gt=0, le=1000)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Byte = Annotated[Whole, Field(ge=0, le=255)]
Mean = Annotated[Number, Field(ge=-1000, le=1000)]
Deviation = Annotated[Number, Field(ge=0.001, le=1000)]
Color = tuple[Byte, Byte, Byte]


def _whole(value: Any) -> Any:
    if type(value) is not int:
        raise PydanticCustomError("whole", "Expected a whole number such as 1")
    return value


def _both(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise PydanticCustomError("size", "Expected one whole number of pixels such as 224, or two as [height, width]")
    return tuple(value)


def _for_each(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return dict.fromkeys(STRATEGIES, value)
    if not isinstance(value, dict):
        raise PydanticCustomError(
            "per_strategy", "Expected one whole number such as 12, or one for each as {mosaic: 1, bezier: 2}"
        )
    return value


def _size_schema(most: int) -> dict[str, Any]:
    side = {"type": "integer", "minimum": 1, "maximum": most}
    both = {"type": "array", "items": side, "minItems": 2, "maxItems": 2}
    return {"anyOf": [side, both], "x-words": f"a whole number from 1 to {most}, or two as [height, width]"}


_COUNT = {"type": "integer", "minimum": 1, "maximum": MOST}
Size = Annotated[tuple[Side, Side], BeforeValidator(_both), WithJsonSchema(_size_schema(LARGEST))]
GridSize = Annotated[
    tuple[Annotated[Side, Field(le=_MOST_TILES)], Annotated[Side, Field(le=_MOST_TILES)]],
    BeforeValidator(_both),
    WithJsonSchema(_size_schema(_MOST_TILES)),
]
PerStrategy = Annotated[
    dict[Strategy, Positive],
    BeforeValidator(_for_each),
    WithJsonSchema(
        {
            "anyOf": [
                _COUNT,
                {"type": "object", "properties": dict.fromkeys(STRATEGIES, _COUNT), "additionalProperties": False},
            ],
            "x-words": f"a whole number from 1 to {MOST}, or one for each strategy as {{mosaic: 1, bezier: 2}}",
        }
    ),
]


Version = Annotated[Literal[1], BeforeValidator(_whole)]  # Literal alone would accept true and 1.0 as 1


WHOLE = "whole"
"""Context of a serialization that keeps the defaults of new keys, for messages to people."""


class Section(BaseModel):
    """A part of a settings file: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    _new_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that are not stored or hashed while they have their defaults, so that older runs keep their fingerprints."""

    @model_serializer(mode="wrap")
    def _without_defaults_of_new_keys(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        for key in () if info.context == WHOLE else self._new_keys:
            default = type(self).model_fields[key].default
            if data.get(key, ...) in (default, list(default) if isinstance(default, tuple) else default):
                del data[key]
        return data


def digest(data: object) -> str:
    """Return the SHA-256 of JSON-ready `data`; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield ``key: old -> new`` for each value that differs between two JSON-ready mappings."""
    for key in sorted(old.keys() | new.keys()):
        left, right = old.get(key), new.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            yield from differences(left, right, f"{prefix}{key}.")
        elif left != right:
            yield f"{prefix}{key}: {json.dumps(left)} -> {json.dumps(right)}"


def even_ceil(value: float) -> int:
    """Round up to an even integer; the Mosaic's split point is rounded this way (method section 2)."""
    return 2 * math.ceil(value / 2)
