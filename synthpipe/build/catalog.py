"""The catalog of a build: read from the patches, or loaded from the run that is resumed."""

from __future__ import annotations

from synthpipe.build.compatibility import check_same_patches
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.progress import Reporter
from synthpipe.patches.access import with_access
from synthpipe.patches.catalog import LISTED, Catalog, load_catalog, read_catalog
from synthpipe.patches.claims import problem_lines
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.quality.dropping import drop_donors
from synthpipe.storage.run import RunDirectory, versions


def read_run_catalog(pipeline: Pipeline, run: RunDirectory, reporter: Reporter, anew: bool) -> Catalog:
    """Read the patches if `anew`; otherwise load the catalog of the run.

    Raises
    ------
    SynthpipeError
        The patches cannot be read, or they differ from the patches of the run's composites.
    """
    if anew:
        claims = read_layout(pipeline.patches, pipeline.taxonomy)
        with reporter.stage("catalog", len(claims)) as advance:
            former = load_catalog(run.path, pipeline.taxonomy) if run.exists() and run.holds_composites() else None
            catalog = read_catalog(
                pipeline.patches,
                pipeline.taxonomy,
                lambda: advance(1),
                claims=claims,
                former=former,
                canvas=pipeline.canvas,
            )
        catalog = drop_donors(catalog, pipeline.donors, pipeline.taxonomy)
    else:
        catalog = load_catalog(run.path, pipeline.taxonomy)
        catalog = with_access(catalog, pipeline.patches, pipeline.taxonomy, reporter.note)
    check_same_patches(run, catalog)
    made_with, here = run.read()["versions"] if run.exists() else {}, versions(pipeline.filter.enabled)
    for package in sorted(here.keys() & made_with.keys()):
        if here[package] != made_with[package]:
            reporter.note(
                f"note: {run.path} was begun with {package} {made_with[package]}, but {here[package]} is installed"
            )
    if catalog.problems:
        left = len({problem.id for problem in catalog.problems})
        reporter.note(
            "\n  ".join(
                [
                    f"left out {left} patches; problems.csv in the run and `synthpipe index` list all:",
                    *problem_lines(catalog.problems, LISTED),
                ]
            )
        )
    return catalog
