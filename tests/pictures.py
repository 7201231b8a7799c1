"""Small images for tests, as files and as `data:` URLs."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def picture(kind: str = "PNG", width: int = 40, height: int = 30, **options: Any) -> bytes:
    """The file of an image of one colour."""
    file = BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, kind, **options)
    return file.getvalue()


def png_head(*sizes: tuple[int, int]) -> bytes:
    """A PNG that claims sizes, one after the other, and has no pixels."""
    heads = [_chunk(b"IHDR" + struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)) for size in sizes]
    return PNG_MAGIC + b"".join(heads) + _chunk(b"IDAT" + bytes(8))


def _chunk(body: bytes) -> bytes:
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def data_url(file: bytes, kind: str = "png") -> str:
    """The URL that holds a file."""
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


def image_part(url: str) -> dict[str, Any]:
    """An image of a chat."""
    return {"type": "image_url", "image_url": {"url": url}}


def ask_about(url: str) -> list[dict[str, Any]]:
    """A chat's messages that ask about one image."""
    text = {"type": "text", "text": "What is on it?"}
    return [{"role": "user", "content": [image_part(url), text]}]
