"""Sources of training images: composites, real patches with labels, and crops of images with masks."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from synthpipe.config.pipeline import GlassSection
from synthpipe.core.errors import ConfigError
from synthpipe.core.records import Image, Mask, PatchRef
from synthpipe.core.resizing import fit
from synthpipe.curated import CuratedSet, Description
from synthpipe.patches.glass import glass_mask
from synthpipe.patches.pixels import read_pixels
from synthpipe.segment.masks import MaskedImage

if TYPE_CHECKING:
    from synthpipe.curated.fresh import FreshComposites

_HELD = 2**30  # largest size in bytes of the decoded images that all processes of a device keep

Labels = NDArray[np.uint8]
"""(N, C) uint8: 1 where a class occurs."""


class Source(Protocol):
    """Images of equal size with masks and labels, which can be read in any order."""

    def __len__(self) -> int: ...

    def read(
        self,
        indices: Sequence[int],
        rngs: Sequence[np.random.Generator],
        positions: Sequence[int] | None = None,
    ) -> tuple[Image, Mask, Labels]:
        """Return (n, H, W, 3) images, (n, H, W) masks and (n, C) labels.

        `rngs` has a generator for each image. `positions` are those of the images in the training's endless stream,
        which fresh composites need; by default they are `indices`.
        """


class Composites:
    """One or more curated sets, joined to a single source.

    Parameters
    ----------
    sets : sequence of CuratedSet
        The sets.
    fresh : sequence of FreshComposites, optional
        A stream of fresh composites for each set, which take the places of its samples.

    Raises
    ------
    ConfigError
        A set has other classes or another size than the first set.
    """

    def __init__(self, sets: Sequence[CuratedSet], fresh: Sequence[FreshComposites] = ()) -> None:
        self.sets, self.fresh = tuple(sets), tuple(fresh)
        first = sets[0]
        for other in sets[1:]:
            if other.taxonomy.names != first.taxonomy.names or other.size != first.size:
                raise ConfigError(
                    f"{other.path}: has classes {', '.join(other.taxonomy.names)} at {_by(other.size)}, expected "
                    f"{', '.join(first.taxonomy.names)} at {_by(first.size)} like {first.path}; give sets with equal "
                    "classes and sizes"
                )
        self._ends = np.cumsum([len(each) for each in sets]).tolist()
        for stream in self.fresh:
            stream.load()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(
        self,
        indices: Sequence[int],
        rngs: Sequence[np.random.Generator],
        positions: Sequence[int] | None = None,
    ) -> tuple[Image, Mask, Labels]:
        size = self.sets[0].size
        images, masks = np.empty((len(indices), *size, 3), np.uint8), np.empty((len(indices), *size), np.uint8)
        labels = np.empty((len(indices), len(self.sets[0].taxonomy)), np.uint8)
        owners = np.array([bisect.bisect_right(self._ends, index) for index in indices])
        for owner in np.unique(owners):
            chosen = np.flatnonzero(owners == owner)
            start = self._ends[owner] - len(self.sets[owner])
            own = [indices[number] - start for number in chosen.tolist()]
            if self.fresh:
                stream = [(indices if positions is None else positions)[number] for number in chosen.tolist()]
                images[chosen], masks[chosen], labels[chosen], *_ = self.fresh[owner].read(stream, own)
            else:
                images[chosen], masks[chosen] = self.sets[owner].read(own)
                labels[chosen] = self.sets[owner].labels[own]
        return images, masks, labels


class RealPatches:
    """Weakly-labelled patches, resized to the composites' size; their masks have the background index on glass, else 0.

    Parameters
    ----------
    patches : sequence of PatchRef
        Patches of the catalog.
    description : Description
        The size, the classes and the settings of glass detection.
    """

    def __init__(self, patches: Sequence[PatchRef], description: Description) -> None:
        self.patches = tuple(patches)
        self._description = description
        self.labels: Labels = np.array(
            [[label in patch.classes for label in range(len(description.taxonomy))] for patch in patches], np.uint8
        )

    def __len__(self) -> int:
        return len(self.patches)

    def read(
        self,
        indices: Sequence[int],
        rngs: Sequence[np.random.Generator],
        positions: Sequence[int] | None = None,
    ) -> tuple[Image, Mask, Labels]:
        size, background = self._description.size, self._description.taxonomy.background
        pairs = [self._read(self.patches[index], self._description.glass) for index in indices]
        images = np.stack([fit(image, size) for image, _ in pairs])
        masks = np.stack([background * fit(glass, size, nearest=True) for _, glass in pairs])
        return images, masks, self.labels[list(indices)]

    @staticmethod
    def _read(patch: PatchRef, glass: GlassSection | None) -> tuple[Image, Mask]:
        image = read_pixels(patch)
        return image, glass_mask(image, glass) if glass else np.zeros(image.shape[:2], np.uint8)


class MaskedCrops:
    """Random crops of images with true masks, in the composites' size; the upper bound trains on them.

    Up to 1 GiB of decoded images per device stays in memory; other images are read each time.
    """

    def __init__(self, images: Sequence[MaskedImage], description: Description) -> None:
        self.images = tuple(images)
        self._description = description
        self._held: dict[int, tuple[Image, Mask]] = {}
        self._room: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    def read(
        self,
        indices: Sequence[int],
        rngs: Sequence[np.random.Generator],
        positions: Sequence[int] | None = None,
    ) -> tuple[Image, Mask, Labels]:
        crops = [self._crop(index, rng) for index, rng in zip(indices, rngs, strict=True)]
        masks = np.stack([mask for _, mask in crops])
        classes = np.arange(len(self._description.taxonomy))
        labels = (masks[:, None] == classes[None, :, None, None]).any((2, 3)).astype(np.uint8)
        return np.stack([image for image, _ in crops]), masks, labels

    def _crop(self, index: int, rng: np.random.Generator) -> tuple[Image, Mask]:
        image, mask = self._held.get(index) or self._read(index)
        height, width = self._description.size
        y, x = rng.integers(0, [mask.shape[0] - height + 1, mask.shape[1] - width + 1])
        window = np.s_[y : y + height, x : x + width]
        return image[window], mask[window]

    def _read(self, index: int) -> tuple[Image, Mask]:
        if self._room is None:  # decided here, in the process that reads
            from torch.utils.data import get_worker_info  # imported late: checks of curated sets do not need torch

            worker = get_worker_info()
            self._room = _HELD // (worker.num_workers if worker else 1)
        image, mask = whole = self._whole(self.images[index])
        # images are read in turns, so removing one to keep another would remove each before its next use
        if image.nbytes + mask.nbytes <= self._room:
            self._held[index] = whole
            self._room -= image.nbytes + mask.nbytes
        return whole

    def _whole(self, source: MaskedImage) -> tuple[Image, Mask]:
        """Return an image and its mask, padded by reflection to at least the composites' size."""
        image, mask = source.read(self._description.taxonomy)
        pads = [max(0, wanted - side) for wanted, side in zip(self._description.size, mask.shape, strict=True)]
        image = np.pad(image, [*((0, pad) for pad in pads), (0, 0)], "symmetric")
        return image, np.pad(mask, [(0, pad) for pad in pads], "symmetric")


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
