"""The curated set as a contract: what training, reports and exports open, and all they need to know of it."""

from synthpipe.handoff.curated import CuratedSet, open_curated
from synthpipe.handoff.description import Description, Sample
from synthpipe.handoff.pseudo_labelled import PSEUDO_LABELLED, begin_pseudo_labelled, write_pseudo_labelled
from synthpipe.handoff.run import Run, open_run
from synthpipe.handoff.splits import Split

__all__ = [
    "PSEUDO_LABELLED",
    "CuratedSet",
    "Description",
    "Run",
    "Sample",
    "Split",
    "begin_pseudo_labelled",
    "open_curated",
    "open_run",
    "write_pseudo_labelled",
]
