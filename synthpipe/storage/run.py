"""The run directory: where everything of a build lies, and the guard that keeps one run to one pipeline."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synthpipe.config.fields import MOST, Fraction, differences
from synthpipe.config.pipeline import Pipeline, Stage
from synthpipe.core.errors import AccessError, StaleRunError, StoreError, explain
from synthpipe.core.packages import TORCH
from synthpipe.core.records import STRATEGIES, Reason, Strategy
from synthpipe.core.strict_json import parse_json
from synthpipe.files.folders import Kind, sweep
from synthpipe.files.locations import Location, exists, translate_errors
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import write_atomically
from synthpipe.storage.aside import ROOT, remove_rest, set_aside

FORMAT_VERSION = 1
_PACKAGES = ("synthpipe", "numpy", "opencv-python-headless", "bezier", "pillow", "zarr", "dask", "torch", "timm")
_MOST_JSON = 64 << 20  # bytes
_FINGERPRINT = re.compile("[0-9a-f]{64}")
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_JUDGED = {"candidates", "acceptance", "verdicts", "class_share", "donors"}  # they come together
_Count = Annotated[int, Field(ge=0, le=MOST)]
_Seconds = Annotated[float, Field(ge=0)]
_HOW_TO_MEND = "`synthpipe verify RUN` says how to mend it"
RUN = Kind(
    "run",
    ("run.json",),
    (
        *("run.json", "build.json", "catalog.csv", "problems.csv", "SHA256SUMS", "README.md", "croissant.json"),
        *("report.html", "candidates.zarr", "filter", "curated.zarr", ".driver", ".lock"),
    ),
)
"""A run directory. Trainings, exports and former curated sets that lie in it are folders of their own."""


class _RunFile(BaseModel):
    """What ``run.json`` holds besides its version."""

    model_config = _STRICT

    name: str
    fingerprint: str
    catalog_digest: str
    versions: dict[str, str]
    pipeline: dict[str, Any]


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
    """What ``build.json`` tells of a strategy: what comes later is not there at first."""

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
    """A round of a strategy's plan: all counts are of the whole plan so far, but the ``new`` candidates."""

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
    """What ``build.json`` holds."""

    model_config = _STRICT

    stages: dict[str, _Seconds] = {}
    strategies: dict[Strategy, _Entry] = {}
    rounds: list[_Round] = []  # not in runs of earlier versions
    finished: bool | None = None
    pixel_remarks: list[str] = []
    remarks: list[str] = []


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The paths of a run, and what its ``run.json`` says."""

    path: Location

    @property
    def run_file(self) -> Location:
        return self.path / "run.json"

    @property
    def build_file(self) -> Location:
        return self.path / "build.json"

    @property
    def candidates(self) -> Location:
        return self.path / "candidates.zarr"

    @property
    def curated(self) -> Location:
        return self.path / "curated.zarr"

    @property
    def filter(self) -> Location:
        return self.path / "filter"

    @property
    def training(self) -> Location:
        """The composites that train the filter: their own store, never curated."""
        return self.filter / "training.zarr"

    @property
    def split_file(self) -> Location:
        """Which groups train the filter and which validate it."""
        return self.filter / "split.json"

    def weights(self, strategy: Strategy) -> Location:
        return self.filter / f"{strategy}.safetensors"

    def report(self, strategy: Strategy) -> Location:
        """The metrics of a strategy's filter; there once its training is finished."""
        return self.filter / f"{strategy}.json"

    def unfinished(self, strategy: Strategy) -> Location:
        """The state of a filter's training after its latest epoch; gone once it is finished."""
        return self.filter / f"{strategy}.training"

    @property
    def sums_file(self) -> Location:
        """The digests of the small files; there once the run is finished."""
        return self.path / "SHA256SUMS"

    @property
    def report_page(self) -> Location:
        """What the run is, for people; made of the rest at the end of a build, and no part of what is verified."""
        return self.path / "report.html"

    @property
    def token(self) -> Location:
        """What a build leaves there while it runs, by which workers know the run."""
        return self.path / ".driver"

    def small_files(self) -> tuple[Location, ...]:
        """Return where all files lie that are no part of a Zarr store."""
        filters = [path(strategy) for strategy in STRATEGIES for path in (self.weights, self.report)]
        return (self.run_file, self.build_file, *self.tables(), self.split_file, *filters, *self.cards())

    def cards(self) -> tuple[Location, Location]:
        """Return where the data cards lie, for people and for machines; there once the run is finished."""
        return self.path / "README.md", self.path / "croissant.json"

    def tables(self) -> tuple[Location, Location]:
        """Return where the catalog and its problems lie."""
        return self.path / "catalog.csv", self.path / "problems.csv"

    def holds_composites(self) -> bool:
        """Whether any were made: from then on the run belongs to its patches and their pipeline."""
        return exists(self.candidates) or exists(self.training) or self.has_curated()

    def has_curated(self) -> bool:
        """Whether there is a curated set, or a part of one; the rest of one that was set aside is none."""
        return exists(self.curated) and not self._is_set_aside()

    def exists(self) -> bool:
        return exists(self.run_file)

    def sweep(self) -> None:
        """Remove what a process that was killed was writing or removing; nobody else may be building the run.

        Trainings and exports that lie in the run's folder are others' affair.
        """
        sweep(self.path, deep=False)
        for folder in (self.candidates, self.filter, self.curated):
            sweep(folder)
        with translate_errors(self.path, "cannot be written"):
            self.token.unlink(missing_ok=True)
            if self._is_set_aside():
                remove_rest(self.curated, next(self._former()))

    def read(self) -> dict[str, Any]:
        """Return what ``run.json`` holds.

        Raises
        ------
        StoreError
            There is none, it is damaged, or another version of synthpipe wrote it.
        """
        data = read_json(self.run_file)
        if data.get("format_version") != FORMAT_VERSION:
            found = data.get("format_version")
            raise StoreError(f"{self.run_file}: format_version is {found}, this synthpipe reads {FORMAT_VERSION}")
        if missing := _RunFile.model_fields.keys() - data.keys():
            raise StoreError(f"{self.run_file}: lacks {', '.join(sorted(missing))}; restore it, or build elsewhere")
        try:
            _RunFile.model_validate(data)
        except ValidationError as error:
            raise StoreError(f"{self.run_file}: {explain(error)}; restore it, or build elsewhere") from error
        if not _FINGERPRINT.fullmatch(data["fingerprint"]):  # it becomes part of a name
            found = repr(data["fingerprint"])[:80]
            raise StoreError(f"{self.run_file}: fingerprint is {found}, expected 64 hexadecimal digits; restore it")
        return data

    def journal(self) -> dict[str, Any]:
        """Return what ``build.json`` holds: seconds a stage, every strategy and its rounds, remarks, `finished`."""
        data = read_json(self.build_file) if exists(self.build_file) else {}
        try:
            _Journal.model_validate(data)
        except ValidationError as error:
            raise StoreError(f"{self.build_file}: {explain(error)}; {_HOW_TO_MEND}") from error
        for strategy, entry in data.get("strategies", {}).items():
            if (told := _JUDGED & entry.keys()) and told != _JUDGED:
                lacking = ", ".join(sorted(_JUDGED - told))
                raise StoreError(f"{self.build_file}: strategies.{strategy} lacks {lacking}; {_HOW_TO_MEND}")
        return {"stages": {}, "strategies": {}} | data

    def reopen(self) -> None:
        """Count the run as not finished from here on, which the lack of its digests says: it is about to change."""
        self.sums_file.unlink(missing_ok=True)
        journal = self.journal()
        if journal.pop("finished", None):
            write_json(self.build_file, journal)
        for path in (self.report_page, *self.cards()):
            path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what a build writes before its first composite: nothing has been made that could be used again."""
        for path in (self.split_file, self.build_file, *self.tables(), self.run_file):
            with translate_errors(path, "cannot be removed"):
                path.unlink(missing_ok=True)
        if isinstance(self.filter, Path):
            with suppress(OSError):  # there is none, or it holds something
                self.filter.rmdir()

    def pipeline(self) -> Pipeline:
        """Return the pipeline that the run was built from.

        Raises
        ------
        StoreError
            ``run.json`` is missing or damaged, or its pipeline is none that this version knows.
        """
        try:
            return Pipeline.model_validate(self.read()["pipeline"])
        except (KeyError, ValidationError) as error:
            raise StoreError(
                f"{self.run_file}: its pipeline is none that this synthpipe knows; it was written by another version, "
                "or is damaged: build into another directory"
            ) from error

    def write(self, pipeline: Pipeline, catalog_digest: str) -> None:
        """Record the pipeline, its fingerprint, the patches' digest, and the versions that the first shard had."""
        begun = self.exists() and self.holds_composites()
        write_json(
            self.run_file,
            {
                "format_version": FORMAT_VERSION,
                "name": pipeline.name,
                "fingerprint": pipeline.fingerprint(),
                "catalog_digest": catalog_digest,
                "versions": self.read()["versions"] if begun else versions(),
                "pipeline": pipeline.model_dump(mode="json"),
            },
        )

    def check(self, pipeline: Pipeline, extend: bool = False) -> None:
        """Refuse a pipeline that would not make what the run already holds.

        Settings of a stage may change until the stage has made something: after a build that stopped for low
        acceptance, for example, those of curation. With `extend`, a finished run may also be asked for more composites.

        Raises
        ------
        StaleRunError
            The message lists every setting that differs.
        """
        old = self.pipeline()
        made: list[Stage] = ["candidates"] if self.holds_composites() else []
        if exists(self.training):
            made.append("training")
        if any(exists(self.report(strategy)) for strategy in STRATEGIES):
            made.append("filter")
        if self.has_curated():
            made = ["candidates", "training", "filter", "curation"]
        found = [line for stage in made for line in differences(old.settings(stage), pipeline.settings(stage))]
        if not found or (extend and extended(old, pipeline) == found):
            return
        message = f"{self.path}: was made by another pipeline; build into another directory, or undo:"
        if extend:
            allowed = "more curation.wanted, and for rule threshold more curation.candidates and max_candidates"
            message = f"{self.path}: --extend allows {allowed}; build into another directory, or undo:"
        elif extended(old, pipeline) == found:
            message = f"{self.path}: is finished; give --extend to add composites, or undo:"
        raise StaleRunError("\n  ".join([message, *found]))

    def set_curated_aside(self) -> Location:
        """Give the curated set, which another is to replace, a name of its own, and return it.

        An extension that failed may have left a set of the same fingerprint: a number then tells them apart.
        """
        return set_aside(self.curated, self._former())

    def _is_set_aside(self) -> bool:
        """Whether all that is left of a curated set is the rest of one that lies under another name."""
        if not exists(self.curated) or exists(self.curated / ROOT) or not self.exists():
            return False
        return exists(next(self._former()) / ROOT)

    def _former(self) -> Iterator[Location]:
        """Yield where a former curated set may lie, the first choice first."""
        stem = f"curated-{self.read()['fingerprint'][:8]}"
        for number in chain([""], map("-{}".format, count(2))):
            yield self.path / f"{stem}{number}.zarr"


