"""The run directory: the paths of all files of a build, and the contents of its JSON files."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import AccessError, StoreError, explain
from synthpipe.core.packages import TORCH
from synthpipe.core.records import STRATEGIES, Strategy
from synthpipe.core.strict_json import parse_json
from synthpipe.files.folders import Kind, sweep
from synthpipe.files.locations import Location, exists, translate_errors
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import write_atomically
from synthpipe.storage.aside import ROOT, remove_rest, set_aside
from synthpipe.storage.journal import check_journal

FORMAT_VERSION = 1
_PACKAGES = ("synthpipe", "numpy", "opencv-python-headless", "bezier", "pillow", "zarr", "dask", "torch", "timm")
_MOST_JSON = 64 << 20  # bytes
_FINGERPRINT = re.compile("[0-9a-f]{64}")
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_HOW_TO_MEND = "`synthpipe verify RUN` shows how to repair it"
RUN = Kind(
    "run",
    ("run.json",),
    (
        *("run.json", "build.json", "catalog.csv", "problems.csv", "SHA256SUMS", "README.md", "croissant.json"),
        *("report.html", "candidates.zarr", "filter", "curated.zarr", ".driver", ".lock"),
    ),
)
"""The kind of a run directory. Trainings, exports and former curated sets inside a run do not belong to the run."""


class _RunFile(BaseModel):
    """The fields of ``run.json`` besides its version."""

    model_config = _STRICT

    name: str
    fingerprint: str
    catalog_digest: str
    versions: dict[str, str]
    pipeline: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The paths of a run, and the content of its JSON files."""

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
        """The Zarr store of the composites that train the filter. These composites never enter the curated set."""
        return self.filter / "training.zarr"

    @property
    def split_file(self) -> Location:
        """The file that lists which groups train the filter, and which groups validate the filter."""
        return self.filter / "split.json"

    def weights(self, strategy: Strategy) -> Location:
        return self.filter / f"{strategy}.safetensors"

    def report(self, strategy: Strategy) -> Location:
        """The report of a strategy's filter. The file exists when the filter is trained."""
        return self.filter / f"{strategy}.json"

    def unfinished(self, strategy: Strategy) -> Location:
        """The state of a filter's training after the latest epoch. A finished training removes this file."""
        return self.filter / f"{strategy}.training"

    @property
    def sums_file(self) -> Location:
        """The file with the checksums of the small files. A finished run has this file."""
        return self.path / "SHA256SUMS"

    @property
    def report_page(self) -> Location:
        """The report of the run. A build writes it at its end, and `verify` does not check it."""
        return self.path / "report.html"

    @property
    def token(self) -> Location:
        """A file that exists while a build runs. Workers read the file to recognize the run."""
        return self.path / ".driver"

    def small_files(self) -> tuple[Location, ...]:
        """Return the paths of the files outside the Zarr stores that have checksums in a finished run."""
        filters = [path(strategy) for strategy in STRATEGIES for path in (self.weights, self.report)]
        return (self.run_file, self.build_file, *self.tables(), self.split_file, *filters, *self.cards())

    def cards(self) -> tuple[Location, Location]:
        """Return the paths of the data cards for people and for machines. A finished run has both."""
        return self.path / "README.md", self.path / "croissant.json"

    def tables(self) -> tuple[Location, Location]:
        """Return the paths of the catalog and of the list of problems."""
        return self.path / "catalog.csv", self.path / "problems.csv"

    def holds_composites(self) -> bool:
        """Return whether the run has composites. If so, its patches and composite settings cannot change."""
        return exists(self.candidates) or exists(self.training) or self.has_curated()

    def has_curated(self) -> bool:
        """Return True if the run has a complete or partial curated set. Leftovers of a moved set do not count."""
        return exists(self.curated) and not self._is_set_aside()

    def exists(self) -> bool:
        return exists(self.run_file)

    def sweep(self) -> None:
        """Remove the temporary files of a killed process. Call this only while no other process builds the run.

        Trainings and exports inside the run are not touched.
        """
        sweep(self.path, deep=False)
        for folder in (self.candidates, self.filter, self.curated):
            sweep(folder)
        with translate_errors(self.path, "cannot be written"):
            self.token.unlink(missing_ok=True)
            if self._is_set_aside():
                remove_rest(self.curated, next(self._former()))

    def read(self) -> dict[str, Any]:
        """Return the content of ``run.json``.

        Raises
        ------
        StoreError
            The file is missing or damaged, or another version of synthpipe wrote it.
        """
        data = read_json(self.run_file)
        if data.get("format_version") != FORMAT_VERSION:
            found = data.get("format_version")
            raise StoreError(f"{self.run_file}: format_version is {found}, this synthpipe reads {FORMAT_VERSION}")
        if missing := _RunFile.model_fields.keys() - data.keys():
            raise StoreError(
                f"{self.run_file}: missing fields: {', '.join(sorted(missing))}; restore the file, or build elsewhere"
            )
        try:
            _RunFile.model_validate(data)
        except ValidationError as error:
            raise StoreError(f"{self.run_file}: {explain(error)}; restore the file, or build elsewhere") from error
        if not _FINGERPRINT.fullmatch(data["fingerprint"]):  # file names contain it
            found = repr(data["fingerprint"])[:80]
            raise StoreError(
                f"{self.run_file}: fingerprint is {found}, expected 64 hexadecimal digits; restore the file"
            )
        return data

    def journal(self) -> dict[str, Any]:
        """Return the content of ``build.json``, such as the seconds of each stage and the results of each strategy."""
        data = read_json(self.build_file) if exists(self.build_file) else {}
        check_journal(self.build_file, data)
        return {"stages": {}, "strategies": {}} | data

    def reopen(self) -> None:
        """Mark the run as not finished before it changes. Remove its checksums, report and data cards."""
        self.sums_file.unlink(missing_ok=True)
        journal = self.journal()
        if journal.pop("finished", None):
            write_json(self.build_file, journal)
        for path in (self.report_page, *self.cards()):
            path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the files that a build writes before its first composite."""
        for path in (self.split_file, self.build_file, *self.tables(), self.run_file):
            with translate_errors(path, "cannot be removed"):
                path.unlink(missing_ok=True)
        if isinstance(self.filter, Path):
            with suppress(OSError):  # the folder does not exist, or has files
                self.filter.rmdir()

    def pipeline(self) -> Pipeline:
        """Return the pipeline that the run was built from.

        Raises
        ------
        StoreError
            ``run.json`` is missing or damaged, or this version cannot read its pipeline.
        """
        try:
            return Pipeline.model_validate(self.read()["pipeline"])
        except (KeyError, ValidationError) as error:
            raise StoreError(
                f"{self.run_file}: this version cannot read the pipeline, because another version wrote the file, or "
                "the file is damaged; build into another directory"
            ) from error

    def write(self, pipeline: Pipeline, catalog_digest: str) -> None:
        """Write ``run.json``: the pipeline, its fingerprint, the digest of the patches, and the package versions.

        If the run has composites, the file keeps the versions that rendered the first shard.
        """
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

    def set_curated_aside(self) -> Location:
        """Move the curated set to another name, so that a larger set can replace it. Return the new path.

        The new name contains the fingerprint. If a failed extension left a set of that name, a number is added.
        """
        return set_aside(self.curated, self._former())

    def _is_set_aside(self) -> bool:
        """Return whether the curated set's folder has only leftovers of a set that was moved to another name."""
        if not exists(self.curated) or exists(self.curated / ROOT) or not self.exists():
            return False
        return exists(next(self._former()) / ROOT)

    def _former(self) -> Iterator[Location]:
        """Yield possible paths of a former curated set, in order of preference."""
        stem = f"curated-{self.read()['fingerprint'][:8]}"
        for number in chain([""], map("-{}".format, count(2))):
            yield self.path / f"{stem}{number}.zarr"


def versions(filtered: bool = True) -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the bytes of a run.

    Without a filter (`filtered` is false), torch and timm are left out.
    """
    return versions_of(each for each in _PACKAGES if filtered or each not in TORCH)


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of the given packages."""
    found = {"python": platform.python_version()}
    for package in packages:
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
        The file is missing or damaged.
    """
    try:
        data = parse_json(read_regular(path, _MOST_JSON))
    except FileNotFoundError as error:
        raise StoreError(f"{path}: not found; expected a file of a run that `synthpipe build` wrote") from error
    except AccessError:
        raise
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        raise StoreError(f"{path}: cannot be read as JSON: {found}; {_HOW_TO_MEND}") from error
    if not isinstance(data, dict):
        raise StoreError(f"{path}: contains a {type(data).__name__}, expected a JSON object; {_HOW_TO_MEND}")
    return data


def write_json(path: Location, data: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    write_atomically(path, json_text(data), durable=True)


def json_text(data: Mapping[str, Any]) -> str:
    """Return a JSON object as text, formatted like the files of a run."""
    return json.dumps(data, indent=1) + "\n"
