"""The stages of a build, in order and resumable: catalog, donors, filter, candidates, scores, curated set.

What is stored is the ledger: every stage first looks which of its objects are there and makes only the others.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from synthpipe.config import Pipeline
from synthpipe.curation import Candidates, acceptance, first_plan, judge, next_plan
from synthpipe.errors import CatalogError, FilterError
from synthpipe.filtering.report import load_report
from synthpipe.filtering.split import split_groups
from synthpipe.patches.bank import build_bank
from synthpipe.patches.catalog import Catalog, load_catalog, read_catalog, write_catalog
from synthpipe.patches.layouts import read_layout
from synthpipe.records import Strategy, Verdict, recipe_from_json
from synthpipe.runtime import announced, available_cores, local_client, run_tasks
from synthpipe.storage.run import RunDirectory, read_json, write_json
from synthpipe.storage.schema import (
    CANDIDATE_ARRAYS,
    CURATED_ARRAYS,
    FORMAT_VERSION,
    REASONS,
    SCORE_ARRAYS,
    VERDICT_ARRAYS,
    array,
    create_group,
    ensure_arrays,
    open_group,
    taxonomy_attributes,
)
from synthpipe.storage.shards import complete_shards, shards_of, write_shard
from synthpipe.tasks import (
    CuratedTask,
    Job,
    ShardTask,
    TrainTask,
    prepare,
    render_shard,
    score_shard,
    train,
    write_curated_shard,
)


class Reporter(Protocol):
    """Where a build tells how far it is."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Open a stage of `total` steps; what it yields is called with the number of steps done."""

    def note(self, message: str) -> None:
        """Tell something that is worth a line."""


@dataclass(frozen=True, slots=True)
class _Build:
    """What the stages share; `journal` is what ``build.json`` will hold."""

    job: Job
    catalog: Catalog
    client: Any
    reporter: Reporter
    journal: dict[str, Any]

    @property
    def pipeline(self) -> Pipeline:
        return self.job.pipeline

    @property
    def run(self) -> RunDirectory:
        return self.job.run


def build(pipeline: Pipeline, path: Path, workers: int | None, reporter: Reporter) -> dict[str, Any]:
    """Build a run, or go on with one that was interrupted.

    Parameters
    ----------
    pipeline : Pipeline
        What to build.
    path : Path
        The run directory.
    workers : int or None
        Worker processes; by default one a core.
    reporter : Reporter
        Told about the progress.

    Returns
    -------
    dict
        What ``build.json`` holds: seconds a stage, and what became of every strategy's candidates.

    Raises
    ------
    SynthpipeError
        The patches, the filter or the run directory do not allow the build; what was made stays and is used again.
    """
    run = RunDirectory(path)
    if run.exists():
        run.check(pipeline)
    if is_finished(run):
        reporter.note(f"{path} is finished: nothing to do")
        return read_json(run.build_file)
    journal: dict[str, Any] = read_json(run.build_file) if run.build_file.exists() else {"stages": {}, "strategies": {}}
    with _timed(journal, "catalog"):
        catalog = _catalog(pipeline, run, reporter)
    split = check_patches(pipeline, catalog)
    if split:
        write_json(run.split_file, {side: sorted(groups) for side, groups in split.items()})
    with tempfile.TemporaryDirectory(prefix="synthpipe-") as scratch:
        job = Job(pipeline, run, Path(scratch))
        with _timed(journal, "donors"):
            _bank(job, catalog, reporter)
        with local_client(workers, partial(prepare, job.bank)) as client:
            state = _Build(job, catalog, client, reporter, journal)
            try:
                _make_curated_set(state)
            finally:
                write_json(run.build_file, journal)
    return journal


def is_finished(run: RunDirectory) -> bool:
    """Whether a build of this run came to its end."""
    return run.build_file.exists() and bool(read_json(run.build_file).get("finished"))


