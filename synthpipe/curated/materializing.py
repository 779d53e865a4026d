"""Store the pixels of a virtual curated set, as a build with stored pixels would."""

from __future__ import annotations

import numpy as np

from synthpipe.config.fields import differences
from synthpipe.core.errors import ConfigError, StaleRunError
from synthpipe.core.progress import Reporter
from synthpipe.core.threads import available_cores, in_threads
from synthpipe.curated.curated_set import CuratedSet
from synthpipe.curated.rendered import Renderer
from synthpipe.files.folders import Kind, claim, is_marked, sweep
from synthpipe.files.locations import Location
from synthpipe.files.lock import held
from synthpipe.storage.donor_groups import donor_group_columns, read_donor_groups
from synthpipe.storage.shards import planned_in
from synthpipe.storage.stores import CuratedStore

_BLOCK = 32  # composites that are rendered before they are stored
_PIXELS = ("image", "mask")
_CURATED = Kind("Zarr store", ("zarr.json",))


def materialize(curated: CuratedSet, path: Location, reporter: Reporter) -> Location:
    """Write a copy of a virtual curated set with pixels, or resume an interrupted copy.

    Parameters
    ----------
    curated : CuratedSet
        The virtual set.
    path : Path or UPath
        The new store. Its bytes are those of the curated set that a build with ``store.pixels: stored`` makes.
    reporter : Reporter
        Gets the progress.

    Returns
    -------
    Path or UPath
        The new store; where `path` is a link, its target.

    Raises
    ------
    ConfigError
        The set is not virtual.
    StaleRunError
        `path` holds another set.
    StoreError
        The set is damaged, or `path` cannot be written.
    """
    source = CuratedStore.open(curated.path)
    if not source.virtual:
        raise ConfigError(f"{curated.path}: its pixels are stored already; copy the set as it is")
    pipeline = Renderer(curated.path, source.attributes).pipeline
    path = claim(path, _CURATED)
    expected = source.stored_attributes()
    if is_marked(path, _CURATED) and (changes := list(differences(CuratedStore.open(path).attributes, expected))):
        raise StaleRunError(
            "\n  ".join([f"{path}: holds another set; write to another folder, or undo these changes:", *changes])
        )
    with held(path, _CURATED) as folder:
        sweep(folder)
        count, size = len(curated), source.shard
        target = source.create_stored(folder, pipeline)
        missing = target.missing_shards(count)
        curated.load()
        with reporter.stage("composites", planned_in(missing, count, size)) as advance:
            shards = in_threads(lambda shard: _write_shard(curated, source, target, shard), missing, available_cores())
            for shard, _ in zip(missing, shards, strict=True):
                advance(planned_in([shard], count, size))
    return folder


def _write_shard(curated: CuratedSet, source: CuratedStore, target: CuratedStore, shard: int) -> None:
    """Render a shard of the set and copy its small arrays; samples beyond the set's end have the fill value."""
    size = source.shard
    start, stop = shard * size, min((shard + 1) * size, len(curated))
    with target.writing(shard) as writers:
        for first in range(start, (shard + 1) * size, _BLOCK):
            count, rendered = min(_BLOCK, (shard + 1) * size - first), max(0, min(stop - first, _BLOCK))
            images, masks = (target.blank(name, count) for name in _PIXELS)
            curated.read(range(first, first + rendered), images[:rendered], masks[:rendered])
            writers["image"].write(images)
            writers["mask"].write(masks)
        groups = donor_group_columns(target, read_donor_groups(source, slice(start, stop)))
        for name in target.written:
            if name not in _PIXELS:
                samples = groups[name] if name in groups else source.read(name, slice(start, stop))
                writers[name].write(np.concatenate([samples, target.blank(name, size - len(samples))]))
            writers[name].finish()
