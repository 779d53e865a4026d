"""GlaS for experiments: weakly-labelled tiles of its training images, and which of these choose weights."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

_TILE, _STRIDE = 112, 56
_LEAST = 0.02  # share of the pixels, for a class to count
_CHOSEN = slice(4, None, 9)  # of the training images, in order of their names: they choose weights


@dataclass(frozen=True)
class Glas:
    """Folders of an experiment: tiles of all training images, and images with masks.

    `excluded` are patterns for the tiles of the `chosen` images, which train nothing.
    """

    patches: Path
    masked: Path
    chosen: Path
    test: Path
    excluded: tuple[str, ...]


def prepare(source: Path, directory: Path) -> Glas:
    """Cut GlaS into tiles, named as WSSS4LUAD names its patches; what is there already is kept.

    Parameters
    ----------
    source : Path
        Holds ``train/`` and ``val/``, each with ``img/`` and ``mask/``: PNGs, of masks with 0 for gland, 1 for stroma.
    directory : Path
        Where to write.
    """
    images = sorted((source / "train" / "img").glob("*.png"))
    chosen = images[_CHOSEN]
    found = Glas(
        directory / "tiles",
        directory / "masked",
        directory / "chosen",
        source / "val",
        tuple(f"{image.stem}-*" for image in chosen),
    )
    if not found.patches.exists():
        partial = directory / "tiles.partial"
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "1.training").mkdir(parents=True)
        for path in images:
            cut(path, partial / "1.training")
        partial.rename(found.patches)
    for folder, among in ((found.chosen, chosen), (found.masked, [image for image in images if image not in chosen])):
        for kind in ("img", "mask"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            for image in among:
                if not (folder / kind / image.name).exists():
                    shutil.copy(source / "train" / kind / image.name, folder / kind)
    return found


def cut(path: Path, folder: Path, tile: int = _TILE, stride: int = _STRIDE) -> None:
    """Write the tiles of an image, labelled with the classes that cover more than the least share of them."""
    image, mask = (np.asarray(PIL.Image.open(each)) for each in (path, path.parents[1] / "mask" / path.name))
    height, width = mask.shape
    for y in range(0, height - tile + 1, stride):
        for x in range(0, width - tile + 1, stride):
            window = np.s_[y : y + tile, x : x + tile]
            gland = float((mask[window] == 0).mean())
            label = [int(gland > _LEAST), int(gland < 1 - _LEAST)]
            PIL.Image.fromarray(image[window]).save(folder / f"{path.stem}-{y}-{x}-{label}.png")
