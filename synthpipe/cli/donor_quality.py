"""`synthpipe index --quality`: measure the donors, and write the table and the picture of the worst."""

from __future__ import annotations

from collections.abc import Sequence

from synthpipe.cli.progress import reporter
from synthpipe.config.pipeline import GlassSection
from synthpipe.core.errors import CatalogError, ConfigError
from synthpipe.core.packages import TORCH, require
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.files.locations import Location
from synthpipe.files.writing import write_atomically
from synthpipe.patches.catalog import Catalog
from synthpipe.patches.listing import files
from synthpipe.patches.quality.measuring import DonorQuality, Features, measure_donors
from synthpipe.patches.quality.table import write_quality
from synthpipe.report.quality_sheet import quality_sheet


def write_donor_quality(
    catalog: Catalog,
    taxonomy: Taxonomy,
    glass: GlassSection | None,
    table: Location,
    network: str | None,
    weights: str | None,
    against: Sequence[Location],
) -> list[DonorQuality]:
    """Measure the donors of a catalog, write the table and, beside it, the picture; return the measures.

    Raises
    ------
    CatalogError
        The catalog has no donors, or a file cannot be read.
    ConfigError
        The table's name does not end in ``.csv``, or the network or its weights cannot be used.
    StoreError
        A file cannot be written.
    """
    if table.suffix.lower() != ".csv":
        raise ConfigError(f"--quality {table}: expected a name that ends in .csv, such as quality.csv")
    if not catalog.donors:
        raise CatalogError("--quality: no patch has exactly one class, so there are no donors to measure")
    features: Features | None = None
    if network:
        require("--network", *TORCH)
        from synthpipe.pretrained.features import NetworkFeatures  # loads torch, which the default does not need

        features = NetworkFeatures(network, weights)
    others = sorted(path for folder in against for _, path in files(folder))
    donors = catalog.donors
    with reporter().stage("quality", len(donors) + len(others)) as advance:
        found = measure_donors(donors, len(taxonomy), glass, features, others, lambda: advance(1))
    write_quality(found, taxonomy, table)
    write_atomically(table.with_suffix(".png"), quality_sheet(found, taxonomy))
    return found
