"""The donor bank: all donors decoded once into one file, which every process of a machine maps read-only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

import google_crc32c
import numpy as np

from synthpipe.config.pipeline import GlassSection
from synthpipe.core.errors import StoreError, SynthpipeError
from synthpipe.core.records import Donor, Mask, PackedPixels, PatchRef, pack
from synthpipe.core.threads import in_threads
from synthpipe.files.scratch import ANOTHER_PLACE, open_own
from synthpipe.patches.glass import glass_mask
from synthpipe.patches.pixels import read_pixels

_PIXELS, _FITTED, _INDEX = "donors.bin", "fitted.bin", "donors.json"
_BLOCK = 16 << 20  # bytes of a file that are read at once for its checksum


def load_donor(patch: PatchRef, glass: GlassSection | None, background: int) -> Donor:
    """Decode a single-class patch.

    Parameters
    ----------
    patch : PatchRef
        Must have one class.
    glass : GlassSection or None
        How glass is found; None where it is not looked for.
    background : int
        The mask value of glass.

    Raises
    ------
    CatalogError
        The file cannot be read, or is not the one that was indexed.
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
        As of `load_donor`.
    on_patch : callable
        Called for each patch that is done.
    threads : int
        That decode.
    fit : callable, optional
        Brings packed pixels to the canvas. Those that this gives another size are kept so too, and not resized for
        every composite.

    Raises
    ------
    CatalogError
        A file cannot be read, or is not the one that was indexed.
    StoreError
        There is no room for the bank.
    """

    def decode(patch: PatchRef) -> tuple[PackedPixels, PackedPixels]:
        donor = load_donor(patch, glass, background)
        packed = pack(donor.image, donor.label if donor.mask is None else donor.mask)
        return packed, fit(packed) if fit else packed

    canvas: tuple[int, ...] | None = None
    checksums = {_PIXELS: 0, _FITTED: 0}
    try:
        with _create(directory / _PIXELS) as file, _create(directory / _FITTED) as fitted_file:
            for packed, fitted in in_threads(decode, patches, threads):
                data = packed.tobytes()
                file.write(data)
                checksums[_PIXELS] = google_crc32c.extend(checksums[_PIXELS], data)
                if fitted.shape != packed.shape:
                    data = fitted.tobytes()
                    fitted_file.write(data)
                    checksums[_FITTED] = google_crc32c.extend(checksums[_FITTED], data)
                    canvas = fitted.shape
                on_patch()
    except OSError as error:
        if isinstance(error, SynthpipeError):
            raise
        size = bank_bytes(patches)
        raise StoreError(
            f"{directory}: the donor bank needs at least {size / 2**20:.0f} MiB there: {error.strerror}; "
            f"free some space, or {ANOTHER_PLACE}"
        ) from error
    temporary = directory / f"{_INDEX}.partial"
    stored = [asdict(replace(patch, secret_url=None)) for patch in patches]
    index = {"patches": stored, "canvas": canvas, "checksums": checksums}
    with _create(temporary) as file:
        file.write(json.dumps(index).encode())
    temporary.replace(directory / _INDEX)


def _create(path: Path) -> IO[bytes]:
    """Make a file that only this user can read and write."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))


def is_complete(directory: Path) -> bool:
    """Whether a bank was built in `directory`, to its end."""
    return (directory / _INDEX).is_file()


def bank_bytes(patches: Iterable[PatchRef], canvas: tuple[int, int] | None = None) -> int:
    """Return how large the bank of `patches` is, on disk and in the memory of a machine.

    `canvas` is the size, (height, width), to which they are fitted; None where they are not.
    """
    sizes = [(patch.height, patch.width) for patch in patches]
    fitted = [canvas for size in sizes if canvas and size != canvas]
    return sum(4 * height * width for height, width in sizes + fitted)


def open_bank(directory: Path) -> tuple[tuple[Donor, ...], PackedPixels, PackedPixels | None]:
    """Map a bank: its donors, and their packed pixels, one after the other in the same order.

    The donors' own pixels are views of these, and these are the file, shared by all processes of the machine. Third
    come the packed pixels of those that were fitted to the canvas: (F, H, W) uint32 in the same order, or None.

    Raises
    ------
    StoreError
        A file is another user's, or others may write to it, or it is not what was written.
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
    """Map a file of packed pixels, (N,) uint32, if it has the CRC-32C that it was written with."""
    with os.fdopen(open_own(path), "rb") as file:
        found = 0
        while block := file.read(_BLOCK):
            found = google_crc32c.extend(found, block)
        if found != checksum:
            raise StoreError(
                f"{path}: has the checksum {found:08x}, but was written with {checksum:08x}; its disk is at fault: "
                f"{ANOTHER_PLACE}"
            )
        if not file.tell():
            return np.empty(0, np.uint32)
        pixels: PackedPixels = np.asarray(np.memmap(file, "<u4", mode="r"))
        return pixels


def _cut(pixels: PackedPixels, patches: Sequence[PatchRef]) -> Iterator[Donor]:
    start = 0
    for patch in patches:
        area = patch.height * patch.width
        planes = pixels[start : start + area].view(np.uint8).reshape(patch.height, patch.width, 4)
        start += area
        yield Donor(patch.id, patch.group, patch.classes[0], planes[..., :3], planes[..., 3])
