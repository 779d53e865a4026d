"""Check the small files of a run against ``SHA256SUMS``, and against their sources."""

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
from synthpipe.patches.quality.dropping import drop_donors
from synthpipe.storage.checksums import read_checksums, read_file, sha256
from synthpipe.storage.filter_report import load_report
from synthpipe.storage.nodes import METADATA
from synthpipe.storage.run import RUN, RunDirectory, json_text, read_json
from synthpipe.verification.faults import MAKE_AGAIN, Fault

_SHA256 = re.compile("[0-9a-f]{64}")
_RETRAINED = (
    "give --repair to train the filter again, which gives the same weights only on the same kind of machine; or "
    "restore the filter's weights and report from a copy"
)
_RUN_FILE = "restore it from a copy: --repair cannot make this file again, because everything else depends on it"
_CATALOG = "give --repair to make the catalog again from the patches, if the patches have not changed"


def error_summary(error: SynthpipeError, path: Location) -> str:
    """Return the part of an error's message between the file's name and the advice."""
    return str(error).removeprefix(f"{path}: ").partition("; ")[0]


def check_run_file(run: RunDirectory) -> tuple[Pipeline | None, list[Fault]]:
    """Return the run's pipeline and the faults of ``run.json``. The pipeline is None if the file is damaged."""
    try:
        pipeline = run.pipeline()
        stored = run.read()
    except StoreError as error:
        found = error_summary(error, run.run_file)
        return None, [Fault("file", run.run_file, found, "the run's pipeline", _RUN_FILE, permanent=True)]
    if stored["fingerprint"] != pipeline.fingerprint():
        found = f"fingerprint {stored['fingerprint']}"
        expected = f"{pipeline.fingerprint()}, the fingerprint of its pipeline"
        return None, [Fault("file", run.run_file, found, expected, _RUN_FILE, permanent=True)]
    return pipeline, []


def check_links(run: RunDirectory) -> list[Fault]:
    """Return a fault for each link, pipe and device in a run. These entries are not followed, read or removed."""
    cure = "remove it, or replace it by a copy of its target; until then, --repair changes nothing"
    return [
        Fault("damaged", path, what, "a file or a folder", cure, permanent=True)
        for path, what in irregular(run.path, RUN.parts)
    ]


def check_checksums(run: RunDirectory) -> list[Fault]:
    """Compare the small files of a finished run with ``SHA256SUMS``."""
    try:
        checksums = read_checksums(run)
    except StoreError as error:
        cure = "give --repair to write the checksums of the existing files"
        found = error_summary(error, run.sums_file)
        return [Fault("file", run.sums_file, found, "digests of the small files", cure, remove=(run.sums_file,))]
    faults = []
    for path, expected in checksums.items():
        found = _digest(path)
        if found != expected:
            faults.append(_small_file(run, path, found, expected))
    return faults


def check_journal(run: RunDirectory) -> list[Fault]:
    """Return a fault if ``build.json`` cannot be read."""
    try:
        run.journal()
    except StoreError as error:
        found = error_summary(error, run.build_file)
        return [_small_file(run, run.build_file, found, "the journal of the build")]
    return []


def check_verdict_counts(run: RunDirectory, strategy: Strategy, expected: Mapping[Reason, int]) -> list[Fault]:
    """Compare a strategy's counts of verdicts in ``build.json`` with the expected counts."""
    try:
        found = run.journal()["strategies"][strategy]["verdicts"]
    except (StoreError, KeyError, TypeError) as error:
        found = repr(error)
    return [] if found == expected else [_small_file(run, run.build_file, f"verdicts {found}", f"{dict(expected)}")]


def check_filter_files(run: RunDirectory, pipeline: Pipeline, finished: bool) -> Iterator[Fault]:
    """Compare the weights of each filter with the checksum in its report."""
    for strategy in pipeline.strategies:
        weights, report = run.weights(strategy), run.report(strategy)
        if not exists(report):
            if finished and pipeline.filter.enabled:
                yield _small_file(run, report, "nothing", "the report of a finished training")
            continue
        try:
            expected = load_report(report).model_sha256
        except FilterError as error:
            yield _small_file(run, report, error_summary(error, report), "a filter's report")
            continue
        found = _digest(weights)
        if found != expected:
            yield _small_file(run, weights, found, f"{expected}, the SHA-256 in {report.name}")


