"""Count the patches of a catalog, as plain data for `synthpipe index --json`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from synthpipe.config.pipeline import Layout
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.patches.catalog import Catalog
from synthpipe.patches.remarks import catalog_remarks


def catalog_summary(catalog: Catalog, taxonomy: Taxonomy, layout: Layout) -> dict[str, Any]:
    """Return the counts of label sets, sizes and groups of a catalog, with its remarks and problems."""
    sizes = Counter(f"{patch.height} x {patch.width}" for patch in catalog.patches)
    return {
        "layout": layout,
        "patches": len(catalog.patches),
        "donors": len(catalog.donors),
        "mixed": len(catalog.mixed),
        "label_sets": {taxonomy.label(classes): count for classes, count in sorted(catalog.counts().items())},
        "sizes": dict(sizes.most_common()),
        "groups": len(catalog.groups),
        "remarks": list(catalog_remarks(catalog, taxonomy, layout)),
        "problems": [{"id": p.id, "kind": p.kind, "message": p.message} for p in catalog.problems],
    }
