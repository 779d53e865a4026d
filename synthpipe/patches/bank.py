"""The donor bank: all donors decoded once into one file, which every process of a machine maps read-only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from synthpipe.config import GlassSection
from synthpipe.errors import StoreError, SynthpipeError
from synthpipe.patches.glass import glass_mask
from synthpipe.patches.pixels import read_pixels
from synthpipe.records import Donor, Mask, PackedPixels, PatchRef, pack

_PIXELS, _INDEX = "donors.bin", "donors.json"


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
) -> None:
    """Decode `patches` into a bank in `directory`.

    Raises
    ------
    CatalogError
        A file cannot be read, or is not the one that was indexed.
    StoreError
        There is no room for the bank.
    """
    index = {"patches": [asdict(patch) for patch in patches]}
    try:
        with (directory / _PIXELS).open("wb") as file, ThreadPoolExecutor(threads) as pool:
            for donor in pool.map(lambda patch: load_donor(patch, glass, background), patches):
                file.write(pack(donor.image, donor.label if donor.mask is None else donor.mask).tobytes())
                on_patch()
    except OSError as error:
        if isinstance(error, SynthpipeError):
            raise
        size = bank_bytes(patches)
        raise StoreError(
            f"{directory}: the donor bank needs {size / 2**20:.0f} MiB there: {error.strerror}; make room, or name "
            "another place with TMPDIR"
        ) from error
    temporary = directory / f"{_INDEX}.partial"
    temporary.write_text(json.dumps(index), encoding="utf-8")
    temporary.replace(directory / _INDEX)


def bank_bytes(patches: Iterable[PatchRef]) -> int:
    """Return how large the bank of `patches` is, on disk and in the memory of a machine."""
    return sum(4 * patch.height * patch.width for patch in patches)


def open_bank(directory: Path) -> tuple[tuple[Donor, ...], PackedPixels]:
    """Map a bank: its donors, and their packed pixels, one after the other in the same order.

    The donors' own pixels are views of these, and these are the file, shared by all processes of the machine.
    """
    index = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
    patches = [PatchRef(**{**fields, "classes": tuple(fields["classes"])}) for fields in index["patches"]]
    mapped = np.memmap(directory / _PIXELS, "<u4", mode="r") if patches else np.empty(0, "<u4")
    pixels: PackedPixels = np.asarray(mapped)
    return tuple(_cut(pixels, patches)), pixels


def _cut(pixels: PackedPixels, patches: Sequence[PatchRef]) -> Iterator[Donor]:
    start = 0
    for patch in patches:
        area = patch.height * patch.width
        planes = pixels[start : start + area].view(np.uint8).reshape(patch.height, patch.width, 4)
        start += area
        yield Donor(patch.id, patch.group, patch.classes[0], planes[..., :3], planes[..., 3])
