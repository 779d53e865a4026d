"""`synthpipe index --quality`: measure the donors, and write the table and a picture of the worst donors."""

from __future__ import annotations

from collections.abc import Sequence

from synthpipe.cli.progress import reporter
from synthpipe.config.pipeline import GlassSection
from synthpipe.core.errors import CatalogError, ConfigError
from synthpipe.core.packages import TORCH, require
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.files.locations import Location, exists
from synthpipe.files.writing import first_bytes, write_atomically
from synthpipe.patches.catalog import Catalog
from synthpipe.patches.listing import SUFFIXES, files
from synthpipe.patches.quality.measuring import DonorQuality, Features, measure_donors
from synthpipe.patches.quality.table import HEADER, write_quality
from synthpipe.report.quality_sheet import quality_sheet


def check_table(table: Location) -> None:
    """Refuse a name that does not end in ``.csv``, and a name whose table or picture would replace other files.

    Raises
    ------
    ConfigError
        The table must not be written to this location.
    StoreError
        An existing file cannot be read.
    """
    if table.suffix.lower() != ".csv":
        raise ConfigError(f"--quality {table}: expected a name that ends in .csv, such as quality.csv")
    head, picture = first_bytes(table, len(HEADER)), table.with_suffix(".png")
    if head not in (None, HEADER):
        raise ConfigError(f"--quality {table}: exists, and is not a table of donor quality; choose another name")
    if head is None and exists(picture):
        raise ConfigError(f"--quality {table}: would replace {picture}; choose another name")


def network_features(network: str | None, weights: str | None) -> Features | None:
    """Return a function that computes the features of a timm network, or None without a network.

    Raises
    ------
    MissingPackageError
        PyTorch or timm is not installed.
    ConfigError
        The network or its weights cannot be used.
    """
    if network is None:
        return None
    require("--network", *TORCH)
    from synthpipe.pretrained.features import NetworkFeatures  # loads torch, which the default does not need

    return NetworkFeatures(network, weights)


def images_in(folders: Sequence[Location]) -> list[str]:
    """Return the sorted paths of all images in the folders of ``--against``.

    Raises
    ------
    CatalogError
        A folder cannot be listed, or has no images.
    """
    images = {folder: [path for _, path in files(folder)] for folder in folders}
    for folder, paths in images.items():
        if not paths:
            raise CatalogError(f"--against {folder}: has no images; expected names that end in {', '.join(SUFFIXES)}")
    return sorted(path for paths in images.values() for path in paths)


def write_donor_quality(
    catalog: Catalog,
    taxonomy: Taxonomy,
    glass: GlassSection | None,
    table: Location,
    features: Features | None,
    others: Sequence[str],
) -> list[DonorQuality]:
    """Measure the donors of a catalog, and write the table, and beside it a PNG of the worst donors.

    Raises
    ------
    CatalogError
        The catalog has no donors, or a file cannot be read.
    StoreError
        A file cannot be written.
    """
    donors = catalog.donors
    if not donors:
        raise CatalogError("--quality: no patch has exactly one class, so there are no donors to measure")
    with reporter().stage("quality", len(donors) + len(others)) as advance:
        found = measure_donors(donors, len(taxonomy), glass, features, others, lambda: advance(1))
    write_quality(found, taxonomy, table)
    write_atomically(table.with_suffix(".png"), quality_sheet(found, taxonomy))
    return found
