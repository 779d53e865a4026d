"""From weakly-labelled pathology patches to curated composites with pixel masks, in Zarr."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthpipe.handoff import CuratedSet, open_curated

__all__ = ["CuratedSet", "open_curated"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: the command line needs none of it, and starts sooner."""
    if name in __all__:
        from synthpipe import handoff

        return getattr(handoff, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
