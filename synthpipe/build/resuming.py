"""Checks and steps before a build resumes or extends a run that exists."""

from __future__ import annotations

import shutil
from pathlib import Path

from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import StaleRunError
from synthpipe.files.folders import claim
from synthpipe.files.locations import Location
from synthpipe.patches.catalog import Catalog
from synthpipe.storage.changes import check_pipeline
from synthpipe.storage.run import RUN, RunDirectory
from synthpipe.storage.store import Store


def check_run(run: RunDirectory, pipeline: Pipeline, extend: bool) -> None:
    """Refuse a directory in which the pipeline cannot build.

    Raises
    ------
    SynthpipeError
        Another pipeline made the run, its ``run.json`` is missing, or the directory holds something else.
    """
    if run.exists():
        check_pipeline(run, pipeline, extend)
    elif run.holds_composites():
        raise StaleRunError(
            f"{run.path}: holds composites but no run.json; restore it, or build into another directory"
        )
    else:
        claim(run.path, RUN)


def asks_the_same(made: Pipeline, asked: Pipeline) -> bool:
    """Return whether a finished run has the same settings as a pipeline."""
    keys = {"patches", "curation", "license"}  # the stored form: credentials of patches.root do not count
    return made.model_dump(include=keys) == asked.model_dump(include=keys)


def asks_for_more(run: RunDirectory, pipeline: Pipeline) -> bool:
    """Return whether a larger curated set must replace the existing one."""
    return run.has_curated() and run.pipeline().curation != pipeline.curation


def check_stores(run: RunDirectory) -> None:
    """Raise an error if metadata of the composites is damaged. This happens before the existing curated set is moved.

    Raises
    ------
    StoreError
        The message names the file.
    """
    for path in (run.training, run.candidates):
        store = Store.find(path)
        for strategy in store.groups() if store else ():
            Store.open(path, strategy).names()


def reopen(run: RunDirectory, pipeline: Pipeline, catalog: Catalog, broken: frozenset[Location]) -> None:
    """Mark the run as not finished, remove broken files, and record the pipeline of the build."""
    if run.build_file.absolute() in broken:  # the broken file may have any content
        run.build_file.unlink(missing_ok=True)
    run.reopen()
    for path in broken:
        if isinstance(path, Path) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    run.write(pipeline, catalog.digest)
