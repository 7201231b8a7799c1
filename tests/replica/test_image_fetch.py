"""An engine fetches images from allowed hosts only, and never from inside."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from serve_app.offline.certificates.authority import Purpose, Subject, issue, make_authority
from serve_app.replica.image_fetch import ImageFetcher, MediaPlan, NotFetched
from tests.pictures import picture, png_head

HOST = "good.org"
LOOPBACK = ("127.0.0.0/8",)
PICTURE = picture()


@dataclass
class FakeResolver(AbstractResolver):
    """Every name is these addresses, and the port is the test's server's."""

    port: int
    addresses: tuple[str, ...] = ("127.0.0.1",)
    asked: list[str] = field(default_factory=list)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [self._result(host, address) for address in self.addresses]

    def _result(self, host: str, address: str) -> ResolveResult:
        return ResolveResult(
            hostname=host,
            host=address,
            port=self.port,
            family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            proto=0,
            flags=socket.AI_NUMERICHOST,
        )

    async def close(self) -> None:
        """Nothing is held."""


@dataclass
class Store:
    """A server of images, and what it was asked for."""

    port: int
    trusted: ssl.SSLContext
    requests: list[str]
    connections: list[Any]

    def fetcher(self, *addresses: str, **plan: Any) -> ImageFetcher:
        plan = {"hosts": (HOST,), "bytes_max": 100_000, "pixels_max": 10_000} | plan
        resolver = FakeResolver(self.port, addresses or ("127.0.0.1",))
        return ImageFetcher(MediaPlan(**plan), resolver=lambda: resolver, ssl=self.trusted)


async def show_picture(request: web.Request) -> web.Response:
    return web.Response(body=PICTURE, content_type="image/png")


async def redirect(request: web.Request) -> web.Response:
    raise web.HTTPFound(f"https://{HOST}/picture")


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):
        await response.write(bytes(10_000))
    return response


async def page(request: web.Request) -> web.Response:
    return web.Response(text="<html>secret</html>")


async def bomb(request: web.Request) -> web.Response:
    return web.Response(body=png_head((60_000, 60_000)))


async def compressed(request: web.Request) -> web.Response:
    response = web.Response(body=PICTURE * 10)
    response.enable_compression(web.ContentCoding.gzip)
    return response


PAGES: dict[str, Callable[[web.Request], Any]] = {
    "/picture": show_picture,
    "/redirect": redirect,
    "/endless": endless,
    "/page": page,
    "/bomb": bomb,
    "/compressed": compressed,
}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An HTTPS server on the loopback interface."""
    async with serve(tmp_path) as running:
        yield running


@asynccontextmanager
async def serve(directory: Path) -> AsyncIterator[Store]:
    authority = make_authority("test", 1)
    subject = Subject(HOST, hosts=(HOST, "127.0.0.1"))
    pair = issue(authority, subject, Purpose.SERVER, datetime.now(UTC) + timedelta(days=1))
    file = directory / "server.pem"
    file.write_bytes(pair.certificate_pem() + pair.key_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    trusted = ssl.create_default_context(cadata=authority.certificate_pem().decode())
    requests: list[str] = []
    connections: list[Any] = []

    @web.middleware
    async def note(request: web.Request, handler: Any) -> Any:
        requests.append(request.path)
        connections.append(request.transport)
        return await handler(request)

    app = web.Application(middlewares=[note])
    app.add_routes([web.get(path, handler) for path, handler in PAGES.items()])
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield Store(port, trusted, requests, connections)
    finally:
        await runner.cleanup()


async def reason(fetcher: ImageFetcher, url: str) -> str:
    with pytest.raises(NotFetched) as caught:
        await fetcher.fetch(url)
    return str(caught.value)


async def test_an_image_of_an_allowed_host_is_fetched(store: Store) -> None:
    """As a file, by one request, which is verified by TLS."""
    fetcher = store.fetcher(private_networks=LOOPBACK)
    assert await fetcher.fetch(f"https://{HOST}/picture") == PICTURE
    assert store.requests == ["/picture"]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00::1",
        "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "2001:0:7f00:1::", "ff02::1",
    ],
)  # fmt: skip
async def test_a_name_with_a_private_address_is_not_connected_to(
    store: Store, address: str
) -> None:
    """Whatever form the address has, and although another of the name's addresses is public."""
    for addresses in ((address,), ("93.184.216.34", address)):
        fetcher = store.fetcher(*addresses)
        assert "private" in await reason(fetcher, f"https://{HOST}/picture")
    assert store.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://good.org/picture", "https://evil.org/picture", "https://good.org.evil.org/picture",
        "https://good.org@evil.org/picture", "https://evil.org@good.org/picture",
        "https://good.org:8265/picture", "file:///etc/passwd", "ftp://good.org/picture",
        "https:///picture", "https://good.org:x/", "", "https://[::1/",
    ],
)  # fmt: skip
async def test_other_urls_are_not_asked_for(store: Store, url: str) -> None:
    """Also where a Router has let one pass."""
    await reason(store.fetcher(private_networks=LOOPBACK), url)
    assert store.requests == []


async def test_an_address_in_the_url_is_checked_like_a_name(store: Store) -> None:
    """aiohttp asks no resolver for it."""
    fetcher = store.fetcher(hosts=("127.0.0.1",))
    assert "private" in await reason(fetcher, "https://127.0.0.1/picture")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/redirect", "answers 302"),
        ("/endless", "more than 100000 bytes"),
        ("/page", "no PNG"),
        ("/bomb", "more than 10000 pixels"),
        ("/compressed", "no PNG"),
        ("/missing", "answers 404"),
    ],
)
async def test_bounds_hold_for_what_a_host_sends(store: Store, path: str, expected: str) -> None:
    """A redirect is not followed, even to the same host."""
    fetcher = store.fetcher(private_networks=LOOPBACK)
    assert expected in await reason(fetcher, f"https://{HOST}{path}")
    assert len(store.requests) == 1


async def test_a_host_of_another_certificate_is_not_believed(store: Store) -> None:
    """The name of the URL must be in the certificate."""
    fetcher = store.fetcher(hosts=("other.org",), private_networks=LOOPBACK)
    assert "no connection" in await reason(fetcher, "https://other.org/picture")
    assert store.requests == []


async def test_a_silent_host_is_left_in_time() -> None:
    """A host that accepts a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        resolver = FakeResolver(silent.getsockname()[1])
        plan = MediaPlan((HOST,), LOOPBACK, 1000, 1000, fetch_s=0.05)
        fetcher = ImageFetcher(plan, resolver=lambda: resolver)
        assert "too long" in await reason(fetcher, f"https://{HOST}/picture")
