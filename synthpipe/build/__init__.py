"""Build a run: from patches to a curated set."""

from synthpipe.build.preflight import check_patches, remarks
from synthpipe.build.run import build

__all__ = ["build", "check_patches", "remarks"]
