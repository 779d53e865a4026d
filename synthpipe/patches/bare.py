"""Remove all parts of picture files that do not change the pixels.

Metadata and further pages can take much memory or time, even in a small file, and decoders warn about them. So a
decoder gets only the parts that define pixels. The orientation and the depth are metadata that change the picture; this
module reads them itself.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from PIL import TiffTags

from synthpipe.core.errors import CatalogError

_MOST_PARTS = 2**18  # a PNG with the most pixels allowed has fewer chunks, even with 4 kB each
_MOST_TAGS = 2**16 - 1  # of a classic TIFF, which is not a BigTIFF
_MOST_TAG_BYTES = 2**21  # of the tags that are kept; enough for a quarter of a million strips
_MOST_PAGES = 1000  # of a TIFF that are examined

_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_FACTS = (b"eXIf", b"sBIT", b"acTL")
_EXIF = b"Exif\0\0"
# comments and application data, without the data of JFIF (0xE0) and Adobe (0xEE), which give the colour space
_JPEG_METADATA = {0xFE, *range(0xE1, 0xEE), 0xEF}
_JPEG_EXIF = 0xE1
_JPEG_WITHOUT_DATA = {0x01, *range(0xD0, 0xDA)}
_JPEG_SCAN = 0xDA
_TIFF_TAGS = frozenset(
    {
        *(
            256,
            257,
            258,
            259,
            262,
            266,
            273,
            277,
            278,
            279,
            284,
            292,
            293,
            317,
            320,
            322,
            323,
            324,
            325,
            332,
            338,
            339,
        ),
        *(347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),  # JPEG within TIFF, and YCbCr
    }
)
_SUBFILE_TYPE, _ORIENTATION, _MAX_SAMPLE_VALUE = 254, 274, 281
_TIFF_FACTS = frozenset({_SUBFILE_TYPE, _ORIENTATION, _MAX_SAMPLE_VALUE})
_TIFF_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TIFF_BYTES = (1, 2, 7)  # types of tags with one value of many bytes
_BIG_TIFF = 43
_REDUCED, _MASK = 1, 4  # kinds of pages that belong to another page: a smaller copy, a mask


@dataclass(frozen=True, slots=True)
class Bare:
    """A picture file that has only the parts that define pixels, with facts from the removed parts.

    Attributes
    ----------
    data : bytes
        The bytes of the file.
    orientation : int
        Orientation of the stored pixels, 1 to 8 as in EXIF; 1 is upright.
    bits : int, optional
        Number of bits that 16-bit values use, 8 to 15, if the file declares it.
    """

    data: bytes
    orientation: int = 1
    bits: int | None = None


def bare_png(data: bytes) -> Bare:
    """Return a PNG with only the chunks that define pixels.

    Raises
    ------
    CatalogError
        A chunk is truncated or has a wrong checksum, there are too many chunks, or there are several frames.
    """
    parts, facts = [memoryview(data)[:8]], dict[bytes, bytes]()
    for name, chunk in _png_parts(data):
        if name in _CHUNKS:
            parts.append(chunk)
        else:
            facts.setdefault(name, bytes(chunk[8:-4]))
    frames = int.from_bytes(facts.get(b"acTL", b"")[:4])
    if frames > 1:
        raise CatalogError(f"is an animation of {frames} frames, expected one picture; save the frame that you need")
    bits = facts.get(b"sBIT", b"")
    return Bare(
        b"".join(parts),
        _exif_orientation(facts.get(b"eXIf", b"")),
        _declared(max(bits[: 3 if len(bits) > 2 else 1], default=0)),  # in two or four channels, the last one is alpha
    )


def _png_parts(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the name and the bytes of each chunk that defines pixels or gives facts about them."""
    view, at = memoryview(data), 8
    for _ in range(_MOST_PARTS):
        name, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4])
        if name in _CHUNKS or name in _FACTS:
            # the decoder does not check the checksums of pixels
            if end > len(data):
                raise CatalogError(f"is truncated: its chunk {name.decode()} ends after the end of the file")
            if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
                raise CatalogError(f"is damaged: the checksum of a chunk {name.decode()} is wrong")
            yield name, view[at:end]
        if name == b"IEND" or end >= len(data):
            return
        at = end
    raise CatalogError(f"has more than {_MOST_PARTS} chunks; save it again")


def bare_jpeg(data: bytes) -> Bare:
    """Return a JPEG without its metadata; everything after the start of the first scan is kept."""
    parts, exif = [memoryview(data)[:2]], b""
    for marker, part in _jpeg_parts(data):
        if marker not in _JPEG_METADATA:
            parts.append(part)
        elif marker == _JPEG_EXIF and part[4:10] == _EXIF:
            exif = exif or bytes(part[4:])
    return Bare(b"".join(parts), _exif_orientation(exif))