def check_patches(pipeline: Pipeline, catalog: Catalog) -> dict[str, frozenset[str]]:
    """Refuse patches that cannot make what is asked for; return the groups on each side of the filter's split.

    Raises
    ------
    CatalogError
        There are too few classes with single-class patches.
    FilterError
        The filter has no mixed patches to learn from, or its split leaves a side without donors.
    """
    _check_donors(pipeline, {patch.classes[0] for patch in catalog.donors})
    if not pipeline.filter.enabled:
        return {}
    train_groups, validation_groups = split_groups(catalog.patches, pipeline.filter.train_share, pipeline.seed)
    split = {"train": train_groups, "validation": validation_groups}
    for side, groups in split.items():
        labels = {patch.classes[0] for patch in catalog.donors if patch.group in groups}
        if not labels or not _has_pair(pipeline, labels):
            raise FilterError(
                f"the {side} side of the filter's split has single-class patches of only "
                f"{pipeline.taxonomy.label(labels) or 'no class'}; add slides, change patches.group_pattern or "
                "filter.train_share, or set filter.enabled: false"
            )
    return split


def _check_donors(pipeline: Pipeline, labels: set[int]) -> None:
    found = pipeline.taxonomy.label(labels)
    if not labels:
        raise CatalogError("no patch has exactly one class, so none can donate pixels; add single-class patches")
    if pipeline.mosaic and len(labels) < pipeline.curation.min_classes:
        raise CatalogError(
            f"single-class patches show only {found}, but curation.min_classes is {pipeline.curation.min_classes}; "
            "add single-class patches of other classes or lower it"
        )
    if not _has_pair(pipeline, labels):
        raise CatalogError(
            f"no pair of bezier.pairs has single-class patches of both its classes; there are patches of: {found}; "
            "add others, change bezier.pairs, or set bezier: null"
        )


def _has_pair(pipeline: Pipeline, labels: set[int]) -> bool:
    """Whether Bezier composites can be made of donors of these classes, if they are asked for."""
    return not pipeline.bezier or any(set(pair) <= labels for pair in pipeline.class_pairs())


def _catalog(pipeline: Pipeline, run: RunDirectory, reporter: Reporter) -> Catalog:
    """Read the patches, or the catalog of a run that was begun with the same `patches` section."""
    if run.exists() and run.pipeline().patches == pipeline.patches:
        catalog = load_catalog(run.path, pipeline.taxonomy)
        run.check_patches(catalog.digest)
    else:
        claims = read_layout(pipeline.patches, pipeline.taxonomy)
        with reporter.stage("catalog", len(claims)) as advance:
            catalog = read_catalog(pipeline.patches, pipeline.taxonomy, lambda: advance(1), claims=claims)
        if run.exists():
            run.check_patches(catalog.digest)
        run.path.mkdir(parents=True, exist_ok=True)
        write_catalog(catalog, pipeline.taxonomy, run.path)
    run.write(pipeline, catalog.digest)
    if catalog.problems:
        reporter.note(f"{len(catalog.problems)} patches left out; {run.path / 'problems.csv'} says why")
    return catalog


def _bank(job: Job, catalog: Catalog, reporter: Reporter) -> None:
    pipeline = job.pipeline
    with reporter.stage("donors", len(catalog.donors)) as advance:
        background = pipeline.taxonomy.background
        build_bank(job.bank, catalog.donors, pipeline.glass, background, lambda: advance(1), available_cores())


def _make_curated_set(build: _Build) -> None:
    pipeline = build.pipeline
    if pipeline.filter.enabled:
        _make_filters(build)
    found: dict[Strategy, Candidates] = {}
    verdicts: dict[Strategy, tuple[Verdict, ...]] = {}
    for strategy in pipeline.strategies:
        found[strategy], verdicts[strategy] = _make_candidates(build, strategy)
    with _timed(build.journal, "curated set"):
        for strategy in pipeline.strategies:
            _write_verdicts(build, strategy, verdicts[strategy])
        kept = [
            (strategy, verdict) for strategy in pipeline.strategies for verdict in verdicts[strategy] if verdict.keep
        ]
        _write_curated(build, kept, found)
    build.journal["finished"] = True


