"""Make the expected groups, arrays and metadata of a run's Zarr stores in memory, as a build makes them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from synthpipe.build.curated_set import create_curated
from synthpipe.compose import Purpose, donor_uses
from synthpipe.config.fields import MOST
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import AccessError
from synthpipe.core.records import Strategy
from synthpipe.core.strict_json import parse_json
from synthpipe.files.locations import Location, exists, translate_access_errors
from synthpipe.files.reading import read_regular
from synthpipe.patches.catalog import Catalog
from synthpipe.storage.integrity import DamageError, StoredArray, check_metadata
from synthpipe.storage.nodes import METADATA, MOST_METADATA
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import ARRAYS
from synthpipe.storage.shards import shards_of
from synthpipe.storage.store import Store
from synthpipe.storage.stores import CompositeStore
from synthpipe.verification.faults import CheckResult, Fault

_MOST_MISSING = 10_000  # missing shards in a report; a repair makes all of them


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedGroup:
    """The expected state of a group of composites or of the curated set.

    Attributes
    ----------
    path : Path or UPath
        The folder of the group.
    store : Store
        A copy of the group in memory that has metadata only.
    arrays : mapping of str to StoredArray
        The arrays that must exist, and the optional arrays that exist.
    metadata : mapping of path to bytes
        The expected bytes of every ``zarr.json``, including the root of the store.
    required : bool
        Whether all shards must exist, because the run is finished.
    length : int
        The length of the arrays.
    strategy, purpose : str or None
        The strategy and the purpose of the composites; None for the curated set.
    optional : frozenset of str
        Arrays that may be incomplete: the scores of a filter that has been switched off.
    """

    path: Location
    store: Store
    arrays: Mapping[str, StoredArray]
    metadata: Mapping[Location, bytes]
    required: bool
    length: int
    strategy: Strategy | None = None
    purpose: Purpose | None = None
    optional: frozenset[str] = frozenset()

    @property
    def shard(self) -> int:
        """The number of composites in a shard."""
        return self.store.shard

    def shards(self) -> list[int]:
        """Return the numbers of the shards to check: all stored shards, and the missing shards that must exist."""
        stored = frozenset[int]().union(*(each.shards() for each in self.arrays.values()))
        missing = (shard for shard in shards_of(self.length, self.shard) if shard not in stored)
        named = islice(missing, _MOST_MISSING if self.required else 0)
        return sorted({*named, *(shard for shard in stored if shard < self.planned())})

    def planned(self) -> int:
        """Return the number of shards in each array."""
        return len(shards_of(self.length, self.shard))

    def incomplete(self) -> int:
        """Return the number of planned shards that are not stored in every array yet."""
        complete = frozenset.intersection(*(stored.shards() for stored in self.arrays.values()))
        return self.planned() - sum(shard < self.planned() for shard in complete)


def expected_composites(
    run: RunDirectory, pipeline: Pipeline, strategy: Strategy, purpose: Purpose, finished: bool, model: str
) -> ExpectedGroup | None:
    """Return the expected group of a strategy's composites, or None if the group does not exist yet.

    Parameters
    ----------
    run, pipeline : RunDirectory and Pipeline
        The run and its pipeline.
    strategy, purpose : str
        The strategy and the purpose of the composites.
    finished : bool
        Whether the run is finished.
    model : str
        The digest of the filter that scored the candidates.
    """
    root = run.training if purpose == "filter" else run.candidates
    path = root / strategy
    required = finished and (purpose == "candidate" or pipeline.filter.enabled)
    if not required and not exists(path):
        return None
    planned = pipeline.filter.candidates if purpose == "filter" else 0
    length = _length(path, finished) or planned
    uses = donor_uses(pipeline, strategy)
    store = CompositeStore.create(None, pipeline, strategy, purpose, length, uses)
    names = list(store.written)
    if purpose == "candidate":
        if exists(path / "p_real") or (required and pipeline.filter.enabled):
            store.extend_scores(pipeline, length, model)
            names.append("p_real")
        if exists(path / "verdict") or required:
            store.extend_verdicts(pipeline, length)
            names.append("verdict")
    found = _expected(path, store, names, required, length)
    optional = frozenset[str]() if pipeline.filter.enabled else frozenset({"p_real"})
    return replace(found, strategy=strategy, purpose=purpose, optional=optional)


def expected_curated(
    run: RunDirectory, pipeline: Pipeline, catalog: Catalog, finished: bool, count: int | None
) -> ExpectedGroup | None:
    """Return the expected curated set, or None if the set does not exist yet.

    Parameters
    ----------
    run, pipeline, catalog : RunDirectory, Pipeline and Catalog
        The run, its pipeline and its source patches.
    finished : bool
        Whether the run is finished.
    count : int or None
        The number of composites in the set, if it is known.
    """
    if not finished and not exists(run.curated):
        return None
    length = count or _length(run.curated, finished)
    length = length or sum(pipeline.curation.wanted[strategy] for strategy in pipeline.strategies)
    store = create_curated(None, pipeline, catalog, length)
    if _lacks_rules(run.curated):
        store.forget_rules()
    return _expected(run.curated, store, list(store.written), finished, length)


def check_group(expected: ExpectedGroup) -> CheckResult:
    """Compare every ``zarr.json`` of a group with its expected content."""
    faults, size = [], 0
    for path, wanted in expected.metadata.items():
        try:
            data = read_regular(path, MOST_METADATA)
        except (FileNotFoundError, NotADirectoryError):
            if expected.required or _holds_objects(path.parent):
                faults.append(_fault(path, "nothing", "the metadata of this group or array", wanted))
            continue
        except AccessError:
            raise
        except OSError as error:
            faults.append(_fault(path, error.strerror or str(error), "readable metadata", wanted))
            continue
        size += len(data)
        try:
            _check(data, wanted, expected)
        except DamageError as error:
            faults.append(_fault(path, error.found, error.expected, wanted))
    return CheckResult(tuple(faults), len(expected.metadata), size)


def _expected(path: Location, store: Store, names: list[str], required: bool, length: int) -> ExpectedGroup:
    return ExpectedGroup(path, store, store.stored_arrays(path, names), store.metadata(path, names), required, length)


def _fault(path: Location, found: str, expected: str, wanted: bytes) -> Fault:
    cure = "give --repair to write this metadata again; no composite changes"
    return Fault("metadata", path, found, expected, cure, replace=wanted)


def _check(data: bytes, wanted: bytes, expected: ExpectedGroup) -> None:
    """Raise `DamageError` if metadata differs from the expected metadata.

    In an unfinished run, a shorter array is sound, because a build that is killed while it extends a plan leaves some
    arrays shorter.
    """
    try:
        check_metadata(data, wanted)
    except DamageError:
        length = _length_of(data)
        if expected.required or length is None or length >= expected.length:
            raise
        fields = json.loads(wanted)
        fields["shape"][0] = length
        check_metadata(data, json.dumps(fields).encode())


def _lacks_rules(path: Location) -> bool:
    """Return whether the virtual set at `path` is of an earlier version, which did not write the rules of curation."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        attributes = parse_json(read_regular(path / METADATA, MOST_METADATA))["attributes"]
        return "settings" in attributes and "curation" not in attributes
    return False


def _holds_objects(folder: Location) -> bool:
    with translate_access_errors(folder):
        return folder.is_dir() and any(file.name.startswith("c.") for file in folder.iterdir())


def _length(folder: Location, finished: bool) -> int:
    """Return the most frequent length of a group's arrays. In an unfinished run, return the largest length."""
    found = Counter(_lengths(folder))
    if not found:
        return 0
    return found.most_common(1)[0][0] if finished else max(found)


def _lengths(folder: Location) -> Iterator[int]:
    for name in ARRAYS:
        with suppress(OSError):
            length = _length_of(read_regular(folder / name / METADATA, MOST_METADATA))
            if length is not None:
                yield length


def _length_of(data: bytes) -> int | None:
    """Return the length of the array that a ``zarr.json`` describes, or None if it has no valid length."""
    try:
        length = parse_json(data)["shape"][0]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return length if type(length) is int and 0 <= length <= MOST else None
