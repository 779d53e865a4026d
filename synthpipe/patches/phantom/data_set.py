"""The phantom data set: procedural tissue as weakly-labelled patches and segmented images, in WSSS4LUAD's layout.

::

    DIR/1.training/<slide>-<y>-<x>-[tumour, stroma, normal].png
    DIR/2.validation/{img,mask}/<slide>-0-0.png
    DIR/3.testing/{img,mask}/<slide>-0-0.png
    DIR/masked/{img,mask}/<slide>-<y>-<x>.png           the training patches again, with their true masks
    DIR/phantom.json        written last: the spec, a summary and the names of all files

Each slide is in only one of the three numbered folders. ``masked`` has the true masks of the training patches. Use
``masked`` only for upper bounds.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as PillowImage

from synthpipe.config.fields import differences
from synthpipe.core.errors import ConfigError, StoreError
from synthpipe.core.records import Image, Mask
from synthpipe.core.strict_json import parse_json
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.files.folders import Kind, claim, is_half_written, resolved, sweep
from synthpipe.files.lock import held
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import write_atomically
from synthpipe.patches.phantom.tissue import SMALLEST, render_slide
from synthpipe.patches.phantom.windows import Window, choose_windows

FORMAT_VERSION = 2
"""Version of the phantom's pixels. It increases when a specification gives other pixels than before."""

LARGEST = 1024
"""Largest patch size, in pixels. Slides for larger patches would take gigabytes of memory."""

PHANTOM_TAXONOMY = Taxonomy(
    (
        TissueClass("tumour", (0, 64, 128)),
        TissueClass("stroma", (64, 128, 0)),
        TissueClass("normal", (243, 152, 0)),
    )
)
"""WSSS4LUAD's classes and colours (method section 1)."""

TRAINING, VALIDATION, TESTING = "1.training", "2.validation", "3.testing"
MASKED = "masked"
FINISHED, UNFINISHED = "phantom.json", "phantom.unfinished.json"
PHANTOM = Kind(
    "phantom", (FINISHED, UNFINISHED), (TRAINING, VALIDATION, TESTING, MASKED, FINISHED, UNFINISHED, ".lock")
)

_OUR_NAMES = re.compile(
    r"(1\.training/\d{7,}-\d+-\d+-\[[01], [01], [01]\]|(2\.validation|3\.testing)/(img|mask)/\d{7,}-0-0"
    r"|masked/(img|mask)/\d{7,}-\d+-\d+)\.png(\.tmp)?"
)
_MOST_RECORD = 2**28  # bytes of phantom.json, which names all files
_FIRST_SLIDE, _SLIDE_STEP = 1003370, 37  # slide ids look like those of the published data set

# Width of areas of one class, and sides of segmented images, in units of the wanted patch size.
_TERRITORY_TRAINING, _TERRITORY_IMAGES = 2.6, 1.5
_IMAGE_SIDES = (2.1, 3.1)


