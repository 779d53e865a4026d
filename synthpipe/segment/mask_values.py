"""Translate the values of a mask into classes, and check that the mask's palette agrees."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.errors import CatalogError, ConfigError
from synthpipe.core.records import Mask
from synthpipe.core.taxonomy import LOST, Taxonomy

MaskMap = Mapping[int, int]
"""Class index by mask value; the background index stands for an ignored value."""

Color = tuple[int, ...]

IGNORE = "ignore"
_BLOCK = 2**20  # pixels counted at once
_NAMED = 3


def parse_mask_map(text: str, taxonomy: Taxonomy) -> dict[int, int]:
    """Parse the value of ``--mask-map``, such as ``0=ignore,1=gland,2=stroma``, into class indices by mask value.

    Raises
    ------
    ConfigError
        `text` has another form, or names an unknown class.
    """
    found: dict[int, int] = {}
    for part in re.split(r",(?=\s*\d+\s*=)", text):
        value, _, name = (each.strip() for each in part.partition("="))
        if not re.fullmatch(r"\d{1,3}", value) or int(value) > LOST or int(value) in found:
            raise ConfigError(
                f"--mask-map: got {part.strip()!r}, expected VALUE=CLASS with a value from 0 to {LOST} that occurs "
                f"once; write for example {mask_map_text(range(len(taxonomy) + 1), taxonomy)}"
            )
        try:
            found[int(value)] = taxonomy.index(name)
        except KeyError:
            if name != IGNORE:
                expected = ", ".join([*taxonomy.names, IGNORE])
                raise ConfigError(
                    f"--mask-map: {part.strip()!r} does not name a class; expected one of {expected}"
                ) from None
            found[int(value)] = taxonomy.background
    return found


def mask_map_text(values: Sequence[int], taxonomy: Taxonomy, ignored: Collection[int] = ()) -> str:
    """Return a value for ``--mask-map`` in quotes.

    The first of `values` mean the classes in index order; the remaining `values` and `ignored` mean ``ignore``.
    """
    names = [*taxonomy.names, *[IGNORE] * len(values)]
    pairs = [*zip(values, names, strict=False), *((value, IGNORE) for value in ignored)]
    return '"' + ",".join(f"{value}={name}" for value, name in pairs) + '"'


def meaning_of(value: int, taxonomy: Taxonomy, given: MaskMap | None) -> int | None:
    """Return the class index of a mask value; background or `LOST` if ignored, None if the value has no meaning."""
    if given is not None and value in given:
        return given[value]
    own = value == LOST or (given is None and value <= taxonomy.background)
    return value if own else None


def count_values(mask: Mask) -> NDArray[np.int64]:
    """Return (256,) int64: the number of pixels with each value."""
    flat, counts = mask.reshape(-1), np.zeros(256, np.int64)
    for start in range(0, flat.size, _BLOCK):
        counts += np.bincount(flat[start : start + _BLOCK], minlength=256)
    return counts


def to_classes(mask: Mask, counts: NDArray[np.int64], taxonomy: Taxonomy, given: MaskMap | None) -> Mask:
    """Translate the values of a mask into class indices; ignored pixels get the background index or `LOST`.

    Parameters
    ----------
    mask : (H, W) uint8
        Values of the mask file.
    counts : (256,) int64
        The result of `count_values` for this mask.
    taxonomy : Taxonomy
        The classes.
    given : mapping, optional
        Class index by mask value; by default, the values are class indices.

    Raises
    ------
    CatalogError
        The mask has values without a meaning; the message does not name the file.
    """
    table, wrong = np.zeros(256, np.uint8), []
    for value in np.flatnonzero(counts).tolist():
        if (meaning := meaning_of(value, taxonomy, given)) is None:
            wrong.append(value)
        else:
            table[value] = meaning
    if wrong:
        held = ", ".join(f"{value} ({counts[value]} pixels)" for value in wrong[:_NAMED])
        held += f" and {len(wrong) - _NAMED} more values" if len(wrong) > _NAMED else ""
        if given is not None:
            raise CatalogError(
                f"has values that --mask-map does not name: {held}; add them, for example {wrong[0]}=ignore"
            )
        example = mask_map_text(range(len(taxonomy)), taxonomy, wrong[:_NAMED])
        raise CatalogError(
            f"has unknown values: {held}; expected 0 to {taxonomy.background} ({', '.join(taxonomy.names)}, "
            f"background) or {LOST}; write class indices, or name the class of each value, for example "
            f"--mask-map {example}"
        )
    if given is None:
        return mask
    found: Mask = table[mask]
    return found


def palette_colors(palette: Sequence[int]) -> list[Color]:
    """Split a flat palette (red, green, blue, red, ...) into one colour per index."""
    return [tuple(palette[start : start + 3]) for start in range(0, len(palette) - 2, 3)]


def are_greys(colors: Sequence[Color]) -> bool:
    """Return whether all colours are greys, so that no colour identifies a class."""
    return all(len(set(color)) == 1 for color in colors)


def check_palette(colors: Sequence[Color], shown: Collection[int], taxonomy: Taxonomy) -> None:
    """Refuse a palette whose colours differ from the colours of `taxonomy`, because its indices mean other classes.

    Parameters
    ----------
    colors : sequence of colours
        Colours of the palette by index; may end at the largest index in the mask.
    shown : collection of int
        The values of the mask.
    taxonomy : Taxonomy
        The classes.

    Raises
    ------
    CatalogError
        A class has another colour; the message names the class and both colours, but not the file.
    """
    wanted = [(tissue.name, tissue.color) for tissue in taxonomy.classes]
    if taxonomy.background in shown:  # an unused background index may have any colour
        wanted.append(("background", taxonomy.background_color))
    greys = are_greys(colors)
    for index, (color, (name, other)) in enumerate(zip(colors, wanted, strict=False)):
        if color == other or (greys and (index not in shown or color == (index, index, index))):
            continue
        if greys:
            raise CatalogError(
                f"its palette has grey {color[0]} at {index}, so these pixels may have class {index} or class "
                f"{color[0]}; write a grey image whose values are class indices, or give --any-palette if the "
                "palette's indices are class indices"
            )
        raise CatalogError(
            f"its palette has {color} at {index}, but the network expects {other} for {name}; the classes or their "
            f"order differ; {_cure(colors, taxonomy)}"
        )


def _cure(colors: Sequence[Color], taxonomy: Taxonomy) -> str:
    """Return advice for a palette with other colours, with a mask map if only the order of the classes differs."""
    order = [colors.index(tissue.color) for tissue in taxonomy.classes if tissue.color in colors]
    if len(order) == len(taxonomy):
        background = [colors.index(taxonomy.background_color)] if taxonomy.background_color in colors else []
        known = mask_map_text(order, taxonomy, background)
        return f"the palette has the colours of all classes in another order, so give --mask-map {known}"
    return (
        f"if the indices mean {', '.join(taxonomy.names)}, background, give --any-palette; otherwise "
        f"name the class of each value, for example --mask-map {mask_map_text(range(len(taxonomy)), taxonomy)}"
    )