def _make_filters(build: _Build) -> None:
    """Make the composites that train the filters, then the filters, one worker a strategy."""
    pipeline, run = build.pipeline, build.run
    missing = [strategy for strategy in pipeline.strategies if not run.report(strategy).exists()]
    if missing:
        with _timed(build.journal, "filter composites"):
            for strategy in missing:
                _render(build, strategy, "filter", pipeline.filter.candidates)
        epochs = sum(pipeline.filter.epochs[strategy] for strategy in missing)
        with (
            _timed(build.journal, "filter training"),
            build.reporter.stage("filter training, epochs", epochs) as advance,
            announced(build.client, advance),
        ):
            for _ in run_tasks(build.client, train, [TrainTask(build.job, strategy) for strategy in missing]):
                pass
    for strategy in pipeline.strategies:
        report = load_report(run.report(strategy))
        _entry(build, strategy)["filter"] = {"accuracy": report.accuracy, "auroc": report.auroc}
        build.reporter.note(
            f"{strategy} filter: accuracy {report.accuracy:.3f}, AUROC {report.auroc:.3f} on slides that it never saw"
        )


def _make_candidates(build: _Build, strategy: Strategy) -> tuple[Candidates, tuple[Verdict, ...]]:
    """Render, score and judge candidates; while too few are kept, extend the plan, within its bound."""
    settings = build.pipeline.curation
    wanted, bound = settings.wanted[strategy], settings.max_candidates[strategy]
    planned = first_plan(build.pipeline, strategy)
    while True:
        with _timed(build.journal, f"{strategy} candidates"):
            _render(build, strategy, "candidate", planned)
        if build.pipeline.filter.enabled:
            with _timed(build.journal, f"{strategy} scores"):
                _score(build, strategy, planned)
        candidates = _read_candidates(build, strategy, planned)
        verdicts = judge(candidates, settings, wanted)
        _record(build, strategy, candidates, verdicts)
        _check_acceptance(build, strategy, candidates)
        kept = sum(verdict.keep for verdict in verdicts)
        following = next_plan(planned, kept, wanted, bound)
        if following == planned:
            break
        build.reporter.note(f"{strategy}: {kept} of {planned} kept, {wanted} wanted: going on to {following}")
        planned = following
    if kept < wanted:
        raise FilterError(_shortfall(strategy, kept, wanted, planned))
    return candidates, verdicts


def _render(build: _Build, strategy: Strategy, purpose: Any, count: int) -> None:
    """Make the shards of the first `count` composites that are not there yet."""
    pipeline, store = build.pipeline, build.pipeline.store
    path = build.run.training if purpose == "filter" else build.run.candidates
    attributes = {
        "format_version": FORMAT_VERSION,
        "strategy": strategy,
        "purpose": purpose,
        "pipeline": pipeline.name,
        **taxonomy_attributes(pipeline.taxonomy),
    }
    create_group(path, "", {"format_version": FORMAT_VERSION, "pipeline": pipeline.name})
    group = create_group(path, strategy, attributes)
    ensure_arrays(group, CANDIDATE_ARRAYS, _sizes(pipeline, count), store.shard, store.zstd_level)
    missing = sorted(set(shards_of(count, store.shard)) - complete_shards(array(group, "image")))
    tasks = (ShardTask(build.job, strategy, purpose, shard) for shard in missing)
    _run(build, f"{strategy} {purpose} composites", render_shard, tasks, len(missing) * store.shard)


