"""GlaS for experiments: weakly-labelled tiles of the training images, and the images that choose weights."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

_TILE, _STRIDE = 112, 56
_LEAST = 0.02  # least share of the pixels for a class to be in the label
_CHOSEN = slice(4, None, 9)  # the training images, in order of their names, that choose weights


@dataclass(frozen=True)
class Glas:
    """The folders of an experiment on GlaS.

    Attributes
    ----------
    patches : Path
        The tiles of all training images.
    masked, chosen, test : Path
        Images with masks: of the training, to choose weights, and for the test.
    excluded : tuple of str
        Patterns for the tiles of the `chosen` images, which train nothing.
    """

    patches: Path
    masked: Path
    chosen: Path
    test: Path
    excluded: tuple[str, ...]


def prepare(source: Path, directory: Path) -> Glas:
    """Cut GlaS into tiles with names in the style of WSSS4LUAD; existing files are kept.

    Parameters
    ----------
    source : Path
        A folder with ``train/`` and ``val/``, each with PNGs in ``img/`` and ``mask/``. In masks, 0 is gland and 1 is
        stroma.
    directory : Path
        The folder to write into.
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
    """Write the tiles of an image; the label of a tile has the classes that cover at least 2 % of its pixels."""
    image, mask = (np.asarray(PIL.Image.open(each)) for each in (path, path.parents[1] / "mask" / path.name))
    height, width = mask.shape
    for y in range(0, height - tile + 1, stride):
        for x in range(0, width - tile + 1, stride):
            window = np.s_[y : y + tile, x : x + tile]
            gland = float((mask[window] == 0).mean())
            label = [int(gland > _LEAST), int(gland < 1 - _LEAST)]
            PIL.Image.fromarray(image[window]).save(folder / f"{path.stem}-{y}-{x}-{label}.png")
