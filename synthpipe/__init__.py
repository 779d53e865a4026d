"""From weakly-labelled pathology patches to curated composites with pixel masks, in Zarr."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthpipe.curated import CuratedSet, Run, open_curated, open_run, plot

__all__ = ["CuratedSet", "Run", "open_curated", "open_run", "plot"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: the command line needs none of it, and starts sooner."""
    if name == "plot":
        return import_module("synthpipe.curated.plot")
    if name in __all__:
        return getattr(import_module("synthpipe.curated"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
