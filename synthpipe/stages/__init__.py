"""The stages of a build, from patches to a curated set; they know no pixel."""

from synthpipe.stages.build import build
from synthpipe.stages.feasibility import check_patches, remarks

__all__ = ["build", "check_patches", "remarks"]
