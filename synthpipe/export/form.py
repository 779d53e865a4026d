"""The protocol of export forms, and the PNG encoding that all of them use."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image as Pillow

from synthpipe.core.errors import StoreError
from synthpipe.core.records import Image, Mask
from synthpipe.curated import Description
from synthpipe.export.entries import Copy, Part
from synthpipe.files.locations import Location
from synthpipe.patches.pixels import opened
from synthpipe.report.data_cards.croissant import Node

Pixels = tuple[Image, Mask]
Files = Iterator[tuple[str, bytes]]
"""Names of files below the folder of an export, with forward slashes, and their contents."""

# For H&E, run-length matching is twice as fast as zlib's default strategy, and gives smaller files.
_PNG = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_COMPRESSION, 1)


@dataclass(frozen=True, slots=True)
class DataCard:
    """The parts of a data card that depend on the form.

    Attributes
    ----------
    lines : sequence of str
        Lines of Markdown about the files.
    files, records : sequence of mapping
        Nodes of Croissant, made by `synthpipe.report.data_cards.croissant`.
    header : mapping
        More keys of the README's YAML header.
    """

    lines: Sequence[str]
    files: Sequence[Node]
    records: Sequence[Node]
    header: Mapping[str, Any] = field(default_factory=dict)


class Form(Protocol):
    """An export format. A form makes and parses the contents of files; its caller writes the files."""

    @property
    def description(self) -> Description:
        """Description of the set's samples."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Optional packages that are needed to write this form."""

    @property
    def library(self) -> str:
        """Package that users need to read this form."""

    def names(self, part: Part) -> Iterator[str]:
        """Yield the names of a part's files."""

    def files(self, part: Part, pixels: Iterable[Pixels]) -> Files:
        """Yield names and contents of a part's files in the order of `names`. Equal input gives equal bytes.

        `pixels` yields the image and the mask of each entry. They are read only when a file needs them.
        """

    def read(self, folder: Location, part: Part) -> Iterator[Copy]:
        """Read the samples of a part from its files, without optional packages."""

    def read_by_library(self, folder: Location, part: Part) -> Iterator[Copy]:
        """Read the samples of a part with the form's own library. The folder must be on a disk."""

    def whole(self, folder: Location, parts: int, composites: int) -> Iterator[tuple[str, Iterable[bytes]]]:
        """Yield the files of the whole set, after all `parts` parts with all `composites` composites are written."""

    def card(self, folder: Location, composites: int, size: int) -> DataCard:
        """Return the data card of a written export with `composites` composites and `size` bytes."""


def image_png(image: Image) -> bytes:
    """Encode an RGB image as PNG with fast settings. Equal images give equal bytes.

    Raises
    ------
    StoreError
        OpenCV cannot encode the image.
    """
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _PNG)
    if not done:
        raise StoreError(f"an image of shape {image.shape} cannot be encoded as PNG; check the installed OpenCV")
    return data.tobytes()


def grey_png(mask: Mask) -> bytes:
    """Encode a mask as a grey PNG, for readers that convert palettes to colours."""
    buffer = io.BytesIO()
    Pillow.fromarray(mask).save(buffer, format="PNG")
    return buffer.getvalue()


def from_png(data: bytes, size: tuple[int, int]) -> Image | Mask:
    """Decode a PNG of at most `size` pixels: (H, W, 3) for RGB, (H, W) for a palette or grey.

    Raises
    ------
    CatalogError
        The PNG cannot be decoded, or has more pixels than `size`.
    """
    with opened(data, size[0] * size[1]) as picture:
        return np.asarray(picture)
