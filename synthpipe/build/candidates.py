"""Make filters and candidates: render, train, score and judge, until enough candidates are kept."""

from __future__ import annotations

import math
import shlex
import time

import numpy as np
from numpy.typing import NDArray

from synthpipe.build.curation import Verdicts, code, first_plan, next_plan, tally
from synthpipe.build.rounds import add_round
from synthpipe.build.state import BuildState, journal_entry, timed
from synthpipe.build.tasks import (
    NetworkTask,
    ScoreTask,
    ShardTask,
    TrainTask,
    check_network,
    render_shard,
    score_shards,
    train,
    training_steps,
)
from synthpipe.build.verdicts import Judgement, blocks, judge
from synthpipe.compose import Purpose, donor_uses
from synthpipe.config.pipeline import CurationSection
from synthpipe.core.display_names import STRATEGY, VERDICT
from synthpipe.core.errors import FilterError, StaleRunError
from synthpipe.core.records import REASONS, Reason, Strategy
from synthpipe.core.verdict_text import below_threshold_warning
from synthpipe.files.locations import exists
from synthpipe.storage.filter_report import accuracy_text, load_report
from synthpipe.storage.shards import planned_in
from synthpipe.storage.stores import CompositeStore
from synthpipe.storage.tallies import composites_of_each

_SCORED_ON_GPU = 4096  # composites per task: a GPU waits at the beginning and the end of each task


def make_filters(state: BuildState) -> None:
    """Render the composites that train the filters, then train the filters, one worker for each strategy."""
    pipeline, run = state.pipeline, state.run
    missing = [
        strategy
        for strategy in pipeline.strategies
        if not (exists(run.report(strategy)) and exists(run.weights(strategy)))
    ]
    if missing:
        with timed(state.journal, "filter composites"):
            for _ in state.executor.run(check_network, [NetworkTask(pipeline.filter)]):
                pass
            for strategy in missing:
                _render(state, strategy, "filter", pipeline.filter.candidates)
        steps = sum(training_steps(pipeline, strategy) for strategy in missing)
        with (
            timed(state.journal, "filter training"),
            state.reporter.stage("filter training, steps", steps) as advance,
            state.executor.announced(advance),
        ):
            tasks = [TrainTask(strategy, state.catalog.access) for strategy in missing]
            for notes in state.executor.run(train, tasks, gpu=True):
                for note in notes:
                    state.reporter.note(note)
    for strategy in pipeline.strategies:
        if exists(run.training / strategy):  # composites that a user removed are not needed for a finished filter
            _render(state, strategy, "filter", pipeline.filter.candidates)
        report = load_report(run.report(strategy))
        journal_entry(state, strategy)["filter"] = {"accuracy": report.accuracy, "auroc": report.auroc}
        state.reporter.note(
            f"{STRATEGY[strategy]} filter: {accuracy_text(report.fields())} on slides outside its training"
        )


def make_candidates(state: BuildState, strategy: Strategy) -> Verdicts:
    """Render, score and judge candidates; while too few are kept, extend the plan up to its bound."""
    settings = state.pipeline.curation
    wanted, bound = settings.wanted[strategy], settings.max_candidates[strategy]
    planned = first_plan(state.pipeline, strategy)
    while True:
        begun = time.monotonic()
        with timed(state.journal, f"{strategy} candidates"):
            _render(state, strategy, "candidate", planned)
        if state.pipeline.filter.enabled:
            with timed(state.journal, f"{strategy} scores"):
                _score(state, strategy, planned)
        with timed(state.journal, f"{strategy} verdicts"):
            found = judge_plan(state, strategy, planned, begun)
        following = next_plan(planned, found.kept, wanted, bound)
        if following == planned:
            break
        state.reporter.note(
            f"{STRATEGY[strategy]}: {found.kept} of {planned} kept, {wanted} wanted: extending the plan to {following}"
        )
        planned = following
    if found.kept < wanted:
        raise _too_few(state, _shortfall(strategy, found.verdicts, wanted))
    if found.below_threshold:
        state.reporter.note(f"warning: {below_threshold_warning(strategy, found.below_threshold, settings.threshold)}")
    return found.verdicts


def _render(state: BuildState, strategy: Strategy, purpose: Purpose, count: int) -> None:
    """Render the missing shards of the first `count` composites. With a filter, `_score` renders virtual candidates."""
    pipeline, store = state.pipeline, state.pipeline.store
    path, uses = state.job.composites(purpose), donor_uses(pipeline, strategy)
    created = CompositeStore.create(path, pipeline, strategy, purpose, count, uses)
    if created.virtual and pipeline.filter.enabled:
        return
    missing = created.missing_shards(count)
    tasks = (ShardTask(strategy, purpose, shard) for shard in missing)
    title = f"{strategy} {purpose} composites"
    with state.reporter.stage(title, planned_in(missing, count, store.shard)) as advance:
        for shard in state.executor.run(render_shard, tasks):
            advance(planned_in([shard], count, store.shard))


