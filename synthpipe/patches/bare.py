"""Picture files without what says nothing about pixels.

A small file can ask for much memory or time by its text, profiles, EXIF and further pages, and decoders warn about
them.
So a decoder gets the parts of a file that make pixels, and no others.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import TiffTags

from synthpipe.errors import CatalogError

_MOST_PARTS = 2**18  # a PNG at the bound of pixels has fewer chunks, even of 4 kB each
_MOST_TAGS = 2**16 - 1  # of a TIFF that is no BigTIFF
_MOST_TAG_BYTES = 2**21  # of those that are kept: a quarter of a million strips

_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# comments, and application data but JFIF's (0xE0) and Adobe's (0xEE), which tell the colour space
_JPEG_METADATA = {0xFE, *range(0xE1, 0xEE), 0xEF}
_JPEG_WITHOUT_DATA = {0x01, *range(0xD0, 0xDA)}
_JPEG_SCAN = 0xDA
_TIFF_TAGS = {
    *(
        256,
        257,
        258,
        259,
        262,
        266,
        273,
        274,
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
_TIFF_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TIFF_BYTES = (1, 2, 7)  # types of tags with one value of many bytes
_BIG_TIFF = 43


def bare_png(data: bytes) -> bytes:
    """Return a PNG with the chunks that make pixels; of an animation the still picture stays.

    Raises
    ------
    CatalogError
        Such a chunk is truncated or its checksum is wrong, or there are too many chunks.
    """
    return b"".join(_png_parts(data))


def _png_parts(data: bytes) -> Iterator[memoryview]:
    view, at = memoryview(data), 8
    yield view[:at]
    for _ in range(_MOST_PARTS):
        name, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4])
        if name in _CHUNKS:
            # the decoder does not look at checksums of pixels
            if end > len(data):
                raise CatalogError(f"is truncated: its chunk {name.decode()} ends beyond the file")
            if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
                raise CatalogError(f"is damaged: the checksum of a chunk {name.decode()} is wrong")
            yield view[at:end]
        if name == b"IEND" or end >= len(data):
            return
        at = end
    raise CatalogError(f"has more than {_MOST_PARTS} chunks; save it anew")


def bare_jpeg(data: bytes) -> bytes:
    """Return a JPEG without its metadata; what follows the first scan stays as it is."""
    return b"".join(_jpeg_parts(data))


def _jpeg_parts(data: bytes) -> Iterator[memoryview]:
    view, at = memoryview(data), 2
    yield view[:at]
    for _ in range(_MOST_PARTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return
        marker = data[at + 1]
        if marker == _JPEG_SCAN:
            yield view[at:]
            return
        if marker in (0x00, 0xFF):  # no marker, or one that is padded
            at += 1
            continue
        length = 0 if marker in _JPEG_WITHOUT_DATA else max(2, int.from_bytes(data[at + 2 : at + 4]))
        if marker not in _JPEG_METADATA:
            yield view[at : at + 2 + length]
        at += 2 + length
    raise CatalogError(f"has more than {_MOST_PARTS} segments; save it anew")


def bare_tiff(data: bytes) -> bytes:
    """Return a TIFF whose only directory, at its end, holds those tags of the first that make pixels."""
    order = "<" if data[:2] == b"II" else ">"
    number, counter, head = ("Q", "Q", 16) if data[2] == _BIG_TIFF else ("L", "H", 8)
    try:
        tags = dict(sorted(_tiff_tags(data, order, number, counter, head)))
        end = len(data) + len(data) % 2
        directory = struct.pack(order + counter, len(tags)) + b"".join(tags.values()) + bytes(head)
        begin = data[: head - struct.calcsize("=" + number)] + struct.pack(order + number, end)
    except (struct.error, OverflowError) as error:
        raise CatalogError("is truncated: its tags lie beyond its end") from error
    return b"".join([begin, memoryview(data)[head:], bytes(end - len(data)), directory])


def _tiff_tags(data: bytes, order: str, number: str, counter: str, head: int) -> Iterator[tuple[int, bytes]]:
    """Yield the tags that make pixels, each with its entry in the new directory."""
    entry, offset = struct.Struct(f"{order}HH{number}"), struct.Struct(order + number)
    (at,) = offset.unpack_from(data, head - offset.size)
    (count,) = struct.unpack_from(order + counter, data, at)
    if count > _MOST_TAGS:
        raise CatalogError(f"has {count} tags, expected at most {_MOST_TAGS}; save it anew")
    at += struct.calcsize(order + counter)
    seen, total, step = set[int](), 0, entry.size + offset.size
    for place in range(at, at + count * step, step):
        tag, kind, length = entry.unpack_from(data, place)
        if tag not in _TIFF_TAGS or kind not in _TIFF_UNITS or not length or tag in seen:
            continue
        seen.add(tag)
        inside = _TIFF_UNITS[kind] * length <= offset.size
        start = place + entry.size if inside else offset.unpack_from(data, place + entry.size)[0]
        if TiffTags.lookup(tag).length == 1 and kind not in _TIFF_BYTES:
            length = 1  # Pillow takes the first of many numbers, and warns
        size = _TIFF_UNITS[kind] * length
        total += size
        if total > _MOST_TAG_BYTES:
            raise CatalogError(f"has tags of {total} bytes, expected at most {_MOST_TAG_BYTES}; save it anew")
        if start + size > len(data):
            raise CatalogError(f"is truncated: its tag {tag} lies beyond its end")
        field = data[start : start + size].ljust(offset.size, b"\0") if size <= offset.size else offset.pack(start)
        yield tag, entry.pack(tag, kind, length) + field
