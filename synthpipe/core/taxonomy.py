"""The tissue classes of a data set, with their names and colours, and the background's index."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

LOST = 255
"""Mask value of a pixel that was never written. No taxonomy may use it for a class."""

BETWEEN_NAMES = "+;|"
"""Characters that separate class names in a text. No class name contains one of these characters."""
_Byte = Annotated[int, Field(ge=0, le=255)]
_Color = tuple[_Byte, _Byte, _Byte]


def same_name(name: str) -> str:
    """Return a class name in a normal form, without differences of case and of Unicode composition."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True, slots=True)
class TissueClass:
    """One tissue class.

    Attributes
    ----------
    name : str
        The class's name in pipeline files, tables and stores.
    color : tuple of int
        RGB colour in palettes and overlays, 0-255.
    aliases : tuple of str
        Other names of the class in folders and tables, such as ``TUM``.
    """

    name: str
    color: _Color
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The classes of a data set in index order.

    A mask pixel holds the index of its class. The index after the last class is the background: glass and other pixels
    that losses and metrics must ignore.
    """

    classes: Annotated[tuple[TissueClass, ...], Field(min_length=1, max_length=LOST - 1)]
    background_color: _Color = (255, 255, 255)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tissue.name for tissue in self.classes)

    @property
    def background(self) -> int:
        """The background's index, which losses and metrics ignore."""
        return len(self.classes)

    def index(self, name: str) -> int:
        """Return the index of the class with this name or alias. If there is no exact match, case is ignored.

        Raises
        ------
        KeyError
            No class has this name or alias.
        """
        for index, tissue in enumerate(self.classes):
            if name == tissue.name or name in tissue.aliases:
                return index
        for index, tissue in enumerate(self.classes):
            if same_name(name) in map(same_name, (tissue.name, *tissue.aliases)):
                return index
        raise KeyError(name)

    def label(self, classes: Iterable[int]) -> str:
        """Return a text that names a set of classes, such as ``tumour+stroma``."""
        return "+".join(self.names[index] for index in sorted(classes))

    def to_json(self) -> dict[str, Any]:
        """Return the taxonomy in the form that stores and checkpoints keep as JSON."""
        classes = [
            {"name": tissue.name, "color": list(tissue.color), "aliases": list(tissue.aliases)}
            for tissue in self.classes
        ]
        return {"classes": classes, "background_color": list(self.background_color)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Taxonomy:
        """Read a taxonomy from the result of `to_json`. Other keys are ignored.

        Raises
        ------
        ValidationError
            The data are not a taxonomy. This error is a ValueError, and its `errors` name the wrong keys.
        """
        return _READ.validate_python({key: data[key] for key in ("classes", "background_color") if key in data})

    def palette(self) -> bytes:
        """Return the 768 bytes of a PNG palette: the classes' colours, then the background's, then black."""
        colors = [tissue.color for tissue in self.classes] + [self.background_color]
        return b"".join(bytes(color) for color in colors).ljust(768, b"\0")


_LEVELS = range(20, 240, 36)
_STEP = 151  # has no factor in common with the number of colours, so each comes once, and neighbours differ much


def distinct_colors() -> Iterator[tuple[int, int, int]]:
    """Yield a fixed list of different colours, enough for the largest taxonomy, without white and black.

    The first seven colours are from Okabe and Ito (2008). People with any kind of colour vision can distinguish them.
    """
    first = [
        *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
        *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
    ]
    others = [(red, green, blue) for red in _LEVELS for green in _LEVELS for blue in _LEVELS]
    yield from first
    yield from (others[number * _STEP % len(others)] for number in range(len(others)))


_READ: TypeAdapter[Taxonomy] = TypeAdapter(Taxonomy)
