"""What a form of export is, and the PNG bytes that all of them hold."""

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
"""Names, with forward slashes, below the folder of an export, and what the files hold."""

# Runs suit H&E: on its tiles this is twice as fast as zlib's own strategy, and the files are smaller.
_PNG = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_COMPRESSION, 1)


@dataclass(frozen=True, slots=True)
class DataCard:
    """What the data cards of an export tell of its form.

    Attributes
    ----------
    lines : sequence of str
        Of Markdown, about the files.
    files, records : sequence of mapping
        Of Croissant, as `synthpipe.report.data_cards.croissant` makes them.
    header : mapping
        More keys of the README's YAML header.
    """

    lines: Sequence[str]
    files: Sequence[Node]
    records: Sequence[Node]
    header: Mapping[str, Any] = field(default_factory=dict)


class Form(Protocol):
    """A form that curated sets can be exported to; it knows file contents, and leaves writing to its caller."""

    @property
    def description(self) -> Description:
        """What the set's samples are."""

    @property
    def requires(self) -> tuple[str, ...]:
        """The packages that writing needs beyond the ones that synthpipe always has."""

    @property
    def library(self) -> str:
        """The package that users of this form read it with."""

    def names(self, part: Part) -> Iterator[str]:
        """Yield the names of a part's files."""

    def files(self, part: Part, pixels: Iterable[Pixels]) -> Files:
        """Yield a part's files in the order of `names`; equal input gives equal bytes.

        `pixels` are the images and masks of its entries, to be used up as files are asked for.
        """

    def read(self, folder: Location, part: Part) -> Iterator[Copy]:
        """Yield the composites of a part as its files hold them, by decoders that synthpipe always has."""

    def read_by_library(self, folder: Location, part: Part) -> Iterator[Copy]:
        """Yield the composites of a part as the form's own library reads them; the folder is on a disk."""

    def whole(self, folder: Location, parts: int, composites: int) -> Iterator[tuple[str, Iterable[bytes]]]:
        """Yield the files that the whole set of so many `composites` needs beside its `parts`, once these are there."""

    def card(self, folder: Location, composites: int, size: int) -> DataCard:
        """Return what to tell of an export of so many composites and bytes, all of which is written."""


def image_png(image: Image) -> bytes:
    """Return an RGB image as PNG, fast; equal images give equal bytes.

    Raises
    ------
    StoreError
        OpenCV cannot encode it.
    """
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _PNG)
    if not done:
        raise StoreError(f"an image of shape {image.shape} cannot be encoded as PNG; check the installed OpenCV")
    return data.tobytes()


def grey_png(mask: Mask) -> bytes:
    """Return a mask as a PNG without palette, for readers that turn palettes into colours."""
    buffer = io.BytesIO()
    Pillow.fromarray(mask).save(buffer, format="PNG")
    return buffer.getvalue()


def from_png(data: bytes, size: tuple[int, int]) -> Image | Mask:
    """Return the pixels of a PNG of `size`: (H, W, 3) of one in RGB, (H, W) of one with a palette, or grey.

    Raises
    ------
    CatalogError
        It cannot be decoded, or has more pixels.
    """
    with opened(data, size[0] * size[1]) as picture:
        return np.asarray(picture)
