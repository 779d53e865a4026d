"""Add credentials and present locations to the patches of a run. Runs do not store the credentials of URLs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from synthpipe.config.pipeline import PatchesSection
from synthpipe.core.display import without_secrets
from synthpipe.core.errors import CatalogError
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.files.locations import Location
from synthpipe.patches.catalog import Catalog
from synthpipe.patches.claims import Claim
from synthpipe.patches.layouts import read_layout

MOVED = "if the patches have moved, give their new location: --patches ROOT (folder, CSV or URL, as patches.root)"
"""Advice for a user whose patches have moved."""


def with_access(catalog: Catalog, patches: PatchesSection, taxonomy: Taxonomy, note: Callable[[str], None]) -> Catalog:
    """Return a run's catalog with the credentials and signatures that the pipeline's root or table gives.

    Parameters
    ----------
    catalog : Catalog
        The catalog as the run stores it.
    patches, taxonomy
        Sections of the pipeline of the resumed build.
    note : callable
        Receives a message if the layout of `patches` cannot be read. Then the catalog is returned unchanged.
    """
    may_have_secrets = patches.layout == "csv" or patches.root != without_secrets(patches.root)
    if not (catalog.hosts and may_have_secrets):
        return catalog
    try:
        return _relocated(catalog, read_layout(patches, taxonomy))
    except CatalogError as error:
        note(f"note: {error}; patches behind URLs are read without credentials")
        return catalog


def find_patches(
    catalog: Catalog, patches: PatchesSection, taxonomy: Taxonomy, root: str | None, what: Location
) -> Catalog:
    """Return a run's catalog with the present locations of its patches.

    A run and its URLs can come from a stranger. So patches at URLs are read only if the user gives `root`. `root` also
    gives the credentials, which a run does not store.

    Parameters
    ----------
    catalog, patches, taxonomy
        Catalog and pipeline sections of the run.
    root : str or None
        Current root of the patches, as `patches.root`; None if the user does not give it.
    what : Path or UPath
        The run, for messages.

    Raises
    ------
    CatalogError
        Patches are at URLs and `root` is None, or some patches are not at `root`.
    """
    if root is None:
        if catalog.hosts:
            raise CatalogError(f"{what}: {unread_message(catalog, patches)}")
        return catalog
    claims = read_layout(patches.model_copy(update={"root": root}), taxonomy)
    usable = {claim.id for claim in claims if not claim.problems}
    if missing := [patch.id for patch in catalog.patches if patch.id not in usable]:
        raise CatalogError(
            f"{root}: {len(missing)} of the {len(catalog.patches)} patches of {what} are missing, such as "
            f"{missing[0]!r}; give --patches the folder, CSV or URL with all patches"
        )
    return _relocated(catalog, claims)


def unread_message(catalog: Catalog, patches: PatchesSection) -> str:
    """Return the message that patches at URLs are not read. The message names the option that permits reading."""
    return (
        f"its patches are at {', '.join(catalog.hosts)}, and patches at URLs are read only if you ask for it; give "
        f"--patches ROOT (in its pipeline: {without_secrets(patches.root)}), with the credentials for this root"
    )


def _relocated(catalog: Catalog, claims: Iterable[Claim]) -> Catalog:
    """Return the catalog; each patch gets the path and the URL of the claim with the same id."""
    found = {claim.id: claim for claim in claims if not claim.problems}
    patches = (
        replace(patch, path=found[patch.id].path, secret_url=found[patch.id].secret_url) if patch.id in found else patch
        for patch in catalog.patches
    )
    return replace(catalog, patches=tuple(patches))