def extended(old: Pipeline, new: Pipeline) -> list[str]:
    """Return in which settings `new` asks for more composites of the kind that `old` made, which stay as they are.

    By rule ``top_k`` more candidates may replace some that were kept, so only `wanted` may grow.
    """
    keys = ("wanted",) if old.curation.rule == "top_k" else ("wanted", "candidates", "max_candidates")
    before, after = ({key: getattr(each.curation, key) for key in keys} for each in (old, new))
    found = list(differences({"curation": before}, {"curation": after}))
    grown = all(after[key][strategy] >= count for key in keys for strategy, count in before[key].items())
    return found if grown else []


def versions(filtered: bool = True) -> dict[str, str]:
    """Return the versions of Python and of the packages that decide what is made, `filtered` or only rendered."""
    found = {"python": platform.python_version()}
    for package in (each for each in _PACKAGES if filtered or each not in TORCH):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def read_json(path: Location) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    StoreError
        It is missing or damaged.
    """
    try:
        data = parse_json(read_regular(path, _MOST_JSON))
    except FileNotFoundError as error:
        raise StoreError(f"{path}: not found; expected a run that `synthpipe build` made") from error
    except AccessError:
        raise
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        raise StoreError(f"{path}: cannot be read as JSON: {found}; {_HOW_TO_MEND}") from error
    if not isinstance(data, dict):
        raise StoreError(f"{path}: holds {type(data).__name__}, expected an object; {_HOW_TO_MEND}")
    return data


def write_json(path: Location, data: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    write_atomically(path, json_text(data), durable=True)


def json_text(data: Mapping[str, Any]) -> str:
    """Return a JSON object as it is written to a file."""
    return json.dumps(data, indent=1) + "\n"
