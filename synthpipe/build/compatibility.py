"""Check that a build can be resumed with equal bytes: the patches and the rendered pixels must be the same."""

from __future__ import annotations

from itertools import islice

from synthpipe.build.state import BuildState
from synthpipe.build.tasks import ShardTask, equals_stored
from synthpipe.compose import Purpose
from synthpipe.core.errors import StaleRunError
from synthpipe.files.locations import Location
from synthpipe.patches.catalog import Catalog, changes, load_catalog
from synthpipe.storage.run import RunDirectory, versions
from synthpipe.storage.stores import CompositeStore

_LISTED = 20


def check_same_patches(run: RunDirectory, catalog: Catalog) -> None:
    """Refuse patches that differ from the patches of a run's composites.

    Raises
    ------
    StaleRunError
        The message lists the patches that differ.
    """
    if not run.exists() or not run.holds_composites() or run.read()["catalog_digest"] == catalog.digest:
        return
    found = list(islice(changes(load_catalog(run.path, run.pipeline().taxonomy), catalog), _LISTED + 1))
    more = ["and more"] if len(found) > _LISTED else []
    raise StaleRunError(
        "\n  ".join(
            [
                f"{run.path}: the patches have changed since this run was begun; restore them, or build into another "
                "directory:",
                *(found[:_LISTED] or ["catalog.csv has changed since the run was begun"]),
                *more,
            ]
        )
    )


def check_pixels(state: BuildState, broken: frozenset[Location] = frozenset()) -> None:
    """Refuse to resume a run if a stored composite would now be sampled or rendered differently.

    Shards with a `broken` object are skipped.

    Raises
    ------
    StaleRunError
        The message lists the packages whose versions differ.
    """
    run = state.run
    purposes: tuple[Purpose, ...] = ("candidate", "filter")
    tasks, avoided = [], set(map(str, broken))
    for purpose in purposes:
        for strategy in state.pipeline.strategies:
            store = CompositeStore.find(state.job.composites(purpose), strategy)
            if store is None or not store.has(store.last):
                continue
            sound = (
                shard
                for shard in sorted(store.complete_shards())
                if avoided.isdisjoint(str(store.object(name, shard).absolute()) for name in store.written)
            )
            tasks += [ShardTask(strategy, purpose, shard) for shard in islice(sound, 1)]
    if all(state.executor.run(equals_stored, tasks)):
        return
    before, here = run.read()["versions"], versions(state.pipeline.filter.enabled)
    found = [
        f"{name}: {before.get(name)} -> {version}" for name, version in here.items() if before.get(name) != version
    ]
    raise StaleRunError(
        "\n  ".join(
            [
                f"{run.path}: the installed packages render different pixels; install the former versions, "
                "or build into another directory. If the versions are equal, run `synthpipe verify`:",
                *(found or ["no version differs"]),
            ]
        )
    )
