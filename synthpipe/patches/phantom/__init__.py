"""Procedural H&E-like tissue: the data that the demo and the tests run on."""

from synthpipe.patches.phantom.data_set import (
    PHANTOM_TAXONOMY,
    PhantomSpec,
    PhantomSummary,
    slide_name,
    write_phantom,
)

__all__ = ["PHANTOM_TAXONOMY", "PhantomSpec", "PhantomSummary", "slide_name", "write_phantom"]
