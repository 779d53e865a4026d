"""Render the pixels of a virtual curated set from its donors. This module loads the compiled kernels."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.compose import SAMPLER_VERSION, Block, Donors, render, render_block, sample, sample_block
from synthpipe.config.pipeline import Pipeline
from synthpipe.config.pipeline_file import from_keys
from synthpipe.core.errors import ConfigError, MissingDonorError, StoreError
from synthpipe.core.records import STRATEGIES, Composite, Donor, Image, Mask, PackedPixels, Strategy
from synthpipe.files.locations import Location
from synthpipe.storage.donors import DonorStore, DonorTable
from synthpipe.storage.nodes import HOW_TO_MEND, METADATA, damaged
from synthpipe.storage.schema import DONORS


class Renderer:
    """Render any composite of a pipeline from the donors that a virtual curated set holds.

    Donors are loaded when they are first needed, 4 bytes for each pixel, once in each process; forked processes share
    them.

    Parameters
    ----------
    path : Path or UPath
        The curated set.
    attributes : mapping
        The attributes of the set.

    Raises
    ------
    StoreError
        Another version of the sampler made the composites, or the settings of the pipeline are damaged.
    """

    def __init__(self, path: Location, attributes: Mapping[str, Any]) -> None:
        self._path = path
        found = attributes.get("sampler_version")
        if found != SAMPLER_VERSION:
            raise StoreError(
                f"{path}: version {found} of the sampler made these composites, but this synthpipe has version "
                f"{SAMPLER_VERSION} and would render other pixels; open the set with the synthpipe that made it, or "
                "store its pixels with that one's `synthpipe materialize`"
            )
        keys = {
            **attributes.get("settings", {}),
            "patches": {"root": ".", "layout": "folders"},
            "filter": {"enabled": False},
        }
        try:
            self.pipeline: Pipeline = from_keys(keys, Path("settings"))
        except ConfigError as error:
            raise damaged(path / METADATA, f"attributes.{error}") from error
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._donors: Donors | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without donors: each process loads its own."""
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_donors")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def render(self, strategy: Strategy, index: int) -> Composite:
        """Sample and render candidate `index` of a strategy.

        Raises
        ------
        MissingDonorError
            The set has no pixels of a donor of the composite.
        StoreError
            The donors are damaged.
        """
        donors = self.donors()
        try:
            return render(sample(self.pipeline, strategy, index, donors), donors)
        except KeyError as error:
            raise MissingDonorError(
                f"{self._path}: {strategy} {index} cannot be rendered: the set has no pixels of its donor {error}; if "
                f"this composite is in the set, the set is damaged: {HOW_TO_MEND}"
            ) from error
        except (ValueError, IndexError) as error:
            raise damaged(self._path, f"{strategy} {index} cannot be rendered: {error}") from error

    def sample(self, strategy: Strategy, indices: NDArray[np.int64]) -> Block:
        """Sample candidates of a strategy; the set has the pixels of their donors.

        Raises
        ------
        MissingDonorError, StoreError
            As for `render`.
        """
        donors = self.donors()
        try:
            block = sample_block(self.pipeline, strategy, indices, donors)
            block.bank.numbers(block.drawn)
        except (KeyError, ValueError, IndexError):
            for index in indices.tolist():
                self.render(strategy, index)  # the error names the composite
            raise
        return block

    def donors(self) -> Donors:
        """Return the donors of the set, which are loaded at the first call."""
        with self._lock:
            if self._donors is None:
                store = DonorStore.open(self._path, DONORS)
                table = store.table
                if any(donor.label >= len(self.pipeline.classes) for donor in table.donors):
                    raise damaged(f"{store.path}/{METADATA}", "attributes.table has a class that the set does not have")
                self._donors = donors_of(table, store.read_pixels())
            return self._donors


def donors_of(table: DonorTable, pixels: PackedPixels) -> Donors:
    """Return the donors of a table, with the stored pixels of some of them."""
    flat = np.zeros(3, np.uint8)
    drawn, start = list[Donor](), 0
    for number, each in enumerate(table.donors):
        if number < table.stored:
            planes = pixels[start : start + each.height * each.width].view(np.uint8).reshape(*each.size, 4)
            drawn.append(Donor(each.id, each.group, each.label, planes[..., :3], planes[..., 3]))
            start += each.height * each.width
        else:  # sampling uses only the donor's size
            drawn.append(Donor(each.id, each.group, each.label, np.broadcast_to(flat, (*each.size, 3)), None))
    resized = pixels[start : table.pixels()]
    fitted = resized.reshape(-1, *table.canvas) if table.canvas and len(resized) else None
    return Donors(drawn[: table.stored], pixels[:start], fitted).drawn_from(drawn)


class RenderedPixels:
    """Pixels that are rendered when they are read.

    Parameters
    ----------
    renderer : Renderer
        The donors of the set, and the pipeline that made it.
    strategies : (N,) uint8
        Indices in `records.STRATEGIES`.
    origins : (N,) int64
        Index of each sample among the candidates of its strategy.
    """

    def __init__(self, renderer: Renderer, strategies: NDArray[np.uint8], origins: NDArray[np.int64]) -> None:
        self.renderer, self._strategies, self._origins = renderer, strategies, origins

    def __len__(self) -> int:
        return len(self._origins)

    def read(
        self, samples: Sequence[int], images: Image | None = None, masks: Mask | None = None
    ) -> tuple[Image, Mask]:
        canvas = self.renderer.pipeline.canvas
        images = np.empty((len(samples), *canvas, 3), np.uint8) if images is None else images
        masks = np.empty((len(samples), *canvas), np.uint8) if masks is None else masks
        for rows, block in self.blocks(samples):
            render_block(block, images, masks, rows)
        return images, masks

    def blocks(self, samples: Sequence[int]) -> Iterator[tuple[NDArray[np.int64], Block]]:
        """Sample the recipes of samples; yield a block for each strategy, and its positions in `samples`."""
        chosen = np.asarray(samples, np.int64)
        codes, origins = self._strategies[chosen], self._origins[chosen]
        for code in np.unique(codes).tolist():
            rows = np.flatnonzero(codes == code)
            yield rows, self.renderer.sample(STRATEGIES[code], origins[rows])

    def read_masks(self, samples: Sequence[int]) -> Mask:
        return self.read(samples)[1]

    def load(self) -> None:
        self.renderer.donors()
