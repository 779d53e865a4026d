"""GlaS split by patient: tiles of the training images as labelled patches, whole images for validation and test."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from benchmarks.glas import cut
from synthpipe.core.errors import ConfigError

TILE, STRIDE = 96, 48

_OF_PATIENT = {
    1: (13, 14, 24, 26, 27, 32, 37, 38, 39, 64, 65, 68),
    2: (1, 3, 10, 23, 29, 31, 40, 43, 44, 66, 70, 71, 74, 77, 78, 82),
    3: (4, 6, 17, 19, 52, 55, 58, 75),
    4: (15, 56, 67, 80),
    5: (2, 21, 34, 47),
    6: (18, 54, 60, 73),
    7: (35, 48, 49, 76),
    8: (41,),
    9: (22, 30, 33, 51, 59, 61, 62, 69),
    10: (8, 9, 11, 16, 20, 25, 28, 42, 45, 46, 53, 63, 72, 79, 85),
    11: (5, 57, 81, 83),
    13: (12,),
    14: (7,),
    15: (84,),
    16: (36, 50),
}
"""The numbers of the challenge's 85 training images by patient, from the challenge's Grade.csv."""

_BENIGN = frozenset(
    (2, 4, 6, 8, 9, 12, 15, 20, 21, 22, 25, 30, 32, 33, 34, 38, 45, 46, 47, 51, 52, 53, 55, 56, 59, 61, 62, 63, 64, 65,
     67, 69, 72, 79, 80, 84, 85)
)  # fmt: skip
"""The images with benign glands in Grade.csv; all other images have malignant glands."""

Parts = dict[str, frozenset[int]]
"""The numbers of the images of ``train``, ``validation`` and ``test``."""


def by_patient() -> Parts:
    """Return parts that share no patient; each part has both grades."""
    patients = {"train": (2, 3, 4, 6, 8, 10, 14), "validation": (5, 11, 13, 15), "test": (1, 7, 9, 16)}
    return {part: _of(among) for part, among in patients.items()}


def by_grade() -> Parts:
    """Return parts that share no patient: benign glands for training and validation, malignant ones for the test."""
    return {
        "train": _of((3, 4, 9, 10, 13, 15)) & _BENIGN,
        "validation": _of((1, 5)) & _BENIGN,
        "test": _of((2, 6, 7, 8, 11, 14, 16)) - _BENIGN,
    }


def write_parts(source: Path, directory: Path, parts: Parts) -> None:
    """Write the parts of GlaS into a folder, unless the folder exists.

    Parameters
    ----------
    source : Path
        A folder of folders, each with PNGs ``train_N`` in ``img/`` and ``mask/``. In masks, 0 is gland and 1 is stroma.
    directory : Path
        The folder to write: ``train``, ``validation`` and ``test``, each with ``img/`` and ``mask/``, and
        ``patches/1.training`` with the tiles of ``train``, with names in the style of WSSS4LUAD.

    Raises
    ------
    ConfigError
        An image is missing.
    """
    if directory.exists():
        return
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "patches" / "1.training").mkdir(parents=True)
    found = {int(path.stem.removeprefix("train_")): path for path in source.glob("*/img/train_*.png")}
    for part, numbers in parts.items():
        if missing := sorted(numbers - found.keys()):
            raise ConfigError(
                f"{source}: no folder has img/train_{missing[0]}.png; expected all 85 training images of GlaS"
            )
        for kind in ("img", "mask"):
            (partial / part / kind).mkdir(parents=True)
        for number in sorted(numbers):
            image = found[number]
            for kind in ("img", "mask"):
                shutil.copy(image.parents[1] / kind / image.name, partial / part / kind)
            if part == "train":
                cut(image, partial / "patches" / "1.training", TILE, STRIDE)
    partial.rename(directory)


def _of(patients: Iterable[int]) -> frozenset[int]:
    return frozenset(number for patient in patients for number in _OF_PATIENT[patient])
