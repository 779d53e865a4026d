"""One sample of a curated set, and the description of all its samples."""

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

_ARRAYS = ("image", "mask", "labels")  # arrays of a sample


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sample(Mapping[str, NDArray[np.uint8]]):
    """One sample of a curated set: its three arrays by name, as ``sample["image"]`` or ``sample.image``.

    Samples are equal if their arrays and classes are equal. Like a dict, a sample has no hash, so keep indices in sets
    and caches.

    Attributes
    ----------
    image : (H, W, 3) uint8
        RGB.
    mask : (H, W) uint8
        Class indices, or the background index.
    labels : (C,) uint8
        1 for each class that occurs.
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

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def __repr__(self) -> str:
        height, width = self.mask.shape
        classes = ", ".join(name for name, occurs in zip(self.taxonomy.names, self.labels, strict=True) if occurs)
        return printable(f"<Sample of {height} x {width} pixels: {classes}>")

    def _repr_html_(self) -> str:
        from synthpipe.curated.notebook import sample_html  # loads OpenCV and Pillow

        return sample_html(self)


@dataclass(frozen=True, slots=True)
class Description:
    """Description of a set's samples, which training and users of the trained network need besides pixels.

    Attributes
    ----------
    taxonomy : Taxonomy
        Class names and colours, in the order of mask values; losses must ignore `taxonomy.background`.
    size : tuple of int
        Height and width of the samples.
    fingerprint : str
        Fingerprint of the pipeline that made the composites.
    patches : PatchesSection
        Layout of the data set's patches; `root` is ``.``, since a data set can move.
    glass : GlassSection or None
        Settings of glass detection in the data set; None if glass is not detected.
    """

    taxonomy: Taxonomy
    size: tuple[int, int]
    fingerprint: str
    patches: PatchesSection
    glass: GlassSection | None

    def ignored_glass(self, ignore: bool = True) -> GlassSection | None:
        """Return the glass settings for predicted masks of real images; None if glass is not ignored.

        These are the settings of the build. If the build detects no glass, they are those of the published data sets.
        Training uses only `glass`, for composites and patches.
        """
        return (self.glass or PUBLISHED_GLASS) if ignore else None

    def to_json(self) -> dict[str, Any]:
        """Return the description, JSON-ready; ``patches.min_side`` is left out if it is null, as in stored sets."""
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
        """Read the result of `to_json`; other keys are ignored.

        Raises
        ------
        ValueError
            A key is missing, or its value is not valid in a pipeline.
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
    """Keys and types of `Description.to_json`."""

    classes: Classes
    background_color: Color
    size: tuple[Positive, Positive]
    fingerprint: str
    patches: dict[str, Any]
    glass: GlassSection | None
