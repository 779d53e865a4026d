"""A whole checkup: small files, metadata, every shard, verdicts, the curated set, and some composites made again.

Nothing is written. Shards are read and checked in threads: reading, checksums, decoders and the counting of classes all
let other threads run, and starting processes would take longer than checking a small run. A thread holds one shard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import numpy as np

from synthpipe.build.curated_set import part_of, verdicts_of_shard
from synthpipe.build.curation import Kept, Verdicts, tally
from synthpipe.build.tasks import curated_shard, group_numbers
from synthpipe.build.verdicts import judge_finished
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import StoreError
from synthpipe.core.progress import Reporter
from synthpipe.core.records import Strategy
from synthpipe.core.threads import available_cores, in_threads
from synthpipe.files.locations import Location, exists, translate_errors
from synthpipe.patches.access import find_patches, unread
from synthpipe.patches.catalog import Catalog
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.shards import shards_of
from synthpipe.storage.stores import CompositeStore
from synthpipe.verification.expected import ExpectedGroup, check_group, expected_composites, expected_curated
from synthpipe.verification.extras import check_extras, note_extras
from synthpipe.verification.faults import CheckResult, Fault, VerifyReport
from synthpipe.verification.file_checks import (
    check_filter_files,
    check_journal,
    check_links,
    check_run_file,
    check_split,
    check_sums,
    check_tally,
    find_catalog,
    found_by,
    scored_by,
)
from synthpipe.verification.objects import CompositeCheck, check_composites, check_curated, read_shard
from synthpipe.verification.rendering import Rerender, check_patch_files, rendering


def verify(
    path: Location, samples: int, reporter: Reporter, patches: bool | None = None, root: str | None = None
) -> VerifyReport:
    """Check all that a run holds; it need not be finished, and nothing is written.

    Parameters
    ----------
    path : Path or UPath
        The run directory.
    samples : int
        How many composites of each strategy, and again of those that trained its filter, are sampled and rendered
        anew. Which ones is drawn anew at every call.
    reporter : Reporter
        Told about the progress.
    patches : bool, optional
        Whether to read the patches; by default if there are `samples`.
    root : str, optional
        Where the patches lie now, as ``patches.root``. Without it patches behind URLs are left unread.

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
        raise StoreError(f"{path}: is no run directory; expected one that `synthpipe build` made")
    return _Checking(run, samples, reporter, samples > 0 if patches is None else patches, root).result()


