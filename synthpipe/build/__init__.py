"""The stages of a build, from patches to a curated set; they know no pixel."""

from synthpipe.build.run import build
from synthpipe.build.preflight import check_patches, remarks

__all__ = ["build", "check_patches", "remarks"]
