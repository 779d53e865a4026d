"""Verify a whole run: small files, metadata, every shard, verdicts, curated set, and re-rendered composites.

A verification writes nothing. Threads read and check the shards, and each thread holds one shard in memory. Threads
are enough, because reading, checksums, decoders and class counts release the interpreter lock. Starting processes would
take longer than checking a small run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import numpy as np

from synthpipe.build.curated_set import part_of, used_donors, verdicts_of_shard
from synthpipe.build.curation import Kept, Verdicts, tally
from synthpipe.build.tasks import curated_shard, group_numbers
from synthpipe.build.verdicts import judge_finished
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import StoreError
from synthpipe.core.progress import Reporter
from synthpipe.core.records import Strategy
from synthpipe.core.threads import available_cores, in_threads
from synthpipe.files.locations import Location, exists, translate_errors
from synthpipe.patches.access import find_patches, unread_message
from synthpipe.patches.catalog import Catalog
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.shards import shards_of
from synthpipe.storage.stores import CompositeStore
from synthpipe.verification.donors import check_donor_pixels, expected_donors
from synthpipe.verification.expected import ExpectedGroup, check_group, expected_composites, expected_curated
from synthpipe.verification.extras import check_extras, note_extras
from synthpipe.verification.faults import CheckResult, Fault, VerifyReport
from synthpipe.verification.file_checks import (
    check_checksums,
    check_filter_files,
    check_journal,
    check_links,
    check_run_file,
    check_split,
    check_verdict_counts,
    error_summary,
    find_catalog,
    scoring_model,
)
from synthpipe.verification.objects import CompositeCheck, check_composites, check_curated, read_shard
from synthpipe.verification.rendering import Rerender, check_patch_files, open_rerender


def verify(
    path: Location, samples: int, reporter: Reporter, patches: bool | None = None, root: str | None = None
) -> VerifyReport:
    """Check every file of a run, finished or not, and write nothing.

    Parameters
    ----------
    path : Path or UPath
        The run directory.
    samples : int
        For each strategy, how many candidates and how many filter composites to sample and render again. Each call
        draws other composites at random.
    reporter : Reporter
        Receives the progress.
    patches : bool, optional
        Whether to read the patches; by default only if `samples` is not 0.
    root : str, optional
        The current location of the patches, as in ``patches.root``. Without it, patches behind URLs are not read.

    Raises
    ------
    StoreError
        There is no run at `path`.
    CatalogError
        `root` lacks some of the patches.
    """
    run = RunDirectory(path)
    with translate_errors(path, "cannot be read"):
        is_run = path.is_dir() and (run.exists() or exists(run.build_file) or run.holds_composites())
    if not is_run:
        raise StoreError(f"{path}: is not a run directory; expected one that `synthpipe build` made")
    return _Verification(run, samples, reporter, samples > 0 if patches is None else patches, root).result()


class _Verification:
    """The state of one verification: its settings, and the faults and notes so far."""

    def __init__(self, run: RunDirectory, samples: int, reporter: Reporter, patches: bool, root: str | None) -> None:
        self.run, self.samples, self.reporter, self.patches, self.root = run, samples, reporter, patches, root
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.objects = self.size = self.rendered = 0
        self.unread = False
        self.links = check_links(run)
        journal = self.links or check_journal(run)
        self.finished = exists(run.sums_file) or bool(not journal and run.journal().get("finished"))
        self.faults += journal

    def result(self) -> VerifyReport:
        """Check everything and return the report."""
        start = time.monotonic()
        self._check()
        faults = tuple(_merged(self.faults))
        seconds = time.monotonic() - start
        notes = tuple(self.notes)
        counts = self.objects, self.size, self.rendered
        return VerifyReport(self.run.path, self.finished, faults, notes, *counts, seconds, self.unread)

    def _check(self) -> None:
        run = self.run
        if self.links:
            self.notes.append("nothing else was checked: a run must not contain links, pipes or devices")
            return
        pipeline, faults = check_run_file(run)
        self.faults += faults
        if self.finished:
            self.faults += check_checksums(run)
        files = [file for file in (*run.small_files(), run.sums_file) if exists(file)]
        self.objects, self.size = len(files), sum(file.stat().st_size for file in files)
        if pipeline is None or run.run_file in self._faulty():
            self.notes.append("the Zarr stores were not checked: their expected content follows from run.json")
            return
        trusted = not self._faulty().intersection(run.tables())
        catalog, faults = find_catalog(run, pipeline, trusted, self.root)
        self.faults += faults
        if catalog is None:
            self.notes.append("the Zarr stores were not checked: their expected content follows from catalog.csv")
            return
        self.faults += check_split(run, pipeline, catalog, self.finished)
        filter_faults = check_filter_files(run, pipeline, self.finished)
        # a fault in the weights or the report of a filter was named already: one of them is wrong, not both
        self.faults += (each for each in filter_faults if not self._faulty().intersection(each.remove))
        catalog = self._locate_patches(catalog, pipeline)
        altered = self._check_patches(catalog)
        groups = self._expected_groups(pipeline)
        for group in groups:
            self._add(check_group(group))
            self.faults += check_extras(group)
        self.notes += note_extras(groups)
        with ExitStack() as stack:
            rerender: Rerender | None = None
            if self.samples:
                with self.reporter.stage("donors", len(catalog.donors)) as advance:
                    rerender = stack.enter_context(open_rerender(run, pipeline, catalog, altered, advance))
            verdicts = self._check_composites(groups, pipeline, catalog, rerender)
        self._check_curated(verdicts, pipeline, catalog)

    def _locate_patches(self, catalog: Catalog, pipeline: Pipeline) -> Catalog:
        """Return the catalog with the current locations of the patches.

        Patches behind URLs are not read unless the user named their location.
        """
        if not self.patches:
            return catalog
        if catalog.hosts and self.root is None:
            self.notes.append(
                f"no patch was read and no composite rendered: {unread_message(catalog, pipeline.patches)}"
            )
            self.patches, self.samples, self.unread = False, 0, True
            return catalog
        return find_patches(catalog, pipeline.patches, pipeline.taxonomy, self.root, self.run.path)

    def _check_patches(self, catalog: Catalog) -> frozenset[str]:
        """Check the patches. Return the ids of the patches that are missing or have changed."""
        if not self.patches:
            return frozenset()
        with self.reporter.stage("patches", len(catalog.patches)) as advance:
            altered = check_patch_files(catalog, advance)
        self.faults += altered.values()
        return frozenset(altered)

    def _expected_groups(self, pipeline: Pipeline) -> list[ExpectedGroup]:
        """Return the expected groups of composites. Add notes about groups that are not built yet."""
        run, faulty, finished = self.run, self._faulty(), self.finished
        found = dict[Location, ExpectedGroup | None]()
        for strategy in pipeline.strategies:
            model = scoring_model(run, strategy, faulty)
            composites = partial(expected_composites, run, pipeline, strategy, finished=finished, model=model)
            if (training := composites("filter")) or pipeline.filter.enabled:
                found[run.training / strategy] = training
            found[run.candidates / strategy] = composites("candidate")
        if not finished:
            self.notes += ["the run is not finished", *_unfinished_notes(found)]
            filters = [run.report(each) for each in pipeline.strategies if pipeline.filter.enabled]
            self.notes += [f"{report}: the filter is not trained yet" for report in filters if not exists(report)]
        return [group for group in found.values() if group]

    def _check_composites(
        self, groups: list[ExpectedGroup], pipeline: Pipeline, catalog: Catalog, rerender: Rerender | None
    ) -> dict[Strategy, Verdicts]:
        """Check the shards of all composites. Return the recomputed verdicts of each strategy without faults."""
        numbers = {patch.id: number for number, patch in enumerate(catalog.donors)}
        verdicts: dict[Strategy, Verdicts] = {}
        for group in groups:
            if group.strategy is None or group.purpose is None:
                continue
            chosen = frozenset[int]()
            if rerender and (group.purpose == "candidate" or self._has_split(pipeline)):
                chosen = _choose(group, self.samples)
                self.rendered += len(chosen)
            bound = partial(rerender, group.strategy, group.purpose) if rerender else lambda index, recipe: None
            check = CompositeCheck(pipeline, numbers, bound, chosen)
            self._check_shards(group, partial(_check_composite_shard, group, check))
            if group.purpose == "candidate" and self.finished and _is_sound(group.path, self._faulty()):
                try:
                    verdicts[group.strategy] = self._check_verdicts(group, group.strategy, pipeline)
                except StoreError as error:  # intact shards, but fewer than the plan needs
                    summary = error_summary(error, group.path)
                    self.faults.append(Fault("contradiction", group.path, summary, "all candidates of the plan"))
        return verdicts

    def _check_verdicts(self, group: ExpectedGroup, strategy: Strategy, pipeline: Pipeline) -> Verdicts:
        """Judge the candidates again, and compare the verdicts with the stored verdicts and with the journal."""
        judged = judge_finished(pipeline, strategy, CompositeStore.open(self.run.candidates, strategy))
        self.faults += check_verdict_counts(self.run, strategy, tally(judged.verdicts))
        stored = group.arrays["verdict"]
        for shard in shards_of(group.length, group.shard):
            path = stored.object(shard)
            try:
                found = stored.decode(stored.read(shard))
            except OSError:  # includes DamageError
                continue  # reported already
            wrong = np.flatnonzero(found != verdicts_of_shard(judged.verdicts, shard, group.shard))
            for position in wrong[:1]:
                index = shard * group.shard + int(position)
                expected = "the verdicts that curation gives for the stored scores"
                what = f"{len(wrong)} wrong verdicts, the first for candidate {index}"
                # the scores may be wrong instead, so a repair makes them again too
                scores = group.arrays["p_real"].object(shard) if "p_real" in group.arrays else None
                remove = (path, scores) if scores else (path,)
                self.faults.append(Fault("contradiction", path, what, expected, remove=remove))
        return judged.verdicts

    def _check_curated(self, verdicts: Mapping[Strategy, Verdicts], pipeline: Pipeline, catalog: Catalog) -> None:
        """Check the curated set. If the candidates have no faults, compare the set with the candidates."""
        kept = {strategy: Kept(codes) for strategy, codes in verdicts.items()}
        comparable = self.finished and kept.keys() == set(pipeline.strategies)
        count = sum(map(len, kept.values())) if comparable else None
        group = expected_curated(self.run, pipeline, catalog, self.finished, count)
        aside = sorted(self.run.path.glob("curated-*.zarr"))
        self.notes += [f"{each}: not checked: an earlier curated set that --extend moved here" for each in aside]
        if group is None:
            self.notes.append(f"{self.run.curated}: not built yet")
            return
        donors = self._expected_donors(kept, pipeline, catalog) if pipeline.virtual else None
        for each in filter(None, (group, donors)):
            self._add(check_group(each))
            self.faults += check_extras(each)
        self.notes += note_extras([group, *([donors] if donors else [])])
        if self.finished and not comparable:
            self.notes.append(f"{group.path}: not compared with its candidates, which have faults")
        elif not self.finished:
            self.notes += _unfinished_notes({group.path: group})
        numbers = group_numbers([patch.group for patch in catalog.donors])

        def check(shard: int) -> CheckResult:
            samples, result = read_shard(group, shard)
            origins = part_of(kept, shard * group.shard, (shard + 1) * group.shard)
            expected = curated_shard(pipeline, self.run, group.store, origins, numbers) if comparable else None
            faults = check_curated(group, shard, samples, expected, len(pipeline.classes))
            return replace(result, faults=result.faults + faults)

        self._check_shards(group, check)
        if donors:
            self._check_shards(donors, lambda shard: read_shard(donors, shard)[1])
            if self.samples and not any(donors.path in path.parents for path in self._faulty()):
                self.faults += check_donor_pixels(self.run, pipeline, catalog, self.samples)

    def _expected_donors(
        self, kept: Mapping[Strategy, Kept], pipeline: Pipeline, catalog: Catalog
    ) -> ExpectedGroup | None:
        """Return the expected donors of a virtual curated set, or None if the table of donors has a fault."""
        used = used_donors(self.run, kept, len(catalog.donors), pipeline.store.shard)
        group, fault = expected_donors(self.run, pipeline, catalog, used, self.finished)
        self.faults += filter(None, (fault,))
        return group

    def _check_shards(self, group: ExpectedGroup, check: Callable[[int], CheckResult]) -> None:
        shards = group.shards()
        name = "/".join(group.path.parts[len(self.run.path.parts) :])
        with self.reporter.stage(f"{name}, shards", len(shards)) as advance:
            for result in in_threads(check, shards, available_cores()):
                self._add(result)
                advance(1)

    def _add(self, result: CheckResult) -> None:
        self.faults += result.faults
        self.objects += result.objects
        self.size += result.size

    def _faulty(self) -> frozenset[Location]:
        return frozenset(fault.path for fault in self.faults)

    def _has_split(self, pipeline: Pipeline) -> bool:
        """Return whether filter composites can be sampled again. Sampling needs the donors in ``split.json``."""
        split = self.run.split_file
        return pipeline.filter.enabled and exists(split) and split not in self._faulty()


def _is_sound(folder: Location, faulty: Iterable[Location]) -> bool:
    """Return True if a group has no faults except in its verdicts."""
    verdict = folder / "verdict"
    stored = (path for path in faulty if path.suffix != ".json" or path.name == "zarr.json")
    return not any(
        (folder in path.parents or path == folder.parent / "zarr.json") and path.parent != verdict for path in stored
    )


def _check_composite_shard(group: ExpectedGroup, check: CompositeCheck, shard: int) -> CheckResult:
    samples, result = read_shard(group, shard)
    return replace(result, faults=result.faults + check_composites(group, shard, samples, check))


def _choose(group: ExpectedGroup, count: int) -> frozenset[int]:
    """Draw `count` stored composites at random, including those beyond the length of the arrays."""
    shards = sorted(group.arrays[group.store.last].shards())
    stored = len(shards) * group.shard
    drawn = np.random.default_rng().choice(stored, min(count, stored), replace=False).tolist()
    return frozenset(shards[number // group.shard] * group.shard + number % group.shard for number in drawn)


def _unfinished_notes(groups: Mapping[Location, ExpectedGroup | None]) -> Iterator[str]:
    for path, group in groups.items():
        if group is None:
            yield f"{path}: not built yet"
        elif incomplete := group.incomplete():
            yield f"{path}: {incomplete} of {group.planned()} shards are not complete yet"


def _merged(faults: Iterable[Fault]) -> Iterator[Fault]:
    """Yield one fault for each object: a permanent fault, or else the first. It has the repair steps of all faults."""
    found: dict[Location, Fault] = {}
    for fault in faults:
        first = found.setdefault(fault.path, fault)
        found[fault.path] = replace(
            fault if fault.permanent else first,
            remove=tuple(dict.fromkeys((*first.remove, *fault.remove))),
            replace=first.replace or fault.replace,
        )
    yield from found.values()
