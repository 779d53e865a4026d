"""The interface to the pixels of a curated set, and the pixels that a set stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from synthpipe.core.records import Image, Mask
from synthpipe.storage.samples import SampleReader


class Pixels(Protocol):
    """The images and masks of all samples of a set. It can be pickled, forked and spawned."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def read(
        self, samples: Sequence[int], images: Image | None = None, masks: Mask | None = None
    ) -> tuple[Image, Mask]:
        """Return images (n, H, W, 3) and masks (n, H, W) of samples; fill C-contiguous arrays if they are given."""

    def read_masks(self, samples: Sequence[int]) -> Mask:
        """Return the masks (n, H, W) of samples."""

    def load(self) -> None:
        """Load all data that forked processes can share."""


class StoredPixels:
    """Pixels that a curated set stores."""

    def __init__(self, images: SampleReader, masks: SampleReader) -> None:
        self._images, self._masks = images, masks

    def __len__(self) -> int:
        return len(self._images)

    def read(
        self, samples: Sequence[int], images: Image | None = None, masks: Mask | None = None
    ) -> tuple[Image, Mask]:
        return self._images.read_many(samples, images), self._masks.read_many(samples, masks)

    def read_masks(self, samples: Sequence[int]) -> Mask:
        return self._masks.read_many(samples)

    def load(self) -> None:
        """Load nothing: processes share the cache of the file system."""
