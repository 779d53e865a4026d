"""Procedural H&E-like tissue, the data of the demo and the tests."""

from synthpipe.patches.phantom.data_set import (
    PHANTOM_TAXONOMY,
    PhantomSpec,
    PhantomSummary,
    slide_name,
    write_phantom,
)

__all__ = ["PHANTOM_TAXONOMY", "PhantomSpec", "PhantomSummary", "slide_name", "write_phantom"]
