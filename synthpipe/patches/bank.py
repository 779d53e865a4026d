"""The donor bank: all donors decoded once into one file, which every process of a machine maps read-only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from synthpipe.config import GlassSection
from synthpipe.errors import StoreError, SynthpipeError
from synthpipe.patches.glass import glass_mask
from synthpipe.patches.pixels import read_pixels
from synthpipe.records import Donor, Mask, PatchRef

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
    index = {"glass": glass is not None, "patches": [asdict(patch) for patch in patches]}
    try:
        with (directory / _PIXELS).open("wb") as file, ThreadPoolExecutor(threads) as pool:
            for donor in pool.map(lambda patch: load_donor(patch, glass, background), patches):
                file.write(donor.image.tobytes())
                if donor.mask is not None:
                    file.write(donor.mask.tobytes())
                on_patch()
    except OSError as error:
        if isinstance(error, SynthpipeError):
            raise
        size = sum(patch.height * patch.width * (3 + (glass is not None)) for patch in patches)
        raise StoreError(
            f"{directory}: the donor bank needs {size / 2**20:.0f} MiB there: {error.strerror}; make room, or name "
            "another place with TMPDIR"
        ) from error
    temporary = directory / f"{_INDEX}.partial"
    temporary.write_text(json.dumps(index), encoding="utf-8")
    temporary.replace(directory / _INDEX)


def open_bank(directory: Path) -> tuple[Donor, ...]:
    """Map a bank: the donors' pixels are views of the file, shared by all processes of the machine."""
    index = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
    pixels = np.memmap(directory / _PIXELS, np.uint8, mode="r") if index["patches"] else np.empty(0, np.uint8)
    return tuple(_cut(np.asarray(pixels), index["patches"], index["glass"]))


def _cut(pixels: Mask, patches: Sequence[dict[str, object]], glass: bool) -> Iterator[Donor]:
    start = 0
    for fields in patches:
        patch = PatchRef(**{**fields, "classes": tuple(fields["classes"])})  # type: ignore[arg-type]
        area = patch.height * patch.width
        image = pixels[start : start + 3 * area].reshape(patch.height, patch.width, 3)
        start += 3 * area
        mask = None
        if glass:
            mask = pixels[start : start + area].reshape(patch.height, patch.width)
            start += area
        yield Donor(patch.id, patch.group, patch.classes[0], image, mask)