def check_split(run: RunDirectory, pipeline: Pipeline, catalog: Catalog, finished: bool) -> Iterator[Fault]:
    """Compare ``split.json`` with the split that the pipeline makes of the patches."""
    if not pipeline.filter.enabled or not (finished or exists(run.split_file)):
        return
    expected = json_text(split_json(check_patches(pipeline, catalog))).encode()
    found = _digest(run.split_file)
    if found != sha256(expected):
        what = "another split" if _SHA256.fullmatch(found) else found
        yield Fault("file", run.split_file, what, "the split that the pipeline makes", replace=expected)


def find_catalog(
    run: RunDirectory, pipeline: Pipeline, trusted: bool, root: str | None
) -> tuple[Catalog | None, list[Fault]]:
    """Return the run's catalog and the faults of its files.

    The catalog is None if neither the stored catalog nor the catalog of the patches matches the digest in ``run.json``.

    Parameters
    ----------
    run, pipeline : RunDirectory and Pipeline
        The run and its pipeline.
    trusted : bool
        Whether the stored catalog has the right checksum. Otherwise the patches are read.
    root : str or None
        The location of the patches (default: the location in the pipeline, unless it is a URL).
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
        fault = Fault("file", path, f"digest {catalog.digest}", f"{expected}, the digest in run.json", _CATALOG)
    try:
        catalog = _survey(pipeline, root, former)
    except (CatalogError, StoreError):
        catalog = Catalog(())
    if catalog.digest == expected:
        return catalog, [fault] if trusted else []
    cure = (
        "restore it or the patches from a copy, or give the location of the patches with --patches: the available "
        "patches give another catalog"
    )
    return None, [Fault("file", path, fault.found, fault.expected, cure, permanent=True)]


def _survey(pipeline: Pipeline, root: str | None, former: Catalog | None) -> Catalog:
    patches = pipeline.patches.model_copy(update={"root": root or pipeline.patches.root})
    if (root is None and "://" in patches.root) or "://" in (pipeline.donors.quality or ""):
        return Catalog(())
    claims = read_layout(patches, pipeline.taxonomy)
    if root is None and any("://" in claim.path for claim in claims):
        return Catalog(())
    catalog = survey(patches, pipeline.taxonomy, claims=claims, former=former, canvas=pipeline.canvas)
    return drop_donors(catalog, pipeline.donors, pipeline.taxonomy)


def scoring_model(run: RunDirectory, strategy: Strategy, faulty: frozenset[Location]) -> str:
    """Return the digest of the filter that scored a strategy's candidates, from the most reliable file without a fault.

    The filter's report is most reliable. Then follow weights that ``SHA256SUMS`` confirms, the metadata of the scores,
    and weights that ``SHA256SUMS`` does not confirm.
    """
    report, weights = run.report(strategy), run.weights(strategy)
    if report not in faulty and exists(report):
        return load_report(report).model_sha256
    digest = _digest(weights) if weights not in faulty and exists(weights) else ""
    if digest and run.sums_file not in faulty:
        return digest
    try:
        stored = str(read_json(run.candidates / strategy / "p_real" / METADATA)["attributes"]["model_sha256"])
    except (SynthpipeError, KeyError, TypeError):
        return digest
    return stored if _SHA256.fullmatch(stored) else digest


def _digest(path: Location) -> str:
    """Return the SHA-256 of a file. If the file cannot be read, return ``nothing`` or the text of the error."""
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
        return Fault("file", path, found, expected, _RUN_FILE, permanent=True)
    if path in run.tables():
        return Fault("file", path, found, expected, _CATALOG)
    if path == run.build_file:
        cure = "give --repair to write the journal again, without the seconds of the finished stages"
        return Fault("file", path, found, expected, cure, remove=(path,))
    if path == run.split_file:
        return Fault("file", path, found, expected, MAKE_AGAIN)
    if path in run.cards():
        return Fault("file", path, found, expected, MAKE_AGAIN, remove=(path,))
    strategy_files = (path.with_suffix(".safetensors"), path.with_suffix(".json"))
    return Fault("file", path, found, expected, _RETRAINED, remove=strategy_files)
