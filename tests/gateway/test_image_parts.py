"""Images of a body are measured without being decoded, and the field of a broken one is named."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.errors import InvalidField
from serve_app.core.images import ImagePart
from serve_app.gateway.image_parts import read_image_url, read_source
from tests.pictures import data_url, picture, png_head

PNG = picture("PNG", 40, 30)
DATA = base64.b64encode(PNG).decode()


def source(**fields: Any) -> dict[str, Any]:
    return {"type": "base64", "media_type": "image/png", "data": DATA} | fields


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_size_and_bytes_are_those_of_the_file(kind: str) -> None:
    """Whatever type the URL claims: vLLM looks at the file, too."""
    file = picture(kind, 123, 45)
    assert read_image_url(data_url(file), "p") == ImagePart("p", 123, 45, len(file))


@given(st.integers(0, 3))
def test_bytes_are_exact(more: int) -> None:
    """With any padding."""
    file = PNG + bytes(more)
    assert read_image_url(data_url(file), "p").size_bytes == len(file)


def test_anthropics_form_is_the_same_image() -> None:
    """The field says where the data are."""
    assert read_source(source(), "p") == ImagePart("p.data", 40, 30, len(PNG))
    remote = {"type": "url", "url": "https://good.org/a.png"}
    assert read_source(remote, "p") == ImagePart("p.url", host="good.org")


@pytest.mark.parametrize(
    "data",
    [
        "",
        "AAAA",
        DATA[:-1],
        DATA + "\n",
        DATA[:20] + " " + DATA[20:],
        DATA[:20] + "-_-_" + DATA[20:],
        DATA + "====",
        "=" + DATA[:-1],
        DATA[:8] + "=" + DATA[9:],
        "é" + DATA,
        base64.b64encode(b"%PDF-1.7 and more, so that the head is long enough").decode(),
        base64.b64encode(png_head((0, 7))).decode(),
    ],
)
def test_what_is_no_image_is_refused(data: str) -> None:
    """Also base64 that another decoder would take, because its bytes would be others."""
    for read in (
        lambda: read_image_url(f"data:image/png;base64,{data}", "p"),
        lambda: read_source(source(data=data), "p"),
    ):
        with pytest.raises(InvalidField, match="PNG, JPEG, WebP or GIF"):
            read()


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (None, "p"),
        ([], "p"),
        ({}, "p.type"),
        (source(type="file"), "p.type"),
        (source(media_type="image/png;base64,AAAA"), "p.media_type"),
        (source(media_type="text/html"), "p.media_type"),
        (source(media_type=None), "p.media_type"),
        (source(data=None), "p.data"),
        (source(data={"a": 1}), "p.data"),
        ({"type": "url"}, "p.url"),
        ({"type": "url", "url": "http://good.org/"}, "p.url"),
    ],
)
def test_sources_of_other_forms_are_refused(value: object, param: str) -> None:
    """vLLM would take any `type` for base64, and writes `media_type` into a URL."""
    with pytest.raises(InvalidField) as caught:
        read_source(value, "p")
    assert caught.value.param == param


def test_an_image_that_the_processor_refuses_is_refused_here() -> None:
    """vLLM would report the ratio of the sides as its own error."""
    assert read_image_url(data_url(picture("PNG", 200, 1)), "p").width == 200
    with pytest.raises(InvalidField, match="200 times"):
        read_image_url(data_url(picture("PNG", 201, 1)), "p")


@given(st.text(max_size=80) | st.binary(max_size=80).map(base64.b64encode).map(bytes.decode))
def test_any_text_is_an_image_or_a_clients_error(text: str) -> None:
    """Never an error of ours."""
    for url in (text, f"data:image/png;base64,{text}", f"https://{text}"):
        with suppress(InvalidField):
            read_image_url(url, "p")
