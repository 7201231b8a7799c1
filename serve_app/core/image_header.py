"""Reads the size of an image from the head of its file, and decodes nothing.

The engine decodes the image with Pillow, whose parsers accept more than the formats' standards. So
the size found here is a bound for honest files and a first check of the others; the engine compares
the size that Pillow itself finds with `VLLM_MAX_IMAGE_PIXELS` before it decodes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

Reader = Callable[[int, int], bytes]
"""Returns the bytes of the file from an offset; fewer than asked for at its end."""

HEAD_BYTES = 32
SEGMENTS_MAX = 1024
"""Segments of a JPEG or blocks of a GIF before the size; a long colour profile has 256."""

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of a JPEG's frame; the other three of their range hold tables."""
JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""


class ImageFormat(StrEnum):
    """The formats that are taken."""

    PNG = "PNG"
    JPEG = "JPEG"
    WEBP = "WebP"
    GIF = "GIF"


class NoImage(ValueError):
    """The bytes are no image of a known format, or its size cannot be found."""


def read_size(read: Reader) -> tuple[ImageFormat, int, int]:
    """The format, width and height of an image.

    Raises:
        NoImage: the format is not known, or the head is broken.
    """
    head = read(0, HEAD_BYTES)
    for magic, kind, size_of in _KINDS:
        if head.startswith(magic):
            width, height = size_of(read)
            if width < 1 or height < 1:
                raise NoImage
            return kind, width, height
    raise NoImage


def _png(read: Reader) -> tuple[int, int]:
    head = _exactly(read, 8, 16)
    if head[4:8] != b"IHDR":
        raise NoImage
    return int.from_bytes(head[8:12]), int.from_bytes(head[12:16])


def _jpeg(read: Reader) -> tuple[int, int]:
    offset = 2
    for _ in range(SEGMENTS_MAX):
        fill, marker = _exactly(read, offset, 2)
        if fill != 0xFF:
            raise NoImage
        if marker == 0xFF:  # a fill byte
            offset += 1
            continue
        offset += 2
        if marker in JPEG_BARE:
            continue
        length = int.from_bytes(_exactly(read, offset, 2))
        if marker in JPEG_FRAMES:
            frame = _exactly(read, offset + 3, 4)
            return int.from_bytes(frame[2:]), int.from_bytes(frame[:2])
        if length < 2 or marker in (0xD9, 0xDA):
            raise NoImage
        offset += length
    raise NoImage


def _webp(read: Reader) -> tuple[int, int]:
    head = _exactly(read, 8, 22)
    chunk, data = head[4:8], head[12:]
    if head[:4] != b"WEBP":
        raise NoImage
    if chunk == b"VP8X":
        return _little(data[4:7]) + 1, _little(data[7:10]) + 1
    if chunk == b"VP8L" and data[0] == 0x2F:
        bits = _little(data[1:5])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        return _little(data[6:8]) & 0x3FFF, _little(data[8:10]) & 0x3FFF
    raise NoImage


def _gif(read: Reader) -> tuple[int, int]:
    """The screen, or more where the first frame reaches over it, which Pillow then follows."""
    head = _exactly(read, 6, 7)
    width, height = _little(head[:2]), _little(head[2:4])
    offset = 13 + _palette_bytes(head[4])
    for _ in range(SEGMENTS_MAX):
        kind = _exactly(read, offset, 1)
        if kind == b"\x2c":
            frame = _exactly(read, offset + 1, 8)
            left, top, wide, high = (_little(frame[at : at + 2]) for at in (0, 2, 4, 6))
            return max(width, left + wide), max(height, top + high)
        if kind != b"\x21":
            raise NoImage
        offset = _skip_blocks(read, offset + 2)
    raise NoImage


def _palette_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_blocks(read: Reader, offset: int) -> int:
    """The offset after the blocks of an extension."""
    for _ in range(SEGMENTS_MAX):
        length = _exactly(read, offset, 1)[0]
        offset += 1 + length
        if not length:
            return offset
    raise NoImage


def _exactly(read: Reader, offset: int, size: int) -> bytes:
    found = read(offset, size)
    if len(found) < size:
        raise NoImage
    return found


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


_KINDS: tuple[tuple[bytes, ImageFormat, Callable[[Reader], tuple[int, int]]], ...] = (
    (PNG_MAGIC, ImageFormat.PNG, _png),
    (b"\xff\xd8\xff", ImageFormat.JPEG, _jpeg),
    (b"RIFF", ImageFormat.WEBP, _webp),
    (b"GIF87a", ImageFormat.GIF, _gif),
    (b"GIF89a", ImageFormat.GIF, _gif),
)
