"""Check the fields of a stored ``build.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synthpipe.config.fields import MOST, Fraction
from synthpipe.core.errors import StoreError, explain
from synthpipe.core.records import Reason, Strategy
from synthpipe.files.locations import Location

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_JUDGED = {"candidates", "acceptance", "verdicts", "class_share", "donors"}  # a build writes them together
_Count = Annotated[int, Field(ge=0, le=MOST)]
_Seconds = Annotated[float, Field(ge=0)]
_HOW_TO_MEND = "`synthpipe verify RUN` shows how to repair it"


class _Donors(BaseModel):
    model_config = _STRICT

    available: _Count
    used: _Count
    most_composites_of_one: _Count


class _BelowThreshold(BaseModel):
    model_config = _STRICT

    count: _Count
    kept: _Count
    lowest: Fraction


class _Entry(BaseModel):
    """The results of one strategy. A build adds the fields in this order, so later fields can be missing."""

    model_config = _STRICT

    filter: dict[str, float] = {}
    candidates: _Count = 0
    acceptance: Fraction | None = None
    verdicts: dict[Reason, _Count] = {}
    class_share: dict[str, Fraction] = {}
    class_verdicts: dict[str, dict[Reason, _Count]] = {}
    donors: _Donors = _Donors(available=0, used=0, most_composites_of_one=0)
    below_threshold: _BelowThreshold | None = None  # not in runs of earlier versions


class _Round(BaseModel):
    """The results of one round of a strategy. All counts except ``new`` cover the whole plan so far."""

    model_config = _STRICT

    strategy: Strategy
    round: _Count
    new: _Count
    wanted: _Count
    candidates: _Count
    scored: _Count
    acceptance: Fraction | None
    kept: _Count
    looks_synthetic: _Count
    too_few_classes: _Count
    donor_overused: _Count
    surplus: _Count
    donors: _Count
    seconds: _Seconds


class _Journal(BaseModel):
    """All fields of ``build.json``."""

    model_config = _STRICT

    stages: dict[str, _Seconds] = {}
    strategies: dict[Strategy, _Entry] = {}
    rounds: list[_Round] = []  # not in runs of earlier versions
    finished: bool | None = None
    pixel_remarks: list[str] = []
    remarks: list[str] = []


def check_journal(path: Location, data: Mapping[str, Any]) -> None:
    """Refuse a ``build.json`` whose fields differ from those that a build writes.

    Raises
    ------
    StoreError
        A field is missing or has a wrong value; the message names it.
    """
    try:
        _Journal.model_validate(data)
    except ValidationError as error:
        raise StoreError(f"{path}: {explain(error)}; {_HOW_TO_MEND}") from error
    for strategy, entry in data.get("strategies", {}).items():
        if (present := _JUDGED & entry.keys()) and present != _JUDGED:
            lacking = ", ".join(sorted(_JUDGED - present))
            raise StoreError(f"{path}: strategies.{strategy}: missing fields: {lacking}; {_HOW_TO_MEND}")