def _score(build: _Build, strategy: Strategy, count: int) -> None:
    """Score the shards of the first `count` candidates that are not scored yet."""
    pipeline, store = build.pipeline, build.pipeline.store
    group = open_group(build.run.candidates, strategy, writable=True)
    sha256 = load_report(build.run.report(strategy)).model_sha256
    model = {"model_sha256": sha256}
    ensure_arrays(group, SCORE_ARRAYS, _sizes(pipeline, count), store.shard, store.zstd_level, p_real=model)
    missing = sorted(set(shards_of(count, store.shard)) - complete_shards(array(group, "p_real")))
    tasks = (ShardTask(build.job, strategy, "candidate", shard) for shard in missing)
    _run(build, f"{strategy} scores", score_shard, tasks, len(missing) * store.shard)


def _run(build: _Build, title: str, function: Callable[[Any], int], tasks: Iterable[Any], total: int) -> None:
    """Run tasks that return how many of the `total` composites they did."""
    with build.reporter.stage(title, total) as advance:
        for done in run_tasks(build.client, function, tasks):
            advance(done)


def _read_candidates(build: _Build, strategy: Strategy, count: int) -> Candidates:
    group = open_group(build.run.candidates, strategy)
    class_pixels = np.asarray(array(group, "class_pixels")[:count])
    class_shares = class_pixels[:, : len(build.pipeline.classes)] / class_pixels[0].sum()
    if build.pipeline.filter.enabled:
        p_real = np.asarray(array(group, "p_real")[:count])
    else:
        p_real = np.full(count, math.nan, np.float32)
    recipes = [recipe_from_json(str(text)) for text in array(group, "recipe")[:count]]  # type: ignore[union-attr]
    return Candidates(p_real, class_shares, [tuple(recipe.donors()) for recipe in recipes])


def _check_acceptance(build: _Build, strategy: Strategy, candidates: Candidates) -> None:
    settings = build.pipeline.curation
    rate = acceptance(candidates, settings)
    if settings.rule == "threshold" and rate < settings.min_acceptance:
        raise FilterError(
            f"the {strategy} filter accepts {rate:.2%} of {len(candidates)} candidates, less than "
            f"curation.min_acceptance ({settings.min_acceptance:.2%}). Finished work is kept; build again with one of\n"
            f"  --set curation.threshold=...   lower than {settings.threshold}\n"
            "  --set curation.rule=top_k      the best of the candidates, whatever they score\n"
            "  --set filter.enabled=false     all candidates"
        )


def _shortfall(strategy: Strategy, kept: int, wanted: int, planned: int) -> str:
    return (
        f"only {kept} of {planned} {strategy} candidates may be kept, but {wanted} are wanted and "
        "curation.max_candidates allows no more. Finished work is kept; build again with one of\n"
        "  --set curation.max_candidates=...   a larger bound\n"
        f"  --set curation.wanted=...           {kept} or fewer\n"
        "  --set curation.threshold=...        a lower one\n"
        "  --set curation.rule=top_k           the best of the candidates"
    )


def _record(build: _Build, strategy: Strategy, candidates: Candidates, verdicts: tuple[Verdict, ...]) -> None:
    """Write into the journal what became of a strategy's candidates."""
    rate = acceptance(candidates, build.pipeline.curation)
    kept = [verdict.index for verdict in verdicts if verdict.keep]
    uses = Counter(donor for index in kept for donor in set(candidates.donors[index]))
    shares = candidates.class_shares[kept].sum(axis=0)
    names = build.pipeline.taxonomy.names
    _entry(build, strategy).update(
        candidates=len(candidates),
        acceptance=None if math.isnan(rate) else rate,
        verdicts={reason: sum(verdict.reason == reason for verdict in verdicts) for reason in REASONS},
        class_share={name: float(share) for name, share in zip(names, shares / max(1, len(kept)), strict=True)},
        donors={
            "available": len(build.catalog.donors),
            "used": len(uses),
            "most_composites_of_one": max(uses.values(), default=0),
        },
    )