def _score(state: BuildState, strategy: Strategy, count: int) -> None:
    """Score the unscored shards of the first `count` candidates. This also renders virtual candidates."""
    pipeline, store = state.pipeline, state.pipeline.store
    candidates = CompositeStore.open(state.run.candidates, strategy, writable=True)
    sha256 = load_report(state.run.report(strategy)).model_sha256
    if candidates.scored_by() not in (None, sha256):
        raise StaleRunError(
            f"{state.run.candidates / strategy}: another filter than {state.run.weights(strategy)} gave its scores; "
            "remove its p_real folder and build again"
        )
    candidates.extend_scores(pipeline, count, sha256)
    columns = tuple(candidates.written) if candidates.virtual else ()
    missing = candidates.missing_shards(count, "p_real", *columns)
    together = math.ceil(_SCORED_ON_GPU / store.shard) if state.executor.uses_gpus() else 1
    tasks = (
        ScoreTask(strategy, tuple(missing[first : first + together])) for first in range(0, len(missing), together)
    )
    scored = accepted = 0
    with state.reporter.stage(f"{strategy} scores", planned_in(missing, count, store.shard)) as advance:
        for done, above in state.executor.run(score_shards, tasks, gpu=True):
            scored, accepted = scored + done, accepted + above
            advance(done, f"{accepted / scored:.1%} accepted so far")


def judge_plan(state: BuildState, strategy: Strategy, count: int, begun: float) -> Judgement:
    """Judge the first `count` candidates and record the round, whose start time is `begun`, in the journal."""
    settings = state.pipeline.curation
    found = judge(state.pipeline, strategy, CompositeStore.open(state.run.candidates, strategy), count)
    former = journal_entry(state, strategy).get("candidates", 0)
    uses = _record(state, strategy, found)
    donors = int(np.count_nonzero(uses))
    seconds = time.monotonic() - begun
    add_round(state.journal, strategy, settings.wanted[strategy], found, donors, seconds, former)
    if settings.rule == "threshold" and found.acceptance < settings.min_acceptance:
        raise _too_few(state, _too_strict(strategy, settings, found.acceptance, count))
    return found


def _too_few(state: BuildState, why: str) -> FilterError:
    """Return an error for too few candidates, after moving a curated set of former scores out of the way."""
    run = state.run
    if run.has_curated():
        state.reporter.note(f"moved the curated set of earlier scores to {run.set_curated_aside()}")
    return FilterError(f"{why}\n`synthpipe report {shlex.quote(str(run.path))}` shows the candidates and their scores")


def _too_strict(strategy: Strategy, settings: CurationSection, rate: float, count: int) -> str:
    return (
        f"the {STRATEGY[strategy]} filter accepts {rate:.2%} of {count} candidates, less than "
        f"curation.min_acceptance ({settings.min_acceptance:.2%}). Finished work is kept; build again with one of\n"
        f"  --set curation.threshold=...   lower than {settings.threshold}\n"
        "  --set curation.rule=top_k      keep the best candidates, whatever their scores\n"
        "  --set filter.enabled=false     all candidates"
    )


def _shortfall(strategy: Strategy, verdicts: Verdicts, wanted: int) -> str:
    counts = tally(verdicts)
    cures: dict[Reason, str] = {
        "looks_synthetic": "curation.threshold=... lower, or curation.rule=top_k",
        "too_few_classes": "curation.min_classes=... or curation.min_class_share=... lower",
        "donor_overused": "curation.max_donor_uses=... higher",
    }
    return "\n".join(
        [
            f"only {counts['kept']} of {len(verdicts)} {STRATEGY[strategy]} candidates can be kept, but {wanted} are "
            "wanted and curation.max_candidates allows no more. Finished work is kept; build again with one of",
            "  --set curation.max_candidates=... higher",
            f"  --set curation.wanted=... {counts['kept']} or fewer",
            *(
                f"  --set {cure} ({counts[reason]} {VERDICT[reason]})"
                for reason, cure in cures.items()
                if counts[reason]
            ),
        ]
    )


def _record(state: BuildState, strategy: Strategy, judgement: Judgement) -> NDArray[np.int64]:
    """Record the results of a strategy's candidates in the journal; return the uses of each donor, (D,)."""
    candidates, donors = CompositeStore.open(state.run.candidates, strategy), len(state.catalog.donors)
    verdicts, rate = judgement.verdicts, judgement.acceptance
    pixels = np.zeros(len(state.pipeline.classes) + 1, np.int64)
    uses = np.zeros(donors, np.int64)
    shown = np.zeros((len(state.pipeline.classes), len(REASONS)), np.int64)
    for block in blocks(len(verdicts), state.pipeline.store.shard):
        kept = verdicts[block] == code("kept")
        class_pixels = candidates.class_pixels(block)
        for counts, of_class in zip(shown, class_pixels.T, strict=False):  # the last column is the background
            counts += np.bincount(verdicts[block][of_class > 0], minlength=len(REASONS))
        if kept.any():
            pixels += class_pixels[kept].sum(axis=0)
            uses += composites_of_each(candidates.donors(block)[kept], donors)
    shares = (pixels / max(1, pixels.sum())).tolist()
    journal_entry(state, strategy).update(
        candidates=len(verdicts),
        acceptance=None if math.isnan(rate) else rate,
        verdicts=tally(verdicts),
        class_share=dict(zip(state.pipeline.taxonomy.names, shares[:-1], strict=True)),
        class_verdicts={
            name: dict(zip(REASONS, counts, strict=True))
            for name, counts in zip(state.pipeline.taxonomy.names, shown.tolist(), strict=True)
        },
        donors={
            "available": donors,
            "used": int(np.count_nonzero(uses)),
            "most_composites_of_one": int(uses.max(initial=0)),
        },
        below_threshold=judgement.below_threshold,
    )
    return uses
