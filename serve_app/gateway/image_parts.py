"""Reads the images of a body as far as routing and bounds need it; decodes none."""

from __future__ import annotations

import binascii
import re
from typing import Any

from serve_app.core.errors import InvalidField, RefusedField
from serve_app.core.image_header import NoImage, read_size
from serve_app.core.images import SIDES_RATIO_MAX, ImagePart

Json = dict[str, Any]

DATA_URL = re.compile(r"data:[^,;]{1,64}(?:;[^,;]{1,64}){0,4};base64,", re.IGNORECASE)
# Without user, port, backslash and space, every parser on the way finds the same host in the URL.
REMOTE_URL = re.compile(r"https://([a-z0-9.-]+)(?::443)?(?:[/?][!-\[\]-~]*)?", re.IGNORECASE)
MEDIA_TYPE = re.compile(r"image/[a-z0-9.+-]{1,32}", re.IGNORECASE)

URL_CHARS_MAX = 8192
"""Of a URL that an engine would fetch."""

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
EXPECTED = "a PNG, JPEG, WebP or GIF image in base64"


def read_image_url(value: object, param: str) -> ImagePart:
    """An image by its URL, which stands alone or in an object.

    Raises:
        InvalidField: the URL is neither a `data:` URL of an image nor an `https:` URL.
    """
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise InvalidField(param, "a URL")
    if found := DATA_URL.match(url):
        return _read_base64(url, found.end(), param)
    remote = REMOTE_URL.fullmatch(url) if len(url) <= URL_CHARS_MAX else None
    if remote is None:
        raise InvalidField(param, "a base64 'data:' URL, or an 'https:' URL of a host")
    return ImagePart(param, host=remote[1].lower())


def read_source(source: object, param: str) -> ImagePart:
    """An image in Anthropic's form.

    Raises:
        InvalidField: it is neither a base64 image nor an `https:` URL.
    """
    if not isinstance(source, dict):
        raise InvalidField(param, "an object")
    kind = source.get("type")
    if kind == "url":
        return read_image_url(source.get("url"), f"{param}.url")
    if kind != "base64":
        raise InvalidField(f"{param}.type", "'base64' or 'url'")
    # vLLM writes the type into a `data:` URL, of which it could become the beginning.
    media_type = source.get("media_type")
    if not isinstance(media_type, str) or not MEDIA_TYPE.fullmatch(media_type):
        raise InvalidField(f"{param}.media_type", "the type of an image, for example image/png")
    data = source.get("data")
    if not isinstance(data, str):
        raise InvalidField(f"{param}.data", EXPECTED)
    return _read_base64(data, 0, f"{param}.data")


def refuse_other_media(part: Json, kind: str | None, param: str) -> None:
    """Refuse videos, sounds and files, which no tier takes.

    Raises:
        RefusedField: names the field.
    """
    for key in OTHER_MEDIA:
        if kind == key or part.get(key) is not None:
            raise RefusedField(f"{param}.{key}", "the models here read text and images only")


OTHER_MEDIA = (
    "video_url", "audio_url", "input_audio", "input_video", "file_url", "input_file", "file",
    "video_embeds", "audio_embeds",
)  # fmt: skip


def _read_base64(text: str, begin: int, param: str) -> ImagePart:
    """The image whose file is in base64 from `begin` on.

    vLLM decodes strictly: it skips no character, so each group of four stands for three bytes and
    the head can be read alone.
    """
    body = _strict(text, begin, param)

    def read(offset: int, size: int) -> bytes:
        first, last = offset // 3 * 4, -(-(offset + size) // 3) * 4
        return binascii.a2b_base64(body[first:last])[offset % 3 :][:size]

    try:
        _, width, height = read_size(read)
    except (NoImage, binascii.Error):
        raise InvalidField(param, EXPECTED) from None
    padding = len(body) - len(body.rstrip(b"="))
    image = ImagePart(param, width, height, len(body) // 4 * 3 - padding)
    if image.drawn_out:
        raise InvalidField(
            param, f"an image that is at most {SIDES_RATIO_MAX} times as long as wide"
        )
    return image


def _strict(text: str, begin: int, param: str) -> bytes:
    try:
        body = text[begin:].encode("ascii")
    except UnicodeEncodeError:
        raise InvalidField(param, EXPECTED) from None
    others = body.translate(None, ALPHABET)
    if len(body) % 4 or others not in (b"", b"=", b"==") or not body.endswith(others):
        raise InvalidField(param, EXPECTED)
    return body