class _Checking:
    """One checkup under way."""

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
        """Check everything."""
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
            self.notes.append("nothing else was checked: what a run holds must lie in it")
            return
        pipeline, faults = check_run_file(run)
        self.faults += faults
        if self.finished:
            self.faults += check_sums(run)
        files = [file for file in (*run.small_files(), run.sums_file) if exists(file)]
        self.objects, self.size = len(files), sum(file.stat().st_size for file in files)
        if pipeline is None or run.run_file in self._faulty():
            self.notes.append("the Zarr stores were not checked: what they should hold follows from run.json")
            return
        trusted = not self._faulty().intersection(run.tables())
        catalog, faults = find_catalog(run, pipeline, trusted, self.root)
        self.faults += faults
        if catalog is None:
            self.notes.append("the Zarr stores were not checked: what they should hold follows from catalog.csv")
            return
        self.faults += check_split(run, pipeline, catalog, self.finished)
        self.faults += (each for each in check_filter_files(run, pipeline, self.finished) if not self._known(each))
        catalog = self._readable(catalog, pipeline)
        altered = self._patches(catalog)
        groups = self._groups(pipeline)
        for group in groups:
            self._add(check_group(group))
            self.faults += check_extras(group)
        self.notes += note_extras(groups)
        with ExitStack() as stack:
            again: Rerender | None = None
            if self.samples:
                with self.reporter.stage("donors", len(catalog.donors)) as advance:
                    again = stack.enter_context(rendering(run, pipeline, catalog, altered, advance))
            verdicts = self._composites(groups, pipeline, catalog, again)
        self._curated(verdicts, pipeline, catalog)

    def _readable(self, catalog: Catalog, pipeline: Pipeline) -> Catalog:
        """Find the patches where they are to be read; leave those behind URLs unread unless the user named them."""
        if not self.patches:
            return catalog
        if catalog.hosts and self.root is None:
            self.notes.append(f"no patch was read and nothing made again: {unread(catalog, pipeline.patches)}")
            self.patches, self.samples, self.unread = False, 0, True
            return catalog
        return find_patches(catalog, pipeline.patches, pipeline.taxonomy, self.root, self.run.path)

    def _patches(self, catalog: Catalog) -> frozenset[str]:
        """Look at the patches; return the ids of those that are not as they were."""
        if not self.patches:
            return frozenset()
        with self.reporter.stage("patches", len(catalog.patches)) as advance:
            altered = check_patch_files(catalog, advance)
        self.faults += altered.values()
        return frozenset(altered)

    def _groups(self, pipeline: Pipeline) -> list[ExpectedGroup]:
        """Return the groups of composites that there ought to be; say what is not made yet."""
        run, faulty, finished = self.run, self._faulty(), self.finished
        found = dict[Location, ExpectedGroup | None]()
        for strategy in pipeline.strategies:
            model = scored_by(run, strategy, faulty)
            composites = partial(expected_composites, run, pipeline, strategy, finished=finished, model=model)
            if (training := composites("filter")) or pipeline.filter.enabled:
                found[run.training / strategy] = training
            found[run.candidates / strategy] = composites("candidate")
        if not finished:
            self.notes += ["the run is not finished", *_not_made_yet(found)]
            filters = [run.report(each) for each in pipeline.strategies if pipeline.filter.enabled]
            self.notes += [f"{report}: the filter is not trained yet" for report in filters if not exists(report)]
        return [group for group in found.values() if group]

    def _composites(
        self, groups: list[ExpectedGroup], pipeline: Pipeline, catalog: Catalog, again: Rerender | None
    ) -> dict[Strategy, Verdicts]:
        """Check the shards of all composites; return the verdicts of those that are sound, recomputed."""
        numbers = {patch.id: number for number, patch in enumerate(catalog.donors)}
        verdicts: dict[Strategy, Verdicts] = {}
        for group in groups:
            if group.strategy is None or group.purpose is None:
                continue
            chosen = frozenset[int]()
            if again and (group.purpose == "candidate" or self._split_known(pipeline)):
                chosen = _choose(group, self.samples)
                self.rendered += len(chosen)
            rendered = partial(again, group.strategy, group.purpose) if again else lambda recipe: None
            check = CompositeCheck(pipeline, numbers, rendered, chosen)
            self._shards(group, partial(_check_composite_shard, group, check))
            if group.purpose == "candidate" and self.finished and self._sound(group.path):
                try:
                    verdicts[group.strategy] = self._verdicts(group, group.strategy, pipeline)
                except StoreError as error:  # sound shards, but not as many as the plan asks for
                    self.faults.append(
                        Fault("contradiction", group.path, found_by(error, group.path), "what the plan asks for")
                    )
        return verdicts

    def _verdicts(self, group: ExpectedGroup, strategy: Strategy, pipeline: Pipeline) -> Verdicts:
        """Judge the candidates again, and compare with the verdicts that are stored, and the build's tally of them."""
        judged = judge_finished(pipeline, strategy, CompositeStore.open(self.run.candidates, strategy))
        self.faults += check_tally(self.run, strategy, tally(judged.verdicts))
        stored = group.arrays["verdict"]
        for shard in shards_of(group.length, group.shard):
            path = stored.object(shard)
            try:
                found = stored.decode(stored.read(shard))
            except OSError:  # DamageError is one
                continue  # named already
            wrong = np.flatnonzero(found != verdicts_of_shard(judged.verdicts, shard, group.shard))
            for place in wrong[:1]:
                index = shard * group.shard + int(place)
                expected = "those that curation gives by the stored scores"
                what = f"{len(wrong)} other verdicts, the first of {index}"
                # the scores may be what is wrong: they are made again too
                scores = group.arrays["p_real"].object(shard) if "p_real" in group.arrays else None
                remove = (path, scores) if scores else (path,)
                self.faults.append(Fault("contradiction", path, what, expected, remove=remove))
        return judged.verdicts

    def _curated(self, verdicts: Mapping[Strategy, Verdicts], pipeline: Pipeline, catalog: Catalog) -> None:
        """Check the curated set, and compare it with its origins, where these are sound."""
        kept = {strategy: Kept(codes) for strategy, codes in verdicts.items()}
        comparable = self.finished and kept.keys() == set(pipeline.strategies)
        count = sum(map(len, kept.values())) if comparable else None
        group = expected_curated(self.run, pipeline, catalog, self.finished, count)
        aside = sorted(self.run.path.glob("curated-*.zarr"))
        self.notes += [f"{each}: was set aside, and is not checked" for each in aside]
        if group is None:
            self.notes.append(f"{self.run.curated}: nothing is made yet")
            return
        self._add(check_group(group))
        self.faults += check_extras(group)
        self.notes += note_extras([group])
        if self.finished and not comparable:
            self.notes.append(f"{group.path}: was not compared with its origins, which have faults")
        elif not self.finished:
            self.notes += _not_made_yet({group.path: group})
        numbers = group_numbers([patch.group for patch in catalog.donors])

        def check(shard: int) -> CheckResult:
            samples, looked = read_shard(group, shard)
            origins = part_of(kept, shard * group.shard, (shard + 1) * group.shard)
            expected = curated_shard(pipeline, self.run, group.store, origins, numbers) if comparable else None
            faults = check_curated(group, shard, samples, expected, len(pipeline.classes))
            return replace(looked, faults=looked.faults + faults)

        self._shards(group, check)

    def _shards(self, group: ExpectedGroup, check: Callable[[int], CheckResult]) -> None:
        shards = group.shards()
        name = "/".join(group.path.parts[len(self.run.path.parts) :])
        with self.reporter.stage(f"{name}, shards", len(shards)) as advance:
            for looked in in_threads(check, shards, available_cores()):
                self._add(looked)
                advance(1)

    def _add(self, looked: CheckResult) -> None:
        self.faults += looked.faults
        self.objects += looked.objects
        self.size += looked.size

    def _faulty(self) -> frozenset[Location]:
        return frozenset(fault.path for fault in self.faults)

    def _known(self, fault: Fault) -> bool:
        """Whether a fault is of a filter whose weights or report were named already: one of them is wrong, not both."""
        return any(path in self._faulty() for path in fault.remove)

    def _split_known(self, pipeline: Pipeline) -> bool:
        """Whether the filter's composites can be sampled anew: which donors each may have is in ``split.json``."""
        split = self.run.split_file
        return pipeline.filter.enabled and exists(split) and split not in self._faulty()

    def _sound(self, folder: Location) -> bool:
        """Whether nothing was found below a folder, or in the metadata of what it lies in, but verdicts."""
        verdict = folder / "verdict"
        named = (path for path in self._faulty() if path.suffix != ".json" or path.name == "zarr.json")
        return not any(
            (folder in path.parents or path == folder.parent / "zarr.json") and path.parent != verdict for path in named
        )


