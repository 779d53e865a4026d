"""Describe the progress of a build from its stored files alone, even if the build runs elsewhere or was killed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.build.curation import acceptance, assess, code, first_plan, tally
from synthpipe.config.pipeline import Pipeline, StoreSection
from synthpipe.core.errors import AccessError, StoreError
from synthpipe.core.records import Strategy
from synthpipe.core.threads import in_threads
from synthpipe.core.verdict_text import below_threshold_warning
from synthpipe.files.locations import Location, exists, translate_access_errors
from synthpipe.files.lock import holder_of
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import CANDIDATE_ARRAYS, CURATED_ARRAYS, ArraySpec, written_arrays
from synthpipe.storage.shards import shards_of
from synthpipe.storage.store import Store
from synthpipe.storage.stores import CompositeStore, composite_settings

_DAMAGE = (StoreError, ValueError, KeyError, OSError)  # zarr has no exceptions of its own for broken metadata
_WINDOW = 300.0  # seconds that a rate covers
_FEWEST = 3  # fewest objects for a rate
_JUDGED = 1000  # most shards of a strategy, evenly spread: half a million composites give a share well enough
_REQUESTS = 16  # at a time: each request for a URL waits for the network


def status_of(path: Location) -> dict[str, Any]:
    """Describe the progress of a run's build, JSON-ready.

    Returns
    -------
    dict
        ``stage``: the current stage, or ``finished``. ``progress``: for each kind of shard, shards done and planned,
        composites planned, composites a second, seconds left, and the damage or None. ``strategies``: acceptance and
        rejected candidates by reason so far, among ``judged`` composites (an even sample of very many). ``remarks`` of
        the build. ``idle_seconds`` since the latest object or epoch of a filter. ``warnings`` of a finished build.

    Raises
    ------
    StoreError
        There is no run at `path`.
    """
    run = RunDirectory(path)
    if not run.exists() and (holder := holder_of(path)):
        return _begun(path, f"patches are being read by {holder}")
    pipeline, now = run.pipeline(), time.time()
    finished = bool(run.journal().get("finished"))
    progress, times = [], [_stored_at(run.run_file), *_epochs_stored_at(run, pipeline)]
    for what, folder, names, planned in _parts(run, pipeline):
        try:
            entry, latest = _progress(what, folder, names, planned, pipeline.store.shard, now)
        except AccessError:
            raise
        except _DAMAGE as error:
            shards = len(shards_of(planned, pipeline.store.shard))
            entry, latest = _entry(what, 0, shards, planned, damaged=f"{folder}: {error}"), []
        progress.append(entry)
        times += latest
    return {
        "path": str(path),
        "name": pipeline.name,
        "finished": finished,
        "stage": "finished" if finished else _stage(run, pipeline, progress),
        "idle_seconds": round(max(0.0, now - max(times)), 1),
        "progress": progress,
        "strategies": {each: _judged(run, pipeline, each) for each in pipeline.strategies},
        "remarks": run.journal().get("remarks", []),
        "warnings": list(_warnings(run, pipeline)),
    }


def _warnings(run: RunDirectory, pipeline: Pipeline) -> Iterator[str]:
    """Yield the warnings of a finished build."""
    journal = run.journal()
    for strategy in pipeline.strategies if journal.get("finished") else ():
        if below := journal["strategies"].get(strategy, {}).get("below_threshold"):
            yield below_threshold_warning(strategy, below, pipeline.curation.threshold)


def _epochs_stored_at(run: RunDirectory, pipeline: Pipeline) -> Iterator[float]:
    """Yield the time when the latest epoch of each unfinished filter ended."""
    for strategy in pipeline.strategies:
        with suppress(FileNotFoundError):
            yield _stored_at(run.unfinished(strategy))


def _stored_at(path: Location) -> float:
    with translate_access_errors(path):
        return path.stat().st_mtime


def _parts(run: RunDirectory, pipeline: Pipeline) -> Iterator[tuple[str, Location, list[str], int]]:
    """Yield each part that is made in shards, in order: name, folder, arrays, number of planned composites."""
    if pipeline.filter.enabled:
        for strategy in pipeline.strategies:
            names = _written(CANDIDATE_ARRAYS, composite_settings(pipeline, "filter"))
            yield f"{strategy} filter composites", run.training / strategy, names, pipeline.filter.candidates
    for strategy in pipeline.strategies:
        folder, planned = run.candidates / strategy, first_plan(pipeline, strategy)
        yield f"{strategy} candidates", folder, _written(CANDIDATE_ARRAYS, pipeline.store), planned
        if pipeline.filter.enabled:
            yield f"{strategy} scores", folder, ["p_real"], planned
    yield (
        "curated set",
        run.curated,
        _written(CURATED_ARRAYS, pipeline.store),
        sum(pipeline.curation.wanted[s] for s in pipeline.strategies),
    )


def _written(specs: Mapping[str, ArraySpec], store: StoreSection) -> list[str]:
    return list(written_arrays(specs, store.pixels, store.recipes))


def _progress(
    what: str, folder: Location, names: list[str], planned: int, shard: int, now: float
) -> tuple[dict[str, Any], list[float]]:
    """Describe one part; also return the time when its latest shard was stored."""
    store = Store.find(folder)
    present = [name for name in names if store.has(name)] if store else []
    length = max([planned, *(store.length(name) for name in present)]) if store else planned
    times: list[float] = []
    shards = len(shards_of(length, shard))
    done = 0
    if store and present == names:
        last = store.stored_at(names[-1])
        complete = frozenset(last).intersection(*map(store.complete_shards, names[:-1]))
        done = len([number for number in complete if number < shards])
        times = [last[number] for number in complete]
    recent = sorted(stored for stored in times if stored > now - _WINDOW)
    rate: float | None = None
    if done < shards and len(recent) >= _FEWEST and recent[-1] > recent[0]:
        rate = (len(recent) - 1) * shard / (recent[-1] - recent[0])
    left = None if rate is None else (shards - done) * shard / rate
    return _entry(what, done, shards, length, rate, left), [max(times)] if times else []


def _entry(
    what: str,
    done: int,
    planned: int,
    composites: int,
    rate: float | None = None,
    left: float | None = None,
    damaged: str | None = None,
) -> dict[str, Any]:
    return {
        "what": what,
        "done": done,
        "planned": planned,
        "composites": composites,
        "rate": rate,
        "seconds_left": left,
        "damaged": damaged,
    }


def _begun(path: Location, stage: str) -> dict[str, Any]:
    """Describe a run without any stored file."""
    about = {"path": str(path), "name": "a run that begins", "finished": False, "stage": stage}
    return {**about, "idle_seconds": None, "progress": [], "strategies": {}, "remarks": [], "warnings": []}


def _stage(run: RunDirectory, pipeline: Pipeline, progress: list[dict[str, Any]]) -> str:
    """Return the name of the first stage that is not done."""
    if not run.holds_composites():
        return "catalog and donors"
    for entry in progress:
        if entry["what"].endswith("candidates"):
            untrained = [each for each in pipeline.strategies if not exists(run.report(each))]
            if pipeline.filter.enabled and untrained:
                return f"filter training: {', '.join(untrained)}"
        if entry["done"] < entry["planned"]:
            return str(entry["what"])
    return "last steps"


def _judged(run: RunDirectory, pipeline: Pipeline, strategy: Strategy) -> dict[str, Any]:
    """Judge the candidates that have scores and class pixels. Later candidates decide which of them are kept."""
    found: dict[str, Any] = {"judged": 0, "of": 0, "acceptance": None, "rejected": {}, "damaged": None}
    try:
        return found | _judgement(run, pipeline, strategy)
    except AccessError:
        raise
    except _DAMAGE as error:
        return found | {"damaged": f"{run.candidates / strategy}: {error}"}


def _judgement(run: RunDirectory, pipeline: Pipeline, strategy: Strategy) -> dict[str, Any]:
    candidates = CompositeStore.find(run.candidates / strategy)
    names = ["class_pixels", *(["p_real"] if pipeline.filter.enabled else [])]
    if candidates is None or not candidates.has(*names):
        return {}
    size, length = pipeline.store.shard, candidates.length("class_pixels")
    complete = sorted(candidates.complete_shards(*names))

    def judge(shard: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        block = slice(shard * size, min(length, (shard + 1) * size))
        class_pixels = candidates.class_pixels(block)
        scores = np.full(len(class_pixels), math.nan, np.float32)
        if pipeline.filter.enabled:
            scores = candidates.scores(block)[: len(class_pixels)]
        return scores, assess(scores, class_pixels[: len(scores)], pipeline.curation)

    p_real, verdicts = [np.empty(0, np.float32)], [np.empty(0, np.uint8)]
    apart = max(1, -(-len(complete) // _JUDGED))
    for scores, some in in_threads(judge, complete[::apart], _REQUESTS):
        p_real.append(scores)
        verdicts.append(some)
    judged = np.concatenate(verdicts)
    rate = acceptance(np.concatenate(p_real), pipeline.curation)
    return {
        "judged": len(judged),
        "of": sum(min(length, (shard + 1) * size) - shard * size for shard in complete),
        "acceptance": None if math.isnan(rate) else rate,
        "rejected": {
            reason: count for reason, count in tally(judged).items() if count and code(reason) != code("surplus")
        },
    }
