"""What the Zarr stores of a run ought to hold: groups and arrays as a build would make them now, in memory."""

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

_MOST_MISSING = 10_000  # shards that are named; a build makes all


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedGroup:
    """A group of composites, or the curated set, as it ought to be.

    Attributes
    ----------
    path : Path or UPath
        Its folder.
    store : Store
        In memory: metadata alone.
    arrays : mapping of str to StoredArray
        Those that must be there, or are.
    metadata : mapping of path to bytes
        Every ``zarr.json``, that of its store's root too.
    required : bool
        Whether all of it must be there: the run is finished.
    length : int
        Of its arrays.
    strategy, purpose
        Of what composites; None of the curated set.
    optional : frozenset of str
        Arrays that need not be complete: scores of a filter that was switched off since.
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
        """Composites a shard."""
        return self.store.shard

    def shards(self) -> list[int]:
        """Return the numbers of the shards to look at: those that must be there, and those that are."""
        stored = frozenset[int]().union(*(each.shards() for each in self.arrays.values()))
        missing = (shard for shard in shards_of(self.length, self.shard) if shard not in stored)
        named = islice(missing, _MOST_MISSING if self.required else 0)
        return sorted({*named, *(shard for shard in stored if shard < self.planned())})

    def planned(self) -> int:
        """Return how many shards its arrays have."""
        return len(shards_of(self.length, self.shard))

    def unmade(self) -> int:
        """Return how many of the planned shards are not complete yet."""
        complete = frozenset.intersection(*(stored.shards() for stored in self.arrays.values()))
        return self.planned() - sum(shard < self.planned() for shard in complete)


def expected_composites(
    run: RunDirectory, pipeline: Pipeline, strategy: Strategy, purpose: Purpose, finished: bool, model: str
) -> ExpectedGroup | None:
    """Return how the composites of a strategy ought to lie, or None where none are made yet, or asked for.

    `model` is the digest of the filter that scored them.
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
    names = list(CompositeStore.written)
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
    """Return how the curated set of `count` composites, if that is known, ought to lie; None where it is not begun."""
    if not finished and not exists(run.curated):
        return None
    length = count or _length(run.curated, finished)
    length = length or sum(pipeline.curation.wanted[strategy] for strategy in pipeline.strategies)
    store = create_curated(None, pipeline, catalog, length)
    return _expected(run.curated, store, list(store.written), finished, length)


def check_group(expected: ExpectedGroup) -> CheckResult:
    """Compare every ``zarr.json`` of a group with the expected one."""
    faults, size = [], 0
    for path, wanted in expected.metadata.items():
        try:
            data = read_regular(path, MOST_METADATA)
        except (FileNotFoundError, NotADirectoryError):
            if expected.required or _holds_objects(path.parent):
                faults.append(_fault(path, "nothing", "the metadata of what lies there", wanted))
            continue
        except AccessError:
            raise
        except OSError as error:
            faults.append(_fault(path, error.strerror or str(error), "metadata that can be read", wanted))
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
    cure = "give --repair: it is written anew, and no composite is touched"
    return Fault("metadata", path, found, expected, cure, replace=wanted)


def _check(data: bytes, wanted: bytes, expected: ExpectedGroup) -> None:
    """Compare; a build that was killed while it lengthened a group leaves some of its arrays shorter, which is fine."""
    try:
        check_metadata(data, wanted)
    except DamageError:
        length = _length_of(data)
        if expected.required or length is None or length >= expected.length:
            raise
        fields = json.loads(wanted)
        fields["shape"][0] = length
        check_metadata(data, json.dumps(fields).encode())


def _holds_objects(folder: Location) -> bool:
    with translate_access_errors(folder):
        return folder.is_dir() and any(file.name.startswith("c.") for file in folder.iterdir())


def _length(folder: Location, finished: bool) -> int:
    """Return the length of a group's arrays, by what most of them say; of one that is being lengthened, the longest."""
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
    """Return the length that a ``zarr.json`` gives its array, if it says so at all."""
    try:
        length = parse_json(data)["shape"][0]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return length if type(length) is int and 0 <= length <= MOST else None
