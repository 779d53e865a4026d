"""Remarks on patches that can be used but may surprise you, whatever is built from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from synthpipe.config.pipeline import Layout
from synthpipe.core.records import PatchRef
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.patches.catalog import Catalog
from synthpipe.patches.names import alike_folders


def catalog_remarks(catalog: Catalog, taxonomy: Taxonomy, layout: Layout) -> Iterator[str]:
    """Yield remarks on the patches of a catalog: their pixels, their folders, the donors of each class."""
    yield from catalog.remarks
    for (first, second, *others), name in alike_folders(patch.id for patch in catalog.patches):
        if layout != "folders" or "/" in first:  # folders of classes may hold equal names
            more = f" and {len(others)} more" if others else ""
            yield (
                f"{first}/ and {second}/{more} hold patches of the same names, such as {name!r}; if one of them holds "
                f"masks or copies, leave it out with patches.exclude: [{second + '/*'!r}]"
            )
    donors: dict[int, list[PatchRef]] = defaultdict(list)
    for patch in catalog.donors:
        donors[patch.classes[0]].append(patch)
    lacking = [name for index, name in enumerate(taxonomy.names) if index not in donors]
    if lacking:
        yield f"no single-class patches of {', '.join(lacking)}: no composite will show them"
    for index, patches in sorted(donors.items()):
        name, groups = taxonomy.names[index], {patch.group for patch in patches}
        if len(patches) == 1:
            yield f"{name} has a single donor, {patches[0].id!r}: all {name} in composites comes from it; add patches"
        elif len(groups) == 1:
            yield (
                f"the {len(patches)} donors of {name} come from one slide or patient, {groups.pop()!r}; add patches of "
                "others"
            )
