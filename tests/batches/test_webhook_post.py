"""One event to one receiver: what may be reached, and what an answer may cost."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import ValidationError

from serve_app.batches.build import read_keys
from serve_app.batches.notices import Notice, NotPosted
from serve_app.batches.signing import parse_secret, sign
from serve_app.batches.webhook_post import WebhookPost
from serve_app.config.batches import BatchesConfig
from serve_app.config.webhooks import WebhookConfig
from serve_app.offline.certificates.authority import Purpose, Subject, issue, make_authority
from tests.batches.receiver import LOOPBACK, SECRET, VARIABLE, Receiver, open_receiver

NOTICE = Notice("evt_1", "main", "acme", "batch.completed", '{"id":"evt_1"}', 1.0)
KEYS = [parse_secret(SECRET)]
METADATA_SERVICE = "169.254.169.254"


class FakeResolver(AbstractResolver):
    """Answers each question for an address with the next of these."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self._answers = [*answers]
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        return [self._result(host, address, port) for address in self._answers.pop(0)]

    @staticmethod
    def _result(host: str, address: str, port: int) -> ResolveResult:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        flags = socket.AI_NUMERICHOST
        return ResolveResult(
            hostname=host, host=address, port=port, family=family, proto=0, flags=flags
        )

    async def close(self) -> None:
        """Nothing is held."""


def config(url: str = "https://hooks.example/events", **keys: Any) -> WebhookConfig:
    values = {"name": "main", "url": url, "secret": {"variable": VARIABLE}, **keys}
    return WebhookConfig.model_validate(values)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with open_receiver() as running:
        yield running


def named(receiver: Receiver, resolver: FakeResolver, **keys: Any) -> WebhookPost:
    """A receiver that is found by a name."""
    keys = {"private_networks": LOOPBACK, **keys}
    hook = config(f"http://hooks.example:{receiver.port}/events", **keys)
    return WebhookPost(hook, KEYS, 5.0, resolver=lambda: resolver)


async def test_the_address_that_was_checked_is_the_address_of_the_connection(
    receiver: Receiver,
) -> None:
    """A name is resolved once for each event, so that a second answer cannot lead elsewhere."""
    resolver = FakeResolver(("127.0.0.1",), (METADATA_SERVICE,))
    post = named(receiver, resolver)
    assert (await post.send(NOTICE, 7.0)).status == 200
    assert resolver.asked == 1
    with pytest.raises(NotPosted, match="not allowed"):
        await post.send(NOTICE, 7.0)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("10.1.2.3",),
        (METADATA_SERVICE,),
        ("::1",),
        ("fe80::1",),
        ("fd00:ec2::254",),
        ("::ffff:127.0.0.1",),
        ("64:ff9b::a9fe:a9fe",),
        ("0.0.0.0",),
        ("100.64.0.1",),
        ("93.184.215.14", "127.0.0.1"),
    ],
)
async def test_a_name_inside_is_not_reached(receiver: Receiver, addresses: tuple[str, ...]) -> None:
    """Also where only one of its addresses is inside."""
    hook = config(f"https://hooks.example:{receiver.port}/events")
    post = WebhookPost(hook, KEYS, 5.0, resolver=lambda: FakeResolver(addresses))
    with pytest.raises(NotPosted, match="not allowed"):
        await post.send(NOTICE, 7.0)
    assert not receiver.requests


async def test_without_tls_only_the_named_networks_are_reached(receiver: Receiver) -> None:
    """An event without TLS does not leave for the internet."""
    for address in ("93.184.215.14", "10.1.2.3"):
        with pytest.raises(NotPosted, match="not allowed"):
            await named(receiver, FakeResolver((address,))).send(NOTICE, 7.0)


