"""What the values of a mask mean, and whether its palette says the same."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.errors import CatalogError, ConfigError
from synthpipe.core.records import Mask
from synthpipe.core.taxonomy import LOST, Taxonomy

MaskMap = Mapping[int, int]
"""The class index, or the background's, of each value that masks hold."""

Color = tuple[int, ...]

IGNORE = "ignore"
_BLOCK = 2**20  # pixels that are counted at once
_NAMED = 3


def parse_mask_map(text: str, taxonomy: Taxonomy) -> dict[int, int]:
    """Read what the values of masks mean, such as ``0=ignore,1=gland,2=stroma``.

    Raises
    ------
    ConfigError
        It is written in another way, or names an unknown class.
    """
    found: dict[int, int] = {}
    for part in re.split(r",(?=\s*\d+\s*=)", text):
        value, _, name = (each.strip() for each in part.partition("="))
        if not re.fullmatch(r"\d{1,3}", value) or int(value) > LOST or int(value) in found:
            raise ConfigError(
                f"--mask-map: {part.strip()!r} is not VALUE=CLASS with a new value from 0 to {LOST}; write it like "
                f"{mask_map_text(range(len(taxonomy) + 1), taxonomy)}"
            )
        try:
            found[int(value)] = taxonomy.index(name)
        except KeyError:
            if name != IGNORE:
                expected = ", ".join([*taxonomy.names, IGNORE])
                raise ConfigError(f"--mask-map: {part.strip()!r} names no class; expected one of {expected}") from None
            found[int(value)] = taxonomy.background
    return found


def mask_map_text(values: Sequence[int], taxonomy: Taxonomy, ignored: Collection[int] = ()) -> str:
    """Return a ``--mask-map`` in which `values` mean the classes in index order, and the rest and `ignored` none."""
    names = [*taxonomy.names, *[IGNORE] * len(values)]
    pairs = [*zip(values, names, strict=False), *((value, IGNORE) for value in ignored)]
    return '"' + ",".join(f"{value}={name}" for value, name in pairs) + '"'


def meaning_of(value: int, taxonomy: Taxonomy, given: MaskMap | None) -> int | None:
    """Return the class index that a mask's value means, background or `LOST` to ignore it; None for no meaning."""
    if given is not None and value in given:
        return given[value]
    own = value == LOST or (given is None and value <= taxonomy.background)
    return value if own else None


def count_values(mask: Mask) -> NDArray[np.int64]:
    """Return (256,) int64: how many pixels have each value."""
    flat, counts = mask.reshape(-1), np.zeros(256, np.int64)
    for start in range(0, flat.size, _BLOCK):
        counts += np.bincount(flat[start : start + _BLOCK], minlength=256)
    return counts


def to_classes(mask: Mask, counts: NDArray[np.int64], taxonomy: Taxonomy, given: MaskMap | None) -> Mask:
    """Return a mask's class indices; pixels that are ignored hold the background's index, or `LOST`.

    Parameters
    ----------
    mask : (H, W) uint8
        As it is stored.
    counts : (256,) int64
        Its `count_values`.
    taxonomy : Taxonomy
        The classes.
    given : mapping, optional
        What values mean; without it they are class indices.

    Raises
    ------
    CatalogError
        It holds values that mean nothing; the message does not name the file.
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
                f"holds {held}, which --mask-map does not name; add what each means, as {wrong[0]}=ignore"
            )
        example = mask_map_text(range(len(taxonomy)), taxonomy, wrong[:_NAMED])
        raise CatalogError(
            f"holds {held}, expected 0 to {taxonomy.background} ({', '.join(taxonomy.names)}, background) or {LOST}; "
            f"write class indices, or say what each value means, for example --mask-map {example}"
        )
    if given is None:
        return mask
    found: Mask = table[mask]
    return found


def palette_colors(palette: Sequence[int]) -> list[Color]:
    """Return the colours of a palette, (red, green, blue, red, ...), by index."""
    return [tuple(palette[start : start + 3]) for start in range(0, len(palette) - 2, 3)]


def are_greys(colors: Sequence[Color]) -> bool:
    """Whether no colour tells which class an index means."""
    return all(len(set(color)) == 1 for color in colors)


def check_palette(colors: Sequence[Color], shown: Collection[int], taxonomy: Taxonomy) -> None:
    """Refuse a palette that gives a class another colour than `taxonomy`: its indices mean something else.

    Parameters
    ----------
    colors : sequence of colours
        Of the palette, which may end with the last index that the mask shows.
    shown : collection of int
        The values of the mask.
    taxonomy : Taxonomy
        The classes.

    Raises
    ------
    CatalogError
        The message names the class and both colours, but not the file.
    """
    wanted = [(tissue.name, tissue.color) for tissue in taxonomy.classes]
    if taxonomy.background in shown:  # else the index after the classes may have any colour
        wanted.append(("background", taxonomy.background_color))
    greys = are_greys(colors)
    for index, (color, (name, other)) in enumerate(zip(colors, wanted, strict=False)):
        if color == other or (greys and (index not in shown or color == (index, index, index))):
            continue
        if greys:
            raise CatalogError(
                f"its palette has grey {color[0]} at {index}, so the class of these pixels may be {index}, or "
                f"{color[0]}; write a grey image whose values are class indices, or give --any-palette if the "
                "palette's indices are"
            )
        raise CatalogError(
            f"its palette has {color} at {index}, but the network's {name} is {other}: the classes or their order "
            f"differ; {_cure(colors, taxonomy)}"
        )


def _cure(colors: Sequence[Color], taxonomy: Taxonomy) -> str:
    """Say what to do about a palette of other colours; one in another order has a map that follows from it."""
    order = [colors.index(tissue.color) for tissue in taxonomy.classes if tissue.color in colors]
    if len(order) == len(taxonomy):
        background = [colors.index(taxonomy.background_color)] if taxonomy.background_color in colors else []
        return f"the colours of all classes are there, so give --mask-map {mask_map_text(order, taxonomy, background)}"
    return (
        f"if the indices mean {', '.join(taxonomy.names)}, background, give --any-palette; otherwise "
        f"say what each value means, for example --mask-map {mask_map_text(range(len(taxonomy)), taxonomy)}"
    )
