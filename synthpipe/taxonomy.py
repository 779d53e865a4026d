"""The tissue classes of a data set: names, colours, and the index that means background."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

LOST = 255
"""Mask value of a pixel that was never written. No taxonomy may use it for a class."""

BETWEEN_NAMES = "+;|"
"""What joins the names of several classes: no name holds one of them."""
_Byte = Annotated[int, Field(ge=0, le=255)]
_Color = tuple[_Byte, _Byte, _Byte]


@dataclass(frozen=True, slots=True)
class TissueClass:
    """One tissue class.

    Attributes
    ----------
    name : str
        What the class is called in pipeline files, tables and stores.
    color : tuple of int
        Its RGB colour in palettes and overlays, 0-255.
    aliases : tuple of str
        Other names under which folders and tables may list it, such as ``TUM``.
    """

    name: str
    color: _Color
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The classes of a data set in index order.

    A mask pixel holds the index of its class. The index after the last class is the background: glass, and whatever
    else must not count in a loss or a metric.
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
        """The index that means background, ignored by losses and metrics."""
        return len(self.classes)

    def index(self, name: str) -> int:
        """Return the index of the class called `name`, by its name or one of its aliases.

        Raises
        ------
        KeyError
            No class has that name.
        """
        for index, tissue in enumerate(self.classes):
            if name == tissue.name or name in tissue.aliases:
                return index
        raise KeyError(name)

    def label(self, classes: Iterable[int]) -> str:
        """Name a set of classes for people: ``tumour+stroma``."""
        return "+".join(self.names[index] for index in sorted(classes))

    def to_json(self) -> dict[str, Any]:
        """Return all of it, JSON-ready: what stores and checkpoints say of their classes."""
        classes = [
            {"name": tissue.name, "color": list(tissue.color), "aliases": list(tissue.aliases)}
            for tissue in self.classes
        ]
        return {"classes": classes, "background_color": list(self.background_color)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Taxonomy:
        """Read back what `to_json` returned, whatever keys there are besides.

        Raises
        ------
        ValidationError
            A ValueError: it is something else; its errors name the keys.
        """
        return _READ.validate_python({key: data[key] for key in ("classes", "background_color") if key in data})

    def palette(self) -> bytes:
        """Return the 768 bytes of a PNG palette: the classes' colours, then the background's, then black."""
        colors = [tissue.color for tissue in self.classes] + [self.background_color]
        return b"".join(bytes(color) for color in colors).ljust(768, b"\0")


_READ: TypeAdapter[Taxonomy] = TypeAdapter(Taxonomy)
