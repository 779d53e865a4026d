"""Remarks on patches that can be used but may give surprising results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from synthpipe.config.pipeline import Layout
from synthpipe.core.records import PatchRef
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.patches.catalog import Catalog
from synthpipe.patches.names import alike_folders


def catalog_remarks(catalog: Catalog, taxonomy: Taxonomy, layout: Layout) -> Iterator[str]:
    """Yield remarks on the pixels of a catalog's patches, their folders, and the donors of each class."""
    yield from catalog.remarks
    for (first, second, *others), name in alike_folders(patch.id for patch in catalog.patches):
        if layout != "folders" or "/" in first:  # class folders may hold equal names
            more = f" and {len(others)} more" if others else ""
            yield (
                f"{first}/ and {second}/{more} hold patches with the same names, such as {name!r}; if one folder holds "
                f"masks or copies, exclude it with patches.exclude: [{second + '/*'!r}]"
            )
    donors: dict[int, list[PatchRef]] = defaultdict(list)
    for patch in catalog.donors:
        donors[patch.classes[0]].append(patch)
    lacking = [name for index, name in enumerate(taxonomy.names) if index not in donors]
    if lacking:
        yield f"there are no single-class patches of {', '.join(lacking)}, so no composite will show these classes"
    for index, patches in sorted(donors.items()):
        name, groups = taxonomy.names[index], {patch.group for patch in patches}
        if len(patches) == 1:
            yield f"{name} has a single donor, {patches[0].id!r}: all {name} in composites comes from it; add patches"
        elif len(groups) == 1:
            yield (
                f"all {len(patches)} donors of {name} come from one slide or patient, {groups.pop()!r}; add patches of "
                "others"
            )
