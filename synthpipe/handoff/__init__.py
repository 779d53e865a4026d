"""The curated set as a contract: what training, reports and exports open, and all they need to know of it."""

from synthpipe.handoff.curated import CuratedSet, Description, Sample, open_curated
from synthpipe.handoff.pseudo_labelled import begin_pseudo_labelled, write_pseudo_labelled
from synthpipe.handoff.splits import Split

__all__ = [
    "CuratedSet",
    "Description",
    "Sample",
    "Split",
    "begin_pseudo_labelled",
    "open_curated",
    "write_pseudo_labelled",
]
