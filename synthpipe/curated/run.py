"""Open a run in Python, with all results of its build so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from synthpipe.config.pipeline import Pipeline
from synthpipe.core.display import printable, without_secrets
from synthpipe.core.errors import StoreError
from synthpipe.core.records import Strategy
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.curated.composites import composites_of
from synthpipe.curated.curated_set import CuratedSet
from synthpipe.curated.description import Sample
from synthpipe.files.locations import Location, exists, parse_location
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import open_group
from synthpipe.storage.stores import CompositeStore


def open_run(path: str | Location) -> Run:
    """Open a run, finished or not, at a path or URL.

    Raises
    ------
    StoreError
        There is no run at `path`, or its files are damaged.
    """
    directory = RunDirectory(parse_location(path))
    data = directory.read()
    return Run(directory.path, str(data["name"]), str(data["fingerprint"]), directory.pipeline())


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A run: its pipeline, progress, candidates and curated set.

    Attributes
    ----------
    path : Path or UPath
        The run directory.
    name : str
        Name of the pipeline.
    fingerprint : str
        Fingerprint of the pipeline; runs with the same fingerprint and patches have the same bytes.
    pipeline : Pipeline
        All settings of the build.
    """

    path: Location
    name: str
    fingerprint: str
    pipeline: Pipeline

    @property
    def taxonomy(self) -> Taxonomy:
        return self.pipeline.taxonomy

    @property
    def journal(self) -> dict[str, Any]:
        """Contents of ``build.json``: seconds of each stage, verdicts and class shares of each strategy, and more."""
        return RunDirectory(self.path).journal()

    @property
    def finished(self) -> bool:
        return bool(self.journal.get("finished"))

    @property
    def curated(self) -> CuratedSet:
        """The curated set of the run.

        Raises
        ------
        StoreError
            The run has no curated set yet, or it is incomplete.
        """
        path = RunDirectory(self.path).curated
        return CuratedSet(path if exists(path) else self.path)  # the error advises how to finish the run

    def candidates(self, strategy: Strategy) -> zarr.Group:
        """Return the candidates of a strategy: arrays ``image``, ``mask``, ``recipe``, ``p_real``, ``verdict``, ...

        Virtual candidates have no ``image`` and no ``mask``; `candidate` renders one.

        Raises
        ------
        StoreError
            The run has no candidates of this strategy.
        """
        return open_group(RunDirectory(self.path).candidates, strategy)

    def candidate(self, strategy: Strategy, index: int) -> Sample:
        """Return one candidate; its verdict does not matter.

        Raises
        ------
        StoreError
            There is no candidate with this index, or it is not rendered yet. Or it is virtual, and the curated set has
            no pixels of one of its donors.
        """
        run = RunDirectory(self.path)
        store = CompositeStore.open(run.candidates, strategy)
        count = store.length()
        if not 0 <= index < count:
            raise StoreError(f"{self.path}: no {strategy} candidate {index}; there are {count}, counted from 0")
        if index // store.shard not in store.complete_shards():
            raise StoreError(f"{self.path}: {strategy} candidate {index} is not rendered yet; finish the build first")
        image, mask = composites_of(store, run.curated).pixels(index)
        labels = np.isin(np.arange(len(self.taxonomy)), mask).astype(np.uint8)
        return Sample(image, mask, labels, self.taxonomy)

    def __repr__(self) -> str:
        """Return a text with the run's name, state, classes and path."""
        state = "finished" if self.finished else "not finished"
        lines = [
            f"Run of {self.name}, {state}",
            f"  classes      {', '.join(self.taxonomy.names)}",
            f"  fingerprint  {self.fingerprint}",
            f"  path         {without_secrets(self.path)}",
        ]
        return "\n".join(map(printable, lines))

    def _repr_html_(self) -> str:
        from synthpipe.curated.notebook import run_html  # loads OpenCV and Pillow

        return run_html(self)