def _jpeg_parts(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield the marker and the bytes of each segment. The last one holds the first scan and the rest of the file."""
    view, at = memoryview(data), 2
    for _ in range(_MOST_PARTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return
        marker = data[at + 1]
        if marker == _JPEG_SCAN:
            yield marker, view[at:]
            return
        if marker in (0x00, 0xFF):  # not a marker, or padding before one
            at += 1
            continue
        length = 0 if marker in _JPEG_WITHOUT_DATA else max(2, int.from_bytes(data[at + 2 : at + 4]))
        yield marker, view[at : at + 2 + length]
        at += 2 + length
    raise CatalogError(f"has more than {_MOST_PARTS} segments; save it again")


def bare_bmp(data: bytes) -> Bare:
    """Return a BMP unchanged, since all its parts define pixels."""
    return Bare(data)


def bare_tiff(data: bytes) -> Bare:
    """Return a TIFF with a single directory: the first one, with only the tags that define pixels.

    Raises
    ------
    CatalogError
        A tag is truncated, there are too many tags, or further pages show another picture.
    """
    layout = _layout(data)
    try:
        (first,) = layout.offset.unpack_from(data, layout.head - layout.offset.size)
        tags = {tag: (entry, value) for tag, entry, value in _tiff_tags(data, layout, first, _TIFF_TAGS | _TIFF_FACTS)}
        facts = {tag: tags.pop(tag)[1] for tag in _TIFF_FACTS & tags.keys()}
        end = len(data) + len(data) % 2
        entries = [tags[tag][0] for tag in sorted(tags)]
        directory = layout.counter.pack(len(tags)) + b"".join(entries) + bytes(layout.head)
        begin = data[: layout.head - layout.offset.size] + layout.offset.pack(end)
    except (struct.error, OverflowError) as error:
        raise CatalogError("is truncated: its tags are after the end of the file") from error
    others = list(_are_extra(data, layout, first))
    if others and (facts.get(_SUBFILE_TYPE, 0) & (_REDUCED | _MASK) or not all(others)):
        raise CatalogError(
            "has several pages, expected one picture; save the page that you need as a file, for example with "
            "`magick 'FILE[0]' NEW`"
        )
    largest = facts.get(_MAX_SAMPLE_VALUE, 0)
    return Bare(
        b"".join([begin, memoryview(data)[layout.head :], bytes(end - len(data)), directory]),
        _valid_orientation(facts.get(_ORIENTATION, 1)),
        _declared(largest.bit_length()) if largest & (largest + 1) == 0 else None,
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """Number formats of a TIFF, and the size of its header in bytes (`head`)."""

    order: Literal["little", "big"]
    head: int
    offset: struct.Struct
    counter: struct.Struct
    entry: struct.Struct

    def number(self, data: bytes) -> int:
        return int.from_bytes(data, self.order)


def _layout(data: bytes) -> _Layout:
    """Return the number formats that the first bytes of a TIFF declare."""
    little = data.startswith(b"II")
    number, counter, head = ("Q", "Q", 16) if data[2] == _BIG_TIFF else ("L", "H", 8)
    structs = (struct.Struct("<>"[not little] + each) for each in (number, counter, f"HH{number}"))
    return _Layout("little" if little else "big", head, *structs)


def _tiff_tags(data: bytes, layout: _Layout, at: int, wanted: frozenset[int]) -> Iterator[tuple[int, bytes, int]]:
    """Yield the wanted tags of the directory at `at`: each tag, its entry for a new directory, and its first number."""
    entry, offset = layout.entry, layout.offset
    (count,) = layout.counter.unpack_from(data, at)
    if count > _MOST_TAGS:
        raise CatalogError(f"has {count} tags, expected at most {_MOST_TAGS}; save it again")
    at += layout.counter.size
    done, total, step = set[int](), 0, entry.size + offset.size
    for position in range(at, at + count * step, step):
        tag, kind, length = entry.unpack_from(data, position)
        if tag not in wanted or kind not in _TIFF_UNITS or not length or tag in done:
            continue
        done.add(tag)
        inside = _TIFF_UNITS[kind] * length <= offset.size
        start = position + entry.size if inside else offset.unpack_from(data, position + entry.size)[0]
        if TiffTags.lookup(tag).length == 1 and kind not in _TIFF_BYTES:
            length = 1  # if there are several numbers, Pillow takes the first one and warns
        size = _TIFF_UNITS[kind] * length
        total += size
        if total > _MOST_TAG_BYTES:
            raise CatalogError(f"has tags of {total} bytes, expected at most {_MOST_TAG_BYTES}; save it again")
        if start + size > len(data):
            raise CatalogError(f"is truncated: its tag {tag} is after the end of the file")
        field = data[start : start + size].ljust(offset.size, b"\0") if size <= offset.size else offset.pack(start)
        yield tag, entry.pack(tag, kind, length) + field, layout.number(data[start : start + _TIFF_UNITS[kind]])


def _are_extra(data: bytes, layout: _Layout, at: int) -> Iterator[bool]:
    """Yield, for each page after the page at `at`, whether it is a smaller copy or a mask of another page.

    The first tag of a page has the kind of the page. The last page links to no page, or to a position after the end of
    the file.
    """
    step = layout.entry.size + layout.offset.size
    for _ in range(_MOST_PAGES):
        try:
            (count,) = layout.counter.unpack_from(data, at)
            (at,) = layout.offset.unpack_from(data, at + layout.counter.size + count * step)
            if not at:
                return
            tag, unit, _ = layout.entry.unpack_from(data, at + layout.counter.size)
        except (struct.error, OverflowError):
            return
        start = at + layout.counter.size + layout.entry.size
        kind = layout.number(data[start : start + _TIFF_UNITS.get(unit, 0)])
        yield tag == _SUBFILE_TYPE and bool(kind & (_REDUCED | _MASK))


def _exif_orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data, 1 to 8; 1 if the data are damaged or have no orientation."""
    exif = exif.removeprefix(_EXIF)
    if exif[:4] in (b"II*\0", b"MM\0*"):
        layout = _layout(exif)
        with suppress(CatalogError, struct.error, OverflowError):
            (at,) = layout.offset.unpack_from(exif, layout.head - layout.offset.size)
            for _, _, value in _tiff_tags(exif, layout, at, frozenset({_ORIENTATION})):
                return _valid_orientation(value)
    return 1


def _valid_orientation(orientation: int) -> int:
    """Return an orientation if it is from 1 to 8, else 1."""
    return orientation if 1 <= orientation <= 8 else 1


def _declared(bits: int) -> int | None:
    """Return a declared depth of 8 to 15 bits, else None."""
    return bits if 8 <= bits < 16 else None