@dataclass(frozen=True)
class PhantomSpec:
    """Specification of a phantom data set. Equal specifications give equal pixels.

    Attributes
    ----------
    seed : int
        Seed of all random numbers, 0 to 2**64 - 1.
    slides : int
        Number of slides from which training patches are cut.
    patches : int
        Number of training patches. All slides have about the same number of patches.
    size : int
        Approximate width of a training patch, in pixels. Sides are 0.9 to 1.3 times this size. A larger patch shows
        more tissue, because the magnification is always the same.
    images : int
        Number of segmented images for validation, and also for testing. Each image is a separate slide.

    Raises
    ------
    ConfigError
        A number is out of range.
    """

    seed: int = 0
    slides: int = 12
    patches: int = 400
    size: int = 64
    images: int = 6

    def __post_init__(self) -> None:
        limits = {
            "seed": (0, 2**64 - 1),
            "slides": (1, 10_000),
            "patches": (self.slides, 1_000_000),
            "size": (SMALLEST, LARGEST),
            "images": (0, 10_000),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                why = ", at least one per slide" if name == "patches" else ""
                raise ConfigError(f"phantom {name}: got {value!r}, expected an integer from {low} to {high}{why}")

    @property
    def pictures(self) -> int:
        """Number of images, without masks; `write_phantom` reports progress for each of them."""
        return self.patches + 2 * self.images


@dataclass(frozen=True)
class PhantomSummary:
    """Contents of a phantom data set.

    Attributes
    ----------
    training : dict
        Number of training patches by label set, such as ``tumour+stroma``.
    validation, test : int
        Numbers of segmented images.
    written : bool
        Whether this call wrote the data set. False if the data set already existed.
    """

    training: dict[str, int]
    validation: int
    test: int
    written: bool


def write_phantom(directory: Path, spec: PhantomSpec, on_patch: Callable[[], None] | None = None) -> PhantomSummary:
    """Write a phantom data set, unless the directory already holds it.

    Parameters
    ----------
    directory : Path
        Output directory: missing, empty, or with the same phantom. An incomplete phantom is written again.
    spec : PhantomSpec
        Specification of the phantom.
    on_patch : callable, optional
        Called after each of `spec.pictures` pictures. Not called if nothing is written.

    Returns
    -------
    PhantomSummary
        Contents of the directory.

    Raises
    ------
    StoreError
        The directory has other content, or cannot be written.
    """
    directory = resolved(Path(directory))
    present = _find(directory, spec)
    if present is not None:
        return present
    with held(directory, PHANTOM):
        sweep(directory)
        return _written(directory, spec, on_patch or (lambda: None))


def _written(directory: Path, spec: PhantomSpec, on_patch: Callable[[], None]) -> PhantomSummary:
    """Write a phantom. The first file marks the phantom as unfinished; ``phantom.json`` is the last one."""
    names: list[str] = []
    labels: Counter[str] = Counter()
    marker = {"format_version": FORMAT_VERSION, "spec": asdict(spec)}
    write_atomically(directory / UNFINISHED, json.dumps(marker))
    for stem, image, mask, window in _training_patches(spec):
        digits = [int(index in window.classes) for index in range(len(PHANTOM_TAXONOMY))]
        trio = [f"{TRAINING}/{stem}-{digits}.png", *(f"{MASKED}/{kind}/{stem}.png" for kind in ("img", "mask"))]
        pixels = _encode_image(image)
        for name, data in zip(trio, (pixels, pixels, _encode_mask(mask)), strict=True):
            write_atomically(directory / name, data)
        names += trio
        labels[PHANTOM_TAXONOMY.label(window.classes)] += 1
        on_patch()
    for folder, stem, image, mask in _segmented_images(spec):
        pair = [f"{folder}/{kind}/{stem}.png" for kind in ("img", "mask")]
        for name, data in zip(pair, (_encode_image(image), _encode_mask(mask)), strict=True):
            write_atomically(directory / name, data)
        names += pair
        on_patch()
    summary = PhantomSummary(dict(sorted(labels.items())), spec.images, spec.images, written=True)
    finished = {**marker, "summary": asdict(summary), "files": sorted(names)}
    write_atomically(directory / FINISHED, json.dumps(finished, indent=1))
    (directory / UNFINISHED).unlink()
    return summary


def slide_name(index: int) -> str:
    """Return the id of a phantom slide. Training slides are first, then validation slides, then testing slides."""
    return str(_FIRST_SLIDE + _SLIDE_STEP * index)


def _training_patches(spec: PhantomSpec) -> Iterator[tuple[str, Image, Mask, Window]]:
    for slide in range(spec.slides):
        count = spec.patches // spec.slides + (slide < spec.patches % spec.slides)
        # so large that patches overlap little, and that nearly every slide has each class
        side = round(spec.size * max(4.0, 1.3 * count**0.5))
        image, mask = render_slide(spec.seed, slide, side, side, spec.size * _TERRITORY_TRAINING)
        for window in choose_windows(_sizes_rng(spec.seed, slide), mask, count, spec.size, first=slide):
            pixels = np.s_[window.y : window.y + window.height, window.x : window.x + window.width]
            yield f"{slide_name(slide)}-{window.y}-{window.x}", image[pixels], mask[pixels], window


def _segmented_images(spec: PhantomSpec) -> Iterator[tuple[str, str, Image, Mask]]:
    for number in range(2 * spec.images):
        slide = spec.slides + number
        low, high = (round(spec.size * factor) for factor in _IMAGE_SIDES)
        height, width = _sizes_rng(spec.seed, slide).integers(low, high, 2, endpoint=True).tolist()
        image, mask = render_slide(spec.seed, slide, height, width, spec.size * _TERRITORY_IMAGES)
        yield (VALIDATION if number < spec.images else TESTING), f"{slide_name(slide)}-0-0", image, mask


def _sizes_rng(seed: int, slide: int) -> np.random.Generator:
    """Return the random generator of a slide's windows. It uses a separate part of the slide's random stream."""
    key, counter = np.array([seed, slide], dtype=np.uint64), np.array([0, 0, 0, 1], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _encode_image(image: Image) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def _encode_mask(mask: Mask) -> bytes:
    picture, buffer = PillowImage.fromarray(mask), io.BytesIO()
    picture.putpalette(PHANTOM_TAXONOMY.palette())
    picture.save(buffer, "png")
    return buffer.getvalue()


def _find(directory: Path, spec: PhantomSpec) -> PhantomSummary | None:
    """Return the contents of `directory` if it holds this phantom completely, or None if the phantom can be written."""
    claim(directory, PHANTOM)
    there = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
    record = next((name for name in (FINISHED, UNFINISHED) if name in there), None)
    if record is None:
        return None
    try:
        found: dict[str, Any] = parse_json(read_regular(directory / record, _MOST_RECORD))
        kept = PhantomSummary(**found["summary"]) if record == FINISHED else None
        expected, old = set(found.get("files", ())), {key: found[key] for key in ("format_version", "spec")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{directory / record}: is damaged ({error!r}); delete the folder, or choose another"
        ) from error
    changes = list(differences(old, {"format_version": FORMAT_VERSION, "spec": asdict(spec)}))
    if changes:
        raise StoreError(
            f"{directory}: holds another phantom ({'; '.join(changes)}); delete this folder, or choose another one"
        )
    ours = expected.__contains__ if expected else _OUR_NAMES.fullmatch
    folders = (f"{TRAINING}/", f"{VALIDATION}/", f"{TESTING}/", f"{MASKED}/")
    if foreign := [name for name in there if name.startswith(folders) and not (ours(name) or is_half_written(name))]:
        raise StoreError(
            f"{directory}: holds {_listed(foreign)}, not part of the phantom; remove them, or choose another folder"
        )
    if kept is None or not expected.issubset(there):
        return None
    return replace(kept, written=False)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