def _write_verdicts(build: _Build, strategy: Strategy, verdicts: tuple[Verdict, ...]) -> None:
    """Store the verdicts; candidates beyond the plan, made for settings that were changed since, are surplus."""
    pipeline, size = build.pipeline, build.pipeline.store.shard
    group = open_group(build.run.candidates, strategy, writable=True)
    ensure_arrays(group, VERDICT_ARRAYS, _sizes(pipeline, len(verdicts)), size, pipeline.store.zstd_level)
    shards = shards_of(array(group, "verdict").shape[0], size)
    codes = np.full(len(shards) * size, REASONS.index("surplus"), np.uint8)
    codes[: len(verdicts)] = [REASONS.index(verdict.reason) for verdict in verdicts]
    for shard in shards:
        write_shard(array(group, "verdict"), shard, codes[shard * size : (shard + 1) * size])


def _write_curated(build: _Build, kept: list[tuple[Strategy, Verdict]], found: Mapping[Strategy, Candidates]) -> None:
    pipeline, size = build.pipeline, build.pipeline.store.shard
    groups = sorted({patch.group for patch in build.catalog.donors})
    attributes = {
        "format_version": FORMAT_VERSION,
        "pipeline": pipeline.name,
        "fingerprint": pipeline.fingerprint(),
        **taxonomy_attributes(pipeline.taxonomy),
        "groups": groups,
    }
    donor_groups = _donor_groups(build, kept, found, groups)
    sizes = _sizes(pipeline, len(kept)) | {"donor": donor_groups.shape[1]}
    target = create_group(build.run.curated, "", attributes)
    ensure_arrays(target, CURATED_ARRAYS, sizes, size, pipeline.store.zstd_level)
    missing = sorted(set(shards_of(len(kept), size)) - complete_shards(array(target, "image")))

    def tasks() -> Iterator[CuratedTask]:
        for shard in missing:
            part = slice(shard * size, (shard + 1) * size)
            origins = tuple((strategy, verdict.index) for strategy, verdict in kept[part])
            p_real = tuple(float(found[strategy].p_real[index]) for strategy, index in origins)
            yield CuratedTask(build.job, shard, origins, p_real, donor_groups[part])

    count = sum(len(kept[shard * size : (shard + 1) * size]) for shard in missing)
    _run(build, "curated set", write_curated_shard, tasks(), count)


def _donor_groups(
    build: _Build, kept: list[tuple[Strategy, Verdict]], found: Mapping[Strategy, Candidates], groups: list[str]
) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return (N, D) int32: the slides or patients of each kept composite as numbers into `groups`, then -1."""
    code = {group: number for number, group in enumerate(groups)}
    group_of = {patch.id: code[patch.group] for patch in build.catalog.donors}
    rows = [sorted({group_of[d] for d in found[strategy].donors[verdict.index]}) for strategy, verdict in kept]
    result = np.full((len(rows), max(map(len, rows), default=1)), -1, np.int32)
    for number, row in enumerate(rows):
        result[number, : len(row)] = row
    return result


def _sizes(pipeline: Pipeline, count: int) -> dict[str, int]:
    classes = len(pipeline.classes)
    height, width = pipeline.canvas
    return {
        "sample": count,
        "y": height,
        "x": width,
        "channel": 3,
        "class": classes,
        "class_or_background": classes + 1,
    }


def _entry(build: _Build, strategy: Strategy) -> dict[str, Any]:
    entry: dict[str, Any] = build.journal["strategies"].setdefault(strategy, {})
    return entry


@contextmanager
def _timed(journal: dict[str, Any], stage: str) -> Iterator[None]:
    """Add the seconds spent to the stage's."""
    start = time.monotonic()
    try:
        yield
    finally:
        spent = journal["stages"].get(stage, 0.0) + time.monotonic() - start
        journal["stages"][stage] = round(spent, 3)