async def test_no_redirect_and_no_proxy(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect is an answer, and the environment names no other way."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    receiver.script = [307]
    receiver.answer_headers = {"location": f"http://127.0.0.1:{receiver.port}/latest/meta-data"}
    assert (await named(receiver, FakeResolver(("127.0.0.1",))).send(NOTICE, 7.0)).status == 307
    assert len(receiver.requests) == 1


async def test_the_certificate_is_checked(tmp_path: Path) -> None:
    """An authority that the machine does not trust vouches for no receiver."""
    authority = make_authority("test", 1)
    subject = Subject("hooks.example", hosts=("hooks.example",))
    pair = issue(authority, subject, Purpose.SERVER, datetime.now(UTC) + timedelta(days=1))
    (tmp_path / "pair.pem").write_bytes(pair.certificate_pem() + pair.key_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    trusted = ssl.create_default_context(cadata=authority.certificate_pem().decode())
    async with open_receiver(context) as receiver:
        hook = config(f"https://hooks.example:{receiver.port}/", private_networks=LOOPBACK)
        keys = {"resolver": lambda: FakeResolver(("127.0.0.1",))}
        with pytest.raises(NotPosted, match="ClientConnectorCertificateError"):
            await WebhookPost(hook, KEYS, 5.0, **keys).send(NOTICE, 7.0)
        assert not receiver.requests
        reply = await WebhookPost(hook, KEYS, 5.0, ssl=trusted, **keys).send(NOTICE, 7.0)
        assert reply.taken


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[WebhookPost]:
    """A server of raw bytes, and the way to it."""
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()
        ended.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    hook = config(f"http://127.0.0.1:{port}/", private_networks=LOOPBACK)
    async with server:
        yield WebhookPost(hook, KEYS, 0.3)
        async with asyncio.timeout(10):
            await ended.wait()


async def test_a_body_without_end_is_not_read() -> None:
    """The status is enough; the connection is closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async with listening(serve) as post:
        assert (await post.send(NOTICE, 7.0)).status == 200


@pytest.mark.parametrize(
    ("piece", "why"),
    [(b"HTTP/1.1 200 OK\r\nx: " + bytes(100_000), "no connection"), (b"HTTP/1.1 2", "in time")],
)
async def test_a_head_without_end_is_an_error(piece: bytes, why: str) -> None:
    """Too long, or too slow."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(piece)
        await reader.read()

    async with listening(serve) as post:
        with pytest.raises(NotPosted, match=why):
            await post.send(NOTICE, 7.0)


async def test_a_receiver_that_is_not_there_is_named() -> None:
    """By what went wrong, without its address."""
    hook = config("http://127.0.0.1:9/secret", private_networks=LOOPBACK)
    with pytest.raises(NotPosted) as failed:
        await WebhookPost(hook, KEYS, 5.0).send(NOTICE, 7.0)
    assert str(failed.value) == "no connection (ClientConnectorError)"


def test_signatures_are_those_of_the_specification() -> None:
    """The example of the Standard Webhooks specification's own libraries."""
    key = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"url": "http://hooks.example/"}, "private_networks"),
        ({"url": "https://10.1.2.3/"}, "not public"),
        ({"url": "https://[::1]/"}, "not public"),
        ({"url": "http://10.9.9.9/", "private_networks": ["10.1.2.0/24"]}, "not public"),
        ({"url": "https://ann:pw@hooks.example/"}, "does not belong"),
        ({"url": "ftp://hooks.example/"}, "pattern"),
        ({"url": "https:///events"}, "HOST"),
        ({"private_networks": ["ten"]}, "not a network"),
        ({"events": ["batch.began"]}, "batch.completed"),
        ({"name": "No Name"}, "pattern"),
    ],
)
def test_a_receiver_that_cannot_be_is_refused(keys: dict[str, Any], why: str) -> None:
    """When the config is read."""
    with pytest.raises(ValidationError, match=why):
        config(**keys)


def test_two_receivers_have_two_names() -> None:
    """Events that wait go by the name."""
    hooks = [config().model_dump()] * 2
    with pytest.raises(ValidationError, match="same name"):
        BatchesConfig.model_validate({"directory": "/tmp/x", "webhooks": hooks})


@pytest.mark.parametrize("secret", [None, "hunter2", "whsec_c2hvcnQ=", "whsec_%%%"])
def test_a_secret_that_signs_nothing_is_named(
    secret: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the key of the config, and without the secret."""
    monkeypatch.delenv(VARIABLE, raising=False)
    if secret is not None:
        monkeypatch.setenv(VARIABLE, secret)
    with pytest.raises(ValueError, match=r"^batches\.webhooks\.main\.secret: ") as refused:
        read_keys(config())
    assert secret is None or secret not in str(refused.value)
