"""The stages of a build, from patches to a curated set; they know no pixel."""

from synthpipe.stages.build import build
from synthpipe.stages.feasibility import check_patches, remarks
from synthpipe.stages.state import Reporter

__all__ = ["Reporter", "build", "check_patches", "remarks"]
