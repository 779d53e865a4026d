"""Checking the files of a run that are no part of a Zarr store: what they follow from, and ``SHA256SUMS``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from synthpipe.build.preflight import check_patches, split_json
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import AccessError, CatalogError, FilterError, StoreError, SynthpipeError
from synthpipe.core.records import Reason, Strategy
from synthpipe.files.folders import irregular
from synthpipe.files.locations import Location, exists
from synthpipe.patches.catalog import Catalog, load_catalog, survey
from synthpipe.patches.layouts import read_layout
from synthpipe.storage.checksums import read_checksums, read_file, sha256
from synthpipe.storage.filter_report import load_report
from synthpipe.storage.nodes import METADATA
from synthpipe.storage.run import RUN, RunDirectory, json_text, read_json
from synthpipe.verification.faults import MADE_AGAIN, Fault

_SHA256 = re.compile("[0-9a-f]{64}")
_RETRAINED = (
    "give --repair: the filter is trained again, which gives the same weights on the same kind of machine only; or "
    "restore both files of it from a copy"
)
_RUN_FILE = "restore it from a copy: --repair cannot, since all else follows from it"
_CATALOG = "give --repair: it is made again from the patches, if these are as they were"


def found_by(error: SynthpipeError, path: Location) -> str:
    """Return what an error found in a file: without the file's name and what to do, which a fault says itself."""
    return str(error).removeprefix(f"{path}: ").partition("; ")[0]


def check_run_file(run: RunDirectory) -> tuple[Pipeline | None, list[Fault]]:
    """Return the run's pipeline, or None where nobody can tell it, with the faults of ``run.json``."""
    try:
        pipeline = run.pipeline()
        said = run.read()
    except StoreError as error:
        found = found_by(error, run.run_file)
        return None, [Fault("file", run.run_file, found, "the run's pipeline", _RUN_FILE, lasting=True)]
    if said["fingerprint"] != pipeline.fingerprint():
        found, expected = f"fingerprint {said['fingerprint']}", f"{pipeline.fingerprint()}, that of its pipeline"
        return None, [Fault("file", run.run_file, found, expected, _RUN_FILE, lasting=True)]
    return pipeline, []


def check_links(run: RunDirectory) -> list[Fault]:
    """Look for links, pipes and devices in a run: what they lead to is neither read nor removed."""
    cure = "remove it, or put a copy of what it stands for in its place: --repair touches nothing before"
    return [
        Fault("damaged", path, what, "a file or a folder", cure, lasting=True)
        for path, what in irregular(run.path, RUN.parts)
    ]


def check_sums(run: RunDirectory) -> list[Fault]:
    """Compare the small files of a finished run with ``SHA256SUMS``."""
    try:
        sums = read_checksums(run)
    except StoreError as error:
        cure = "give --repair: it is written anew, of the files as they are"
        found = found_by(error, run.sums_file)
        return [Fault("file", run.sums_file, found, "digests of the small files", cure, remove=(run.sums_file,))]
    faults = []
    for path, expected in sums.items():
        found = _digest(path)
        if found != expected:
            faults.append(_small_file(run, path, found, expected))
    return faults


def check_journal(run: RunDirectory) -> list[Fault]:
    """Check that ``build.json`` can be read."""
    try:
        run.journal()
    except StoreError as error:
        found = found_by(error, run.build_file)
        return [_small_file(run, run.build_file, found, "what the build tells of itself")]
    return []


def check_tally(run: RunDirectory, strategy: Strategy, expected: Mapping[Reason, int]) -> list[Fault]:
    """Compare what ``build.json``, where it can be read, tells of a strategy's verdicts."""
    try:
        found = run.journal()["strategies"][strategy]["verdicts"]
    except (StoreError, KeyError, TypeError) as error:
        found = repr(error)
    return [] if found == expected else [_small_file(run, run.build_file, f"verdicts {found}", f"{dict(expected)}")]


def check_filter_files(run: RunDirectory, pipeline: Pipeline, finished: bool) -> Iterator[Fault]:
    """Compare the filters' weights with their reports."""
    for strategy in pipeline.strategies:
        weights, report = run.weights(strategy), run.report(strategy)
        if not exists(report):
            if finished and pipeline.filter.enabled:
                yield _small_file(run, report, "nothing", "the report of a finished training")
            continue
        try:
            expected = load_report(report).model_sha256
        except FilterError as error:
            yield _small_file(run, report, found_by(error, report), "a filter's report")
            continue
        found = _digest(weights)
        if found != expected:
            yield _small_file(run, weights, found, f"{expected}, as {report.name} says")


