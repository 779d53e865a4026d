"""Leave poor donors out of a catalog. The pipeline's ``donors`` section decides which donors are poor."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from synthpipe.config.pipeline import DonorsSection
from synthpipe.core.errors import CatalogError, cause_of, cure_of
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.files.locations import parse_location
from synthpipe.files.reading import LARGEST_WEIGHTS, read_regular
from synthpipe.patches.catalog import Catalog
from synthpipe.patches.claims import Problem
from synthpipe.patches.quality.table import QualityRow, read_quality

_LOW = "low confidence"
_DROPPED = re.compile(r".*: donor of (?P<label>.+) is not used: (?P<reasons>[a-z, ]+)(?: \([\d.]+\))?$")


def drop_donors(catalog: Catalog, settings: DonorsSection, taxonomy: Taxonomy) -> Catalog:
    """Return the catalog without the donors that the settings drop. Each of them becomes a problem ``poor_donor``.

    Raises
    ------
    CatalogError
        ``donors.quality`` cannot be read, or was not written for these donors.
    """
    if settings.quality is None:
        return catalog
    rows = _fitting_rows(catalog, settings, taxonomy)
    dropped = {}
    for patch in catalog.donors:
        row = rows[patch.id]
        reasons: list[str] = [reason for reason in row.reasons if reason in settings.drop]
        ending = ""
        least = settings.min_confidence
        if least is not None and row.confidence is not None and row.confidence < least:
            reasons, ending = [*reasons, _LOW], f" ({row.confidence:g})"
        if reasons:
            message = f"patch {patch.id!r}: donor of {row.label} is not used: {', '.join(reasons)}{ending}"
            dropped[patch.id] = Problem(patch.id, "poor_donor", message)
    kept = tuple(patch for patch in catalog.patches if patch.id not in dropped)
    return replace(catalog, patches=kept, problems=(*catalog.problems, *dropped.values()))


def dropped_counts(problems: Iterable[Problem]) -> Mapping[tuple[str, str], int]:
    """Return the number of dropped donors by class name and reason. A donor with two reasons counts twice."""
    counts: Counter[tuple[str, str]] = Counter()
    for problem in problems:
        if problem.kind == "poor_donor" and (found := _DROPPED.match(problem.message)):
            counts.update((found["label"], reason) for reason in found["reasons"].split(", "))
    return counts


def _fitting_rows(catalog: Catalog, settings: DonorsSection, taxonomy: Taxonomy) -> dict[str, QualityRow]:
    """Return the rows of the table by id, one for each donor."""
    name, again = f"donors.quality: {settings.quality}", "measure these patches with `synthpipe index --quality`"
    rows: dict[str, QualityRow] = {}
    donors = {patch.id: patch for patch in catalog.donors}
    for row in read_quality(_read(settings), name):
        patch = donors.get(row.id)
        if patch is None:
            raise CatalogError(f"{name} line {row.line}: {row.id!r} is not a donor of these patches; {again}")
        if row.id in rows:
            raise CatalogError(f"{name} line {row.line}: {row.id!r} is already in line {rows[row.id].line}; {again}")
        if row.sha256 != patch.sha256:
            raise CatalogError(f"{name} line {row.line}: {row.id!r} has changed since it was measured; {again}")
        if row.label != (label := taxonomy.label(patch.classes)):
            raise CatalogError(
                f"{name} line {row.line}: {row.id!r} was measured as {row.label!r}, but its label is {label!r}; {again}"
            )
        rows[row.id] = row
    if missing := [patch for patch in donors if patch not in rows]:
        raise CatalogError(
            f"{name}: has no row for {len(missing)} of {len(donors)} donors, such as {missing[0]!r}; {again}"
        )
    return rows


def _read(settings: DonorsSection) -> bytes:
    path = settings.quality or ""
    try:
        data = read_regular(parse_location(path), LARGEST_WEIGHTS)  # the limit that a pipeline file's reader also has
    except Exception as error:  # clients of object stores raise exceptions of their own
        cure = cure_of(error) or "give the file that `synthpipe index --quality` wrote"
        raise CatalogError(f"donors.quality: {path}: cannot be read: {cause_of(error)}; {cure}") from error
    found = hashlib.sha256(data).hexdigest()
    if settings.quality_sha256 not in (None, found):
        raise CatalogError(
            f"donors.quality: {path}: its SHA-256 is {found}, expected donors.quality_sha256 "
            f"{settings.quality_sha256}; restore the file, or build into another directory"
        )
    return data
