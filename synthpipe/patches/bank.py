"""The donor bank: one file with all decoded donors, which every process of a machine maps read-only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

import google_crc32c
import numpy as np

from synthpipe.config.pipeline import GlassSection
from synthpipe.core.errors import StoreError, SynthpipeError
from synthpipe.core.records import Donor, Mask, PackedPixels, PatchRef, pack
from synthpipe.core.threads import in_threads
from synthpipe.files.scratch import ANOTHER_LOCATION, open_own
from synthpipe.patches.glass import glass_mask
from synthpipe.patches.pixels import read_pixels

_PIXELS, _FITTED, _INDEX = "donors.bin", "fitted.bin", "donors.json"
_BLOCK = 16 << 20  # bytes per read for a checksum


def load_donor(patch: PatchRef, glass: GlassSection | None, background: int) -> Donor:
    """Decode a single-class patch.

    Parameters
    ----------
    patch : PatchRef
        Must have one class.
    glass : GlassSection or None
        Settings of glass detection; None to skip it.
    background : int
        The mask value of glass.

    Raises
    ------
    CatalogError
        The file cannot be read, or has changed since it was indexed.
    """
    (label,) = patch.classes
    image = read_pixels(patch)
    mask: Mask | None = None
    if glass is not None:
        mask = np.where(glass_mask(image, glass) == 1, np.uint8(background), np.uint8(label))
    return Donor(patch.id, patch.group, label, image, mask)


def build_bank(
    directory: Path,
    patches: Sequence[PatchRef],
    glass: GlassSection | None,
    background: int,
    on_patch: Callable[[], None],
    threads: int,
    fit: Callable[[PackedPixels], PackedPixels] | None = None,
) -> None:
    """Decode `patches` into a bank in `directory`.

    Parameters
    ----------
    directory : Path
        Must exist.
    patches : sequence of PatchRef
        Must have one class each.
    glass, background
        As for `load_donor`.
    on_patch : callable
        Called after each patch.
    threads : int
        Number of threads that decode.
    fit : callable, optional
        Resizes packed pixels to the canvas. If the size of a patch changes, the bank also holds the resized pixels.
        Then no composite needs to resize this patch.

    Raises
    ------
    CatalogError
        A file cannot be read, or has changed since it was indexed.
    StoreError
        The bank cannot be written, for example because the disk is full.
    """

    def decode(patch: PatchRef) -> tuple[PackedPixels, PackedPixels]:
        donor = load_donor(patch, glass, background)
        packed = pack(donor.image, donor.label if donor.mask is None else donor.mask)
        return packed, fit(packed) if fit else packed

    canvas: tuple[int, ...] | None = None
    try:
        with _PixelFile(directory / _PIXELS) as pixels, _PixelFile(directory / _FITTED) as fitted_pixels:
            for packed, fitted in in_threads(decode, patches, threads):
                pixels.write(packed)
                if fitted.shape != packed.shape:
                    fitted_pixels.write(fitted)
                    canvas = fitted.shape
                on_patch()
    except OSError as error:
        if isinstance(error, SynthpipeError):
            raise
        size = bank_bytes(patches)
        raise StoreError(
            f"{directory}: the donor bank cannot be written: {error.strerror}; it needs at least {size / 2**20:.0f} "
            f"MiB; free some space, or {ANOTHER_LOCATION}"
        ) from error
    stored = [asdict(replace(patch, secret_url=None)) for patch in patches]
    checksums = {_PIXELS: pixels.checksum, _FITTED: fitted_pixels.checksum}
    _write_index(directory, {"patches": stored, "canvas": canvas, "checksums": checksums})


def _write_index(directory: Path, index: Mapping[str, object]) -> None:
    """Write the index file of a bank. A bank with an index file is complete."""
    temporary = directory / f"{_INDEX}.partial"
    with _create(temporary) as file:
        file.write(json.dumps(index).encode())
    temporary.replace(directory / _INDEX)


class _PixelFile:
    """A new file of packed pixels, and the CRC-32C of its contents."""

    def __init__(self, path: Path) -> None:
        self._file, self.checksum = _create(path), 0

    def __enter__(self) -> _PixelFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, pixels: PackedPixels) -> None:
        data = pixels.tobytes()
        self._file.write(data)
        self.checksum = google_crc32c.extend(self.checksum, data)


def _create(path: Path) -> IO[bytes]:
    """Create a file that only this user can read and write."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))


def is_complete(directory: Path) -> bool:
    """Return whether `directory` holds a complete bank."""
    return (directory / _INDEX).is_file()


def bank_bytes(patches: Iterable[PatchRef], canvas: tuple[int, int] | None = None) -> int:
    """Return the size of a bank of `patches` in bytes. The size is the same on disk and in memory.

    `canvas` is the (height, width) that patches are resized to; None if they are not resized.
    """
    sizes = [(patch.height, patch.width) for patch in patches]
    fitted = [canvas for size in sizes if canvas and size != canvas]
    return sum(4 * height * width for height, width in sizes + fitted)


def open_bank(directory: Path) -> tuple[tuple[Donor, ...], PackedPixels, PackedPixels | None]:
    """Map the files of a bank into memory. All processes of a machine share this memory.

    Returns
    -------
    donors : tuple of Donor
        The donors; their pixels are views of the bank.
    pixels : (N,) uint32
        Packed pixels of all donors, one donor after the other.
    fitted : (F, H, W) uint32 or None
        Packed pixels of the donors that are resized to the canvas, in the same order.

    Raises
    ------
    StoreError
        Another user owns a file or can write to a file, or a file has a wrong checksum.
    """
    with os.fdopen(open_own(directory / _INDEX), "rb") as file:
        index = json.load(file)
    patches = [PatchRef(**{**fields, "classes": tuple(fields["classes"])}) for fields in index["patches"]]
    pixels, fitted_pixels = (_map(directory / name, index["checksums"][name]) for name in (_PIXELS, _FITTED))
    return (
        tuple(_cut(pixels, patches)),
        pixels,
        fitted_pixels.reshape(-1, *index["canvas"]) if index["canvas"] else None,
    )


def _map(path: Path, checksum: int) -> PackedPixels:
    """Map a file of packed pixels, (N,) uint32. Raise a `StoreError` if the file's CRC-32C has changed."""
    with os.fdopen(open_own(path), "rb") as file:
        found = 0
        while block := file.read(_BLOCK):
            found = google_crc32c.extend(found, block)
        if found != checksum:
            raise StoreError(
                f"{path}: has the checksum {found:08x}, but was written with {checksum:08x}; the disk has damaged the "
                f"file; {ANOTHER_LOCATION}"
            )
        if not file.tell():
            return np.empty(0, np.uint32)
        pixels: PackedPixels = np.asarray(np.memmap(file, "<u4", mode="r"))
        return pixels


def _cut(pixels: PackedPixels, patches: Sequence[PatchRef]) -> Iterator[Donor]:
    """Cut the packed pixels of a bank into donors, in the order of `patches`."""
    start = 0
    for patch in patches:
        area = patch.height * patch.width
        planes = pixels[start : start + area].view(np.uint8).reshape(patch.height, patch.width, 4)
        start += area
        yield Donor(patch.id, patch.group, patch.classes[0], planes[..., :3], planes[..., 3])