def _check_composite_shard(group: ExpectedGroup, check: CompositeCheck, shard: int) -> CheckResult:
    samples, looked = read_shard(group, shard)
    return replace(looked, faults=looked.faults + check_composites(group, shard, samples, check))


def _choose(group: ExpectedGroup, count: int) -> frozenset[int]:
    """Draw some composites of those that are stored, those beyond the arrays' length among them."""
    shards = sorted(group.arrays["image"].shards())
    stored = len(shards) * group.shard
    places = np.random.default_rng().choice(stored, min(count, stored), replace=False)
    return frozenset(shards[place // group.shard] * group.shard + place % group.shard for place in places.tolist())


def _not_made_yet(groups: Mapping[Location, ExpectedGroup | None]) -> Iterator[str]:
    for path, group in groups.items():
        if group is None:
            yield f"{path}: nothing is made yet"
        elif unmade := group.unmade():
            planned = len(shards_of(group.length, group.shard))
            yield f"{path}: {unmade} of {planned} shards are not complete yet"


def _merged(faults: Iterable[Fault]) -> Iterator[Fault]:
    """Yield one fault an object: the first, with all that has to be done about it."""
    found: dict[Location, Fault] = {}
    for fault in faults:
        first = found.setdefault(fault.path, fault)
        found[fault.path] = replace(
            fault if fault.lasting else first,
            remove=tuple(dict.fromkeys((*first.remove, *fault.remove))),
            replace=first.replace or fault.replace,
        )
    yield from found.values()
