"""The run directory: where everything of a build lies, and the guard that keeps one run to one pipeline."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from synthpipe.config import Pipeline, Stage, differences
from synthpipe.errors import StaleRunError, StoreError
from synthpipe.files import write_atomically
from synthpipe.records import STRATEGIES, Strategy

FORMAT_VERSION = 1
_PACKAGES = ("synthpipe", "numpy", "opencv-python-headless", "bezier", "pillow", "zarr", "dask", "torch", "timm")
_RUN_KEYS = {"name", "fingerprint", "catalog_digest", "versions", "pipeline"}


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The paths of a run, and what its ``run.json`` says."""

    path: Path

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def build_file(self) -> Path:
        return self.path / "build.json"

    @property
    def candidates(self) -> Path:
        return self.path / "candidates.zarr"

    @property
    def curated(self) -> Path:
        return self.path / "curated.zarr"

    @property
    def filter(self) -> Path:
        return self.path / "filter"

    @property
    def training(self) -> Path:
        """The composites that train the filter: their own store, never curated."""
        return self.filter / "training.zarr"

    @property
    def split_file(self) -> Path:
        """Which groups train the filter and which validate it."""
        return self.filter / "split.json"

    def weights(self, strategy: Strategy) -> Path:
        return self.filter / f"{strategy}.safetensors"

    def report(self, strategy: Strategy) -> Path:
        """The metrics of a strategy's filter; there once its training is finished."""
        return self.filter / f"{strategy}.json"

    @property
    def sums_file(self) -> Path:
        """The digests of the small files; there once the run is finished."""
        return self.path / "SHA256SUMS"

    def small_files(self) -> tuple[Path, ...]:
        """Return where all files lie that are no part of a Zarr store."""
        filters = [path(strategy) for strategy in STRATEGIES for path in (self.weights, self.report)]
        return (self.run_file, self.build_file, *self.tables(), self.split_file, *filters)

    def tables(self) -> tuple[Path, Path]:
        """Return where the catalog and its problems lie."""
        return self.path / "catalog.csv", self.path / "problems.csv"

    def holds_composites(self) -> bool:
        """Whether any were made: from then on the run belongs to its patches and their pipeline."""
        return self.candidates.exists() or self.training.exists()

    def exists(self) -> bool:
        return self.run_file.is_file()

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
        if missing := _RUN_KEYS - data.keys():
            raise StoreError(f"{self.run_file}: lacks {', '.join(sorted(missing))}; restore it, or build elsewhere")
        return data

    def journal(self) -> dict[str, Any]:
        """Return what ``build.json`` holds: seconds a stage, what became of every strategy, whether it is finished."""
        data = read_json(self.build_file) if self.build_file.exists() else {}
        return {"stages": {}, "strategies": {}} | data

    def reopen(self) -> None:
        """Count the run as not finished from here on: it is about to change."""
        self.sums_file.unlink(missing_ok=True)
        journal = self.journal()
        if journal.pop("finished", None):
            write_json(self.build_file, journal)

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

    def check(self, pipeline: Pipeline) -> None:
        """Refuse a pipeline that would not make what the run already holds.

        Settings of a stage may change until the stage has made something: after a build that stopped for low
        acceptance, for example, those of curation.

        Raises
        ------
        StaleRunError
            The message lists every setting that differs.
        """
        old = self.pipeline()
        made: list[Stage] = ["candidates"] if self.holds_composites() else []
        if self.training.exists():
            made.append("training")
        if any(self.report(strategy).exists() for strategy in STRATEGIES):
            made.append("filter")
        if self.curated.exists():
            made = ["candidates", "training", "filter", "curation"]
        found = [line for stage in made for line in differences(old.settings(stage), pipeline.settings(stage))]
        if found:
            raise StaleRunError(
                "\n  ".join(
                    [f"{self.path}: was made by another pipeline; build into another directory, or undo:", *found]
                )
            )

    def check_patches(self, catalog_digest: str) -> None:
        """Refuse patches other than those that the run was made from.

        Raises
        ------
        StaleRunError
            Their digest differs.
        """
        if self.holds_composites() and self.read()["catalog_digest"] != catalog_digest:
            raise StaleRunError(
                f"{self.path}: was made from other patches than there are now; compare catalog.csv with "
                "`synthpipe index`, then restore the patches or build into another directory"
            )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide what is made."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    StoreError
        It is missing or damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path}: not found; expected a run that `synthpipe build` made") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as JSON: {error}; remove it and build again") from error
    if not isinstance(data, dict):
        raise StoreError(f"{path}: holds {type(data).__name__}, expected an object; remove it and build again")
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    write_atomically(path, json_text(data))


def json_text(data: Mapping[str, Any]) -> str:
    """Return a JSON object as it is written to a file."""
    return json.dumps(data, indent=1) + "\n"
