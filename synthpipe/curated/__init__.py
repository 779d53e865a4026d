"""Open curated sets and runs in Python; training, reports and exports use this package."""

from synthpipe.curated.curated_set import CuratedSet, open_curated
from synthpipe.curated.description import Description, Sample
from synthpipe.curated.pseudo_labelled import PSEUDO_LABELLED, begin_pseudo_labelled, write_pseudo_labelled
from synthpipe.curated.run import Run, open_run
from synthpipe.curated.splits import Split

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
