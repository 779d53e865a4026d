"""How the patches of a run are reached again: credentials and signatures of their URLs are not stored in it."""

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

MOVED = "if the patches have moved, say where they lie now: --patches ROOT (folder, CSV or URL, as patches.root)"
"""What to do about patches of a run that are not where they were."""


def with_access(catalog: Catalog, patches: PatchesSection, taxonomy: Taxonomy, note: Callable[[str], None]) -> Catalog:
    """Return the catalog of a run with the credentials and signatures that `patches` holds, or its table.

    Parameters
    ----------
    catalog : Catalog
        As it is stored.
    patches, taxonomy
        Of the pipeline that a build resumes with.
    note : callable
        Told where they cannot be read; a patch that needs none is read without.
    """
    may_have_secrets = patches.layout == "csv" or patches.root != without_secrets(patches.root)
    if not (catalog.hosts and may_have_secrets):
        return catalog
    try:
        return _found(catalog, read_layout(patches, taxonomy))
    except CatalogError as error:
        note(f"note: {error}; patches behind URLs are read without credentials")
        return catalog


def find_patches(
    catalog: Catalog, patches: PatchesSection, taxonomy: Taxonomy, root: str | None, what: Location
) -> Catalog:
    """Return the catalog of a run as its patches may be read: behind URLs only those whose root the user names.

    A run may be a stranger's, and so may be the addresses in it; credentials are not stored in it.

    Parameters
    ----------
    catalog, patches, taxonomy
        Of the run.
    root : str or None
        Where the patches lie now, as `patches.root`; None where the user does not say.
    what : Path or UPath
        The run, for messages.

    Raises
    ------
    CatalogError
        Patches lie behind URLs and there is no `root`, or it lacks some of them.
    """
    if root is None:
        if catalog.hosts:
            raise CatalogError(f"{what}: {unread(catalog, patches)}")
        return catalog
    claims = read_layout(patches.model_copy(update={"root": root}), taxonomy)
    usable = {claim.id for claim in claims if not claim.problems}
    if missing := [patch.id for patch in catalog.patches if patch.id not in usable]:
        raise CatalogError(
            f"{root}: lacks {len(missing)} of the {len(catalog.patches)} patches of {what}, {missing[0]!r} the first; "
            "give --patches the folder, CSV or URL that holds them, as patches.root did"
        )
    return _found(catalog, claims)


def unread(catalog: Catalog, patches: PatchesSection) -> str:
    """Say why patches behind URLs are not read, and how they are."""
    return (
        f"its patches lie at {', '.join(catalog.hosts)}, where nothing is read unless you ask for it; give --patches "
        f"ROOT, which is {without_secrets(patches.root)} in its pipeline, with the credentials that it needs"
    )


def _found(catalog: Catalog, claims: Iterable[Claim]) -> Catalog:
    """Return the same patches where they lie now, found by their ids."""
    found = {claim.id: claim for claim in claims if not claim.problems}
    patches = (
        replace(patch, path=found[patch.id].path, secret_url=found[patch.id].secret_url) if patch.id in found else patch
        for patch in catalog.patches
    )
    return replace(catalog, patches=tuple(patches))
