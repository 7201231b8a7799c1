"""The size of an image is read from its head, and is what Pillow finds."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serve_app.core.image_header import ImageFormat, NoImage, read_size
from tests.pictures import picture, png_head


def size(file: bytes) -> tuple[ImageFormat, int, int]:
    return read_size(lambda offset, count: file[offset : offset + count])


def animated(kind: str, **options: Any) -> bytes:
    file = BytesIO()
    frames = [Image.new("RGB", (50, 40), colour) for colour in ("red", "blue")]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], **options)
    return file.getvalue()


FILES = {
    "PNG": picture("PNG"),
    "JPEG": picture("JPEG"),
    "progressive JPEG": picture("JPEG", progressive=True),
    "JPEG with a long profile": picture("JPEG", icc_profile=bytes(900_000), exif=bytes(60_000)),
    "WebP": picture("WEBP"),
    "lossless WebP": picture("WEBP", lossless=True),
    "extended WebP": picture("WEBP", icc_profile=b"profile"),
    "GIF": picture("GIF"),
    "GIF with a comment": picture("GIF", comment=b"c" * 5000),
    "animated GIF": animated("GIF"),
    "animated PNG": animated("PNG"),
    "animated WebP": animated("WEBP"),
}


@pytest.mark.parametrize("name", FILES)
def test_sizes_are_those_of_pillow(name: str) -> None:
    """Pillow is what the engine decodes with."""
    kind, width, height = size(FILES[name])
    with Image.open(BytesIO(FILES[name])) as image:
        assert (kind.upper(), width, height) == (image.format, *image.size)


@given(width=st.integers(1, 2000), height=st.integers(1, 30), kind=st.sampled_from(ImageFormat))
def test_any_size_is_found(width: int, height: int, kind: ImageFormat) -> None:
    """Of all four formats."""
    assert size(picture(kind.upper(), width, height)) == (kind, width, height)


def test_a_gif_whose_frame_is_larger_than_its_screen_has_the_frames_size() -> None:
    """Pillow allocates the frame, whatever the screen says."""
    file = bytearray(picture("GIF", 40, 30))
    file[6:10] = struct.pack("<HH", 1, 1)
    with Image.open(BytesIO(file)) as image:
        assert size(bytes(file)) == (ImageFormat.GIF, *image.size) == (ImageFormat.GIF, 40, 30)


def test_a_bomb_costs_nothing() -> None:
    """The size comes from the head; nothing after it is read."""
    read: list[int] = []

    def reader(offset: int, count: int) -> bytes:
        read.append(count)
        return png_head((60_000, 60_000))[offset : offset + count]

    assert read_size(reader) == (ImageFormat.PNG, 60_000, 60_000)
    assert sum(read) < 100


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short_is_no_image(name: str) -> None:
    """At every length up to the size's place; beyond it the engine will say so."""
    whole = size(FILES[name])
    for length in range(64):
        try:
            assert size(FILES[name][:length]) == whole
        except NoImage:
            continue


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(tail: bytes) -> None:
    """Behind any magic number."""
    for magic in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF0000WEBP", b"GIF89a"):
        try:
            _, width, height = size(magic + tail)
        except NoImage:
            continue
        assert width > 0
        assert height > 0


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"BM" + bytes(60),
        b"%PDF-1.7" + bytes(60),
        b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
        png_head((0, 5)),
        b"II*\0" + bytes(60),
        b"\xff\xd8" + b"\xff\xd0" * 5000,
        b"GIF89a" + bytes(7) + b"\x21\xfe\x01a" * 5000,
    ],
)
def test_other_files_are_refused(file: bytes) -> None:
    """Formats that Pillow knows too, and heads without an end."""
    with pytest.raises(NoImage):
        size(file)
