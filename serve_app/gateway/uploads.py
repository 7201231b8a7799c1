"""Reads the form of an upload, and hands the file's bytes on as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive

from serve_app.core.errors import (
    BodyTooLarge,
    BodyTooSlow,
    InvalidField,
    MalformedBody,
    NotMultipart,
    RefusedField,
    UnknownField,
)
from serve_app.gateway.handlers import ClientGone
from serve_app.gateway.request_headers import RequestHeaders

CHUNK_S = 60.0
"""How long the next part of an upload may take."""
PIECE_BYTES = 1024 * 1024
FIELD_BYTES_MAX = 1024
FORM_BYTES = 64 * 1024
"""What a form may hold beside the file."""
NAME_CHARS_MAX = 512
FILE, PURPOSE = "file", "purpose"
PURPOSES = ("batch",)

WriteBytes = Callable[[bytes], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Upload:
    """A form that has been read; the bytes of its file have been written."""

    purpose: str
    name: str
    size_bytes: int


@dataclass(slots=True)
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    text: bytearray = field(default_factory=bytearray)


class UploadForm:
    """The form, as a parser of its pieces."""

    def __init__(self, headers: RequestHeaders) -> None:
        """Raises NotMultipart unless the request is a form."""
        kind, options = parse_options_header(headers.content_type)
        boundary = options.get(b"boundary")
        encoded = headers.content_encoding not in (b"", b"identity")
        if kind != b"multipart/form-data" or not boundary or encoded:
            raise NotMultipart
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_name,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": self._add,
                "on_part_end": self._close,
                "on_end": self._finish,
            },
        )
        self._part = _Part()
        self._header_name, self._header_value = bytearray(), bytearray()
        self._fields: dict[str, str] = {}
        self._file_name: str | None = None
        self._size_bytes = 0
        self._ended = False
        self.piece = bytearray()
        """Bytes of the file that nobody has taken yet."""

    def feed(self, chunk: bytes) -> None:
        """Take bytes of the body.

        Raises:
            MalformedBody: they are no form.
            BadRequest: a field is wrong; names it.
        """
        try:
            self._parser.write(chunk)
        except MultipartParseError:
            raise MalformedBody("it is no multipart form") from None

    def take_piece(self) -> bytes:
        """The bytes of the file that have come since the last time."""
        piece = bytes(self.piece)
        self._size_bytes += len(piece)
        self.piece.clear()
        return piece

    def result(self) -> Upload:
        """The form as a whole.

        Raises:
            BadRequest: it is not complete; names the field.
        """
        if not self._ended:
            raise MalformedBody("the multipart form has no end")
        purpose = self._fields.get(PURPOSE)
        if purpose not in PURPOSES:
            raise InvalidField(PURPOSE, f"one of {', '.join(PURPOSES)}")
        if self._file_name is None:
            raise InvalidField(FILE, "a file with a name")
        return Upload(purpose, self._file_name, self._size_bytes)

    def _begin(self) -> None:
        self._part = _Part()

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._part.headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _open(self) -> None:
        disposition = self._part.headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._part.name = name
        if name == FILE:
            if self._file_name is not None:
                raise InvalidField(FILE, "one file")
            file_name = options.get(b"filename", b"").decode("utf-8", "replace")
            self._file_name = file_name[:NAME_CHARS_MAX] or "upload"
        elif name.startswith("expires_after"):
            raise RefusedField(name, "files are kept as long as the operator says")
        elif name != PURPOSE:
            raise UnknownField(name)

    def _add(self, data: bytes, start: int, end: int) -> None:
        if self._part.name == FILE:
            self.piece += data[start:end]
            return
        self._part.text += data[start:end]
        if len(self._part.text) > FIELD_BYTES_MAX:
            raise InvalidField(self._part.name, f"at most {FIELD_BYTES_MAX} bytes")

    def _close(self) -> None:
        if self._part.name != FILE:
            self._fields[self._part.name] = self._part.text.decode("utf-8", "replace")

    def _finish(self) -> None:
        self._ended = True


async def read_upload(
    receive: Receive, headers: RequestHeaders, file_bytes_max: int, write: WriteBytes
) -> Upload:
    """Read a form, and pass the bytes of its file to `write`, about a megabyte at a time.

    Raises:
        BadRequest, NotMultipart: the body is no such form.
        BodyTooLarge: the file is longer than allowed; the rest is not read.
        BodyTooSlow: nothing has come for a minute.
        ClientGone: the client left.
    """
    form = UploadForm(headers)
    bytes_max = file_bytes_max + FORM_BYTES
    if headers.content_length is not None and headers.content_length > bytes_max:
        raise BodyTooLarge(file_bytes_max)
    size, more = 0, True
    while more:
        chunk, more = await _next_chunk(receive)
        size += len(chunk)
        if size > bytes_max:
            raise BodyTooLarge(file_bytes_max)
        form.feed(chunk)
        if len(form.piece) >= PIECE_BYTES:
            await write(form.take_piece())
    if form.piece:
        await write(form.take_piece())
    upload = form.result()
    if upload.size_bytes > file_bytes_max:
        raise BodyTooLarge(file_bytes_max)
    return upload


async def _next_chunk(receive: Receive) -> tuple[bytes, bool]:
    try:
        async with asyncio.timeout(CHUNK_S):
            message = await receive()
    except TimeoutError:
        raise BodyTooSlow from None
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)
