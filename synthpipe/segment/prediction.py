"""Write predicted masks of images into a folder, with a record of the checkpoint and the settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from synthpipe.config.pipeline import MAX_PIXELS
from synthpipe.core.display import escaped, file_stem
from synthpipe.core.errors import CatalogError, StoreError, each_kind_once
from synthpipe.core.pictures import overlay, palette_png, png
from synthpipe.core.progress import Reporter
from synthpipe.core.records import Image
from synthpipe.core.strict_json import parse_json
from synthpipe.files.folders import resolved, sweep
from synthpipe.files.lock import held
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import write_atomically
from synthpipe.patches.pixels import dark_remark, decode, picture_digest
from synthpipe.segment.evaluation import Predictor
from synthpipe.segment.outputs import PREDICTION, RECORD

FORMAT_VERSION = 1
_LARGEST_RECORD = 256 << 20  # largest size of the record in bytes


def write_predictions(
    predictor: Predictor,
    images: Sequence[Path],
    folder: Path,
    reporter: Reporter,
    overlays: bool,
    probabilities: bool,
    most: int = MAX_PIXELS,
) -> float:
    """Predict masks of images, write the masks and ``predictions.json`` into a folder, and return the share of glass.

    Glass gets the background index in masks, but keeps the network's probabilities. For each mask,
    ``predictions.json`` records the image, the checkpoint, the sliding windows and the glass rule. Entries of earlier
    masks stay in it.

    Parameters
    ----------
    predictor : Predictor
        The network.
    images : sequence of Path
        Images of any size, with different stems.
    folder : Path
        The output folder: new, empty, or with earlier predictions.
    reporter : Reporter
        Reports the progress.
    overlays : bool
        Whether to write the masks drawn over the images, too.
    probabilities : bool
        Whether to write (C, H, W) float16 probabilities as NumPy files, too.
    most : int
        Largest number of pixels of an image.

    Raises
    ------
    SynthpipeError
        An image cannot be read (raised after all other images are predicted), or the folder cannot be written or
        contains something else.
    """
    folder = resolved(folder)
    dark: list[str] = []
    with (
        held(folder, PREDICTION),
        reporter.stage("prediction", len(images)) as advance,
        _recorded(folder, reporter, dark) as found,
    ):
        rule = predictor.glass.model_dump(mode="json", include={"threshold", "min_area"}) if predictor.glass else None
        about = {"checkpoint": predictor.sha256, "windows": predictor.windows.model_dump(mode="json"), "glass": rule}
        glassy, pixels, problems = 0, 0, list[tuple[Path, str]]()
        for path in images:
            try:
                image, stem = decode(path, most, partial(dark.append, str(path))), file_stem(path.stem)
            except CatalogError as error:
                problems.append((path, str(error).removeprefix(f"{path}: ")))
                continue
            glassy += _write_mask(predictor, image, folder / f"{stem}.png", overlays, probabilities)
            pixels += math.prod(image.shape[:2])
            found[f"{stem}.png"] = {"image": escaped(path.name), "sha256": picture_digest(path, most), **about}
            advance(1)
        if problems:
            raise CatalogError(each_kind_once(problems))
    return glassy / pixels


@contextmanager
def _recorded(folder: Path, reporter: Reporter, dark: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the entries of a folder's record; when the block ends, write the record and report `dark` images."""
    sweep(folder, deep=False)
    found = _read(folder / RECORD)
    try:
        yield found
    finally:
        if dark:
            reporter.note(f"note: {dark_remark(dark)}")
        if found:
            record = {"format_version": FORMAT_VERSION, "masks": found}
            write_atomically(folder / RECORD, json.dumps(record, indent=1) + "\n")


def _write_mask(predictor: Predictor, image: Image, path: Path, overlays: bool, probabilities: bool) -> int:
    """Predict an image's mask, write it and its other files, and return the number of glass pixels."""
    if probabilities:
        mask = predictor.write_probabilities(image, path.with_name(f"{path.stem}-probabilities.npy"))
    else:
        mask = predictor.mask(image)
    glass = predictor.is_glass(image)
    mask[glass] = predictor.taxonomy.background
    write_atomically(path, palette_png(mask, predictor.taxonomy))
    if overlays:
        write_atomically(path.with_name(f"{path.stem}-overlay.png"), png(overlay(image, mask, predictor.taxonomy)))
    return int(np.count_nonzero(glass))


def _read(record: Path) -> dict[str, Any]:
    """Read the entries of a ``predictions.json`` by mask; return an empty dict if the file does not exist."""
    try:
        found = parse_json(read_regular(record, _LARGEST_RECORD))
        if found["format_version"] == FORMAT_VERSION and isinstance(found["masks"], dict):
            return dict(found["masks"])
        what = f"format_version is not {FORMAT_VERSION}, or masks is not an object"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = str(error)
    raise StoreError(f"{record}: is not a record of predictions: {what}; choose another folder")