def check_split(run: RunDirectory, pipeline: Pipeline, catalog: Catalog, finished: bool) -> Iterator[Fault]:
    """Compare ``split.json`` with the split that the pipeline gives."""
    if not pipeline.filter.enabled or not (finished or exists(run.split_file)):
        return
    expected = json_text(split_json(check_patches(pipeline, catalog))).encode()
    found = _digest(run.split_file)
    if found != sha256(expected):
        what = "another split" if _SHA256.fullmatch(found) else found
        yield Fault("file", run.split_file, what, "the split that the pipeline gives", replace=expected)


def find_catalog(
    run: RunDirectory, pipeline: Pipeline, trusted: bool, root: str | None
) -> tuple[Catalog | None, list[Fault]]:
    """Return the run's catalog: as stored where it is `trusted` and can be read, else from the patches at `root`.

    Without `root` they are sought where the pipeline says, but not behind URLs.

    None where neither is the one that the run was made from; the faults say why.
    """
    expected = str(run.read()["catalog_digest"])
    path, problems = run.tables()
    former: Catalog | None = None
    try:
        catalog = load_catalog(run.path, pipeline.taxonomy)
    except StoreError as error:
        path = problems if str(error).startswith(str(problems)) else path
        found = str(error).removeprefix(f"{path}").lstrip(": ")
        fault = Fault("file", path, found, "the catalog of the run's patches", _CATALOG)
    else:
        if catalog.digest == expected:
            former = catalog
        if trusted and former:
            return former, []
        fault = Fault("file", path, f"digest {catalog.digest}", f"{expected}, as run.json says", _CATALOG)
    try:
        catalog = _survey(pipeline, root, former)
    except (CatalogError, StoreError):
        catalog = Catalog(())
    if catalog.digest == expected:
        return catalog, [fault] if trusted else []
    cure = "restore it, or the patches, from a copy, or name them by --patches: those that were found give another"
    return None, [Fault("file", path, fault.found, fault.expected, cure, lasting=True)]


def _survey(pipeline: Pipeline, root: str | None, former: Catalog | None) -> Catalog:
    patches = pipeline.patches.model_copy(update={"root": root or pipeline.patches.root})
    if root is None and "://" in patches.root:
        return Catalog(())
    claims = read_layout(patches, pipeline.taxonomy)
    if root is None and any("://" in claim.path for claim in claims):
        return Catalog(())
    return survey(patches, pipeline.taxonomy, claims=claims, former=former, canvas=pipeline.canvas)


def scored_by(run: RunDirectory, strategy: Strategy, faulty: frozenset[Location]) -> str:
    """Return the digest of a strategy's filter, by the first witness that is not known to be wrong.

    Weights are known to be right by their digest in ``SHA256SUMS``; without that, the scores' own word comes first.
    """
    report, weights = run.report(strategy), run.weights(strategy)
    if report not in faulty and exists(report):
        return load_report(report).model_sha256
    digest = _digest(weights) if weights not in faulty and exists(weights) else ""
    if digest and run.sums_file not in faulty:
        return digest
    try:
        said = str(read_json(run.candidates / strategy / "p_real" / METADATA)["attributes"]["model_sha256"])
    except (SynthpipeError, KeyError, TypeError):
        return digest
    return said if _SHA256.fullmatch(said) else digest


def _digest(path: Location) -> str:
    """Return the digest of a file; where it has none, what is there instead."""
    try:
        return sha256(read_file(path))
    except FileNotFoundError:
        return "nothing"
    except AccessError:
        raise
    except OSError as error:
        return error.strerror or str(error)


def _small_file(run: RunDirectory, path: Location, found: str, expected: str) -> Fault:
    if path == run.run_file:
        return Fault("file", path, found, expected, _RUN_FILE, lasting=True)
    if path in run.tables():
        return Fault("file", path, found, expected, _CATALOG)
    if path == run.build_file:
        cure = "give --repair: it is written anew; seconds of stages that are done are lost"
        return Fault("file", path, found, expected, cure, remove=(path,))
    if path == run.split_file:
        return Fault("file", path, found, expected, MADE_AGAIN)
    if path in run.cards():
        return Fault("file", path, found, expected, MADE_AGAIN, remove=(path,))
    strategy_files = (path.with_suffix(".safetensors"), path.with_suffix(".json"))
    return Fault("file", path, found, expected, _RETRAINED, remove=strategy_files)
