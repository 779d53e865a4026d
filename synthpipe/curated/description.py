"""One sample of a curated set, and what all of them are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from synthpipe.config.fields import Color, Positive, Section
from synthpipe.config.pipeline import PUBLISHED_GLASS, Classes, GlassSection, PatchesSection
from synthpipe.core.display import printable
from synthpipe.core.errors import explain
from synthpipe.core.patterns import pattern_fault
from synthpipe.core.records import Image, Mask
from synthpipe.core.taxonomy import Taxonomy

_ARRAYS = ("image", "mask", "labels")  # of a sample


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sample(Mapping[str, NDArray[np.uint8]]):
    """One composite of a curated set: its three arrays by name, ``sample["image"]`` or ``sample.image``.

    Samples are equal where their arrays and classes are. Like a dict, a sample has no hash: keep indices in sets and
    caches.

    Attributes
    ----------
    image : (H, W, 3) uint8
        RGB.
    mask : (H, W) uint8
        Class indices, or the background index.
    labels : (C,) uint8
        1 where a class occurs.
    taxonomy : Taxonomy
        The C classes.
    """

    image: Image
    mask: Mask
    labels: NDArray[np.uint8]
    taxonomy: Taxonomy

    def __getitem__(self, name: str) -> NDArray[np.uint8]:
        if name not in _ARRAYS:
            raise KeyError(f"no array {name!r}; a sample has {', '.join(_ARRAYS)}")
        array: NDArray[np.uint8] = getattr(self, name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(_ARRAYS)

    def __len__(self) -> int:
        return len(_ARRAYS)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sample):
            return NotImplemented
        return self.taxonomy == other.taxonomy and all(np.array_equal(self[name], other[name]) for name in self)

    __hash__ = None  # type: ignore[assignment]  # arrays have none

    def __repr__(self) -> str:
        height, width = self.mask.shape
        classes = ", ".join(name for name, occurs in zip(self.taxonomy.names, self.labels, strict=True) if occurs)
        return printable(f"<Sample of {height} x {width} pixels: {classes}>")

    def _repr_html_(self) -> str:
        from synthpipe.curated.notebook import sample_html  # loads OpenCV and Pillow

        return sample_html(self)


@dataclass(frozen=True, slots=True)
class Description:
    """What a set's samples are: what training, and whoever uses the trained network, must know besides pixels.

    Attributes
    ----------
    taxonomy : Taxonomy
        Class names and colours, in the order of mask values; `taxonomy.background` is to be ignored by losses.
    size : tuple of int
        Height and width of the samples.
    fingerprint : str
        Of the pipeline that made the composites.
    patches : PatchesSection
        How the patches of the data set are laid out; `root` is ``.``, since a data set may move.
    glass : GlassSection or None
        What counts as white background in the data set.
    """

    taxonomy: Taxonomy
    size: tuple[int, int]
    fingerprint: str
    patches: PatchesSection
    glass: GlassSection | None

    def ignored_glass(self, ignore: bool = True) -> GlassSection | None:
        """Return what counts as glass where masks of real images are predicted; None if glass is not ignored.

        It is what the build looked for. If the build looked for no glass, it is the glass of the published data sets.
        Composites and patches that train follow `glass` alone.
        """
        return (self.glass or PUBLISHED_GLASS) if ignore else None

    def to_json(self) -> dict[str, Any]:
        """Return all of it, JSON-ready; ``patches.min_side`` is left out where it is null, as in stored sets."""
        unset = {"min_side"} if self.patches.min_side is None else set()
        return {
            **self.taxonomy.to_json(),
            "size": list(self.size),
            "fingerprint": self.fingerprint,
            "patches": self.patches.model_dump(mode="json", exclude={"root", "max_pixels"} | unset),
            "glass": self.glass.model_dump(mode="json") if self.glass else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Description:
        """Read back what `to_json` returned, whatever keys there are besides.

        Raises
        ------
        ValueError
            A key is missing, or has a value that no pipeline has.
        """
        known = {key: data[key] for key in _Stored.model_fields if key in data}
        found = _Stored.model_validate_json(json.dumps(known), strict=True)
        taxonomy = Taxonomy.from_json(found.model_dump(include={"classes", "background_color"}))
        names = [name for tissue in taxonomy.classes for name in (tissue.name, *tissue.aliases)]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"classes: {twice[0]!r} names two classes; names and aliases must be unique")
        try:
            patches = PatchesSection.model_validate({**found.patches, "root": "."})
        except ValidationError as error:
            raise ValueError(f"patches.{explain(error)}") from error
        for pattern, group in ((patches.group_pattern, None), (patches.label_pattern, "label")):
            if pattern and (fault := pattern_fault(pattern, group)):
                raise ValueError(f"patches.{group or 'group'}_pattern: {fault}")
        return cls(taxonomy, found.size, found.fingerprint, patches, found.glass)


class _Stored(Section):
    """What `Description.to_json` writes."""

    classes: Classes
    background_color: Color
    size: tuple[Positive, Positive]
    fingerprint: str
    patches: dict[str, Any]
    glass: GlassSection | None
