"""HAProxy itself, started as Ray starts it, on the configuration that Ray writes for it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import psutil
import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from serve_app.config.environment import HAPROXY_PROGRAM, deployed_environment, ray_environment
from serve_app.config.haproxy import (
    BODY_S,
    CONNECTIONS_PER_ADDRESS_MAX,
    HEAD_S,
    METRICS_HOST,
    PROXY_PROTOCOL_FROM,
    UNLIMITED_ADDRESSES,
    HAProxyLimits,
    TemplateChanged,
    amend,
    read_limits,
)
from serve_app.core.peer_watch import SILENT_S_MAX

CLIENT_S = 1
"""`timeout client` of these tests, 300 s in earnest."""
OTHER_ADDRESS = "127.0.0.2"
PER_ADDRESS = 20
FILES = 2048
"""Too few for the connections that Ray's configuration allows."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_config(directory: Path, *, backend_port: int) -> HAProxyConfig:
    """Ray's own configuration, as Ray writes it."""
    config = HAProxyConfig(
        socket_path=str(directory / "admin.sock"),
        server_state_base=str(directory),
        server_state_file=str(directory / "server-state"),
        metrics_socket_path=str(directory / "metrics.sock"),
        http_options=HTTPOptions(host="0.0.0.0", port=free_port()),
        metrics_port=free_port(),
        stats_port=free_port(),
        timeout_client_s=CLIENT_S,
        has_received_routes=True,
        has_received_servers=True,
    )
    router = ServerConfig("router", "127.0.0.1", backend_port)
    backend = BackendConfig(name="llm", path_prefix="/", app_name="llm", servers=[router])
    api = HAProxyApi(config, {"llm": backend}, str(directory / "haproxy.cfg"))
    api._generate_config_file_internal()
    return config


class Backend:
    """A Router that answers `/health` at once, and otherwise as the path says."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.asked: list[bytes] = []
        self.head = b""
        self.raw_headers: dict[bytes, bytes] = {}

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1]
                self.asked.append(path)
                if path != b"/-/healthz":  # HAProxy's own checks
                    self.head = head.lower()
                    lines = (line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
                    self.raw_headers = {name.lower(): value for name, value in lines}
                if length := re.search(rb"(?i)\ncontent-length: (\d+)", head):
                    await reader.readexactly(int(length[1]))
                await self._answer(path, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()

    async def _answer(self, path: bytes, writer: asyncio.StreamWriter) -> None:
        if path == b"/late":
            await asyncio.sleep(1.6 * CLIENT_S)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        if path == b"/stream":
            writer.write(b"2\r\nab\r\n")
            await asyncio.sleep(1.6 * CLIENT_S)
        while path == b"/endless":
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()
        body = b"success" if path == b"/-/healthz" else b"ok"
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        await writer.drain()


@dataclass
class Proxy:
    """A running HAProxy."""

    config: HAProxyConfig
    process: asyncio.subprocess.Process
    backend: Backend

    @property
    def port(self) -> int:
        return int(self.config.http_options.port)

    async def get(self, path: str, timeout_s: float = 5) -> httpx.Response:
        """From 127.0.0.1."""
        async with httpx.AsyncClient(timeout=timeout_s) as client:
            return await client.get(f"http://127.0.0.1:{self.port}{path}")

    async def connect(self, sent: bytes = b"", *, source: str = OTHER_ADDRESS) -> Connection:
        """A connection that has sent this."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(source, 0), limit=2**16
        )
        writer.write(sent)
        return Connection(reader, writer)


@dataclass
class Connection:
    """A client's end."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def rest(self) -> bytes:
        """All that comes until HAProxy closes."""
        try:
            return await asyncio.wait_for(self.reader.read(), 10)
        except ConnectionError:
            return b""
        finally:
            self.writer.close()


@asynccontextmanager
async def running(
    directory: Path,
    *,
    backend_port: int | None = None,
    more: Mapping[str, str] | None = None,
    files: int = FILES,
) -> AsyncIterator[Proxy]:
    """HAProxy as Ray starts it, by what the environment says; `more` adds to the environment."""
    backend = Backend()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(await asyncio.start_server(backend, "127.0.0.1"))
        own_port = server.sockets[0].getsockname()[1]
        config = write_config(directory, backend_port=backend_port or own_port)
        environment = ray_environment()
        limits = {
            CONNECTIONS_PER_ADDRESS_MAX: str(PER_ADDRESS),
            UNLIMITED_ADDRESSES: "127.0.0.1",
            HEAD_S: "2",
            BODY_S: "1",
        }
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", f'ulimit -n {files} && exec "$0" "$@"', environment[HAPROXY_PROGRAM]),
            *("-db", "-f", str(directory / "haproxy.cfg"), "-dR"),
            env={**os.environ, **environment, **limits, **(more or {})},
            stderr=stack.enter_context((directory / "stderr").open("wb")),
        )
        try:
            await wait_for(lambda: listens("127.0.0.1", int(config.http_options.port)))
            await wait_for((directory / "admin.sock").exists)
            yield Proxy(config, process, backend)
        finally:
            await end(process)


async def end(process: asyncio.subprocess.Process) -> None:
    """End what Ray started, and what is below; a reload may have ended it."""
    with suppress(psutil.NoSuchProcess):
        holder = psutil.Process(process.pid)
        for each in (holder, *holder.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                each.kill()
    await process.wait()


async def wait_for(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    """HAProxy before a Router that answers."""
    async with running(tmp_path) as started:
        yield started


async def test_one_address_cannot_fill_the_port(proxy: Proxy) -> None:
    """Its connections beyond the limit are closed at once; others are answered meanwhile."""
    held = [await held_by(proxy) for _ in range(3 * PER_ADDRESS)]
    ends = [asyncio.ensure_future(connection.rest()) for connection in held if connection]
    health = await proxy.get("/health", timeout_s=1)
    await asyncio.sleep(0.3)
    idle = sum(not end.done() for end in ends)
    await asyncio.gather(*ends)
    assert (health.status_code, idle) == (200, PER_ADDRESS)


async def held_by(proxy: Proxy) -> Connection | None:
    """One more idle connection, if HAProxy lets it in."""
    try:
        return await proxy.connect()
    except ConnectionError:
        return None


async def test_a_head_that_does_not_come_is_not_waited_for(proxy: Proxy) -> None:
    """Neither an idle connection nor half a head lives longer, nor one that drips in."""
    begun = [b"", b"G", b"GET /health HTTP/1.1\r\nhost: h\r\nx-slow: "]
    connections = [await proxy.connect(sent) for sent in begun]
    dripping = await proxy.connect(begun[-1])
    began = time.monotonic()
    ends = asyncio.gather(*(connection.rest() for connection in (*connections, dripping)))
    while not ends.done():
        dripping.writer.write(b"a")
        await asyncio.sleep(0.1)
    assert 1 < time.monotonic() - began < 5
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in await ends)


async def test_a_body_that_does_not_come_reaches_no_router(proxy: Proxy) -> None:
    """Its place is for calls; the client is told in JSON."""
    head = b"POST /slow HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\n{"
    answer = await (await proxy.connect(head)).rest()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    assert b"/slow" not in proxy.backend.asked


@pytest.mark.parametrize("size", [0, 10, 100_000])
async def test_a_body_passes(proxy: Proxy, size: int) -> None:
    """Also one that is larger than HAProxy's buffer."""
    async with httpx.AsyncClient(timeout=5) as client:
        url = f"http://127.0.0.1:{proxy.port}/v1"
        assert (await client.post(url, content=bytes(size))).text == "ok"


@pytest.mark.parametrize("upgrade", [b"h2c", b"foo"])
async def test_no_other_protocol_is_asked_of_a_router(proxy: Proxy, upgrade: bytes) -> None:
    """A Router could take the body for a second request; without the wish it is a call as any."""
    request = (
        b"POST /upgrade HTTP/1.1\r\nhost: h\r\nconnection: upgrade, close\r\nupgrade: %b\r\n"
        b"content-length: 2\r\n\r\n{}"
    )
    answer = await (await proxy.connect(request % upgrade)).rest()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"post /upgrade" in proxy.backend.head
    assert b"upgrade:" not in proxy.backend.head


@pytest.mark.parametrize("path", ["/late", "/stream"])
async def test_a_client_that_waits_for_its_answer_is_kept(proxy: Proxy, path: str) -> None:
    """However long the Router is silent, before its answer or in it; streams last an hour."""
    response = await proxy.get(path, timeout_s=15)
    assert response.status_code == 200
    assert response.text.endswith("ok")


async def test_a_client_that_reads_nothing_is_given_up(proxy: Proxy) -> None:
    """The Router gets its place back."""
    connection = await proxy.connect(b"GET /endless HTTP/1.1\r\nhost: h\r\n\r\n")
    await asyncio.wait_for(proxy.backend.left.wait(), 10)
    connection.writer.close()


async def test_what_is_not_http_is_refused(proxy: Proxy) -> None:
    """With HAProxy's own page: 2.8 has it built in for what it could not parse."""
    answer = await (await proxy.connect(b"GARBAGE\r\n\r\n")).rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"<html>" in answer


@pytest.mark.parametrize(
    "sent",
    [b"", b"x-forwarded-for: 203.0.113.9\r\n", b"connection: x-forwarded-for\r\n"],
    ids=["none", "spoofed", "listed in connection"],
)
async def test_the_last_line_of_forwarded_for_is_haproxys(proxy: Proxy, sent: bytes) -> None:
    """A client may write other addresses before its own, but cannot remove its own."""
    request = b"GET /health HTTP/1.1\r\nhost: h\r\n" + sent + b"\r\n"
    connection = await proxy.connect(request)
    assert (await connection.reader.readline()).startswith(b"HTTP/1.1 200 ")
    connection.writer.close()
    lines = re.findall(rb"\nx-forwarded-for: ([^\r]*)", proxy.backend.head)
    assert lines[-1] == OTHER_ADDRESS.encode()
    assert len(lines) == 1 + sent.startswith(b"x-forwarded-for")


@pytest.mark.parametrize("trusted", [True, False])
async def test_the_proxy_protocol_is_read_from_balancers_only(
    tmp_path: Path, trusted: bool
) -> None:
    """A client that writes the header itself gets a 400, whatever address it names."""
    source = OTHER_ADDRESS if trusted else "127.0.0.3"
    async with running(tmp_path, more={PROXY_PROTOCOL_FROM: OTHER_ADDRESS}) as proxy:
        begin = b"PROXY TCP4 203.0.113.9 127.0.0.1 1234 8000\r\n"
        request = begin + b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n"
        connection = await proxy.connect(request, source=source)
        status = await asyncio.wait_for(connection.reader.readline(), 5)
        connection.writer.close()
        # Others still speak plain HTTP.
        assert (await proxy.get("/health")).status_code == 200
        heads = proxy.backend.asked.count(b"/health")
    assert status.startswith(b"HTTP/1.1 200 " if trusted else b"HTTP/1.1 400 ")
    assert heads == 1 + trusted


async def test_the_proxy_protocol_gives_the_clients_address(tmp_path: Path) -> None:
    """The Router gets it, and HAProxy counts the connections of the client by it."""
    async with running(tmp_path, more={PROXY_PROTOCOL_FROM: OTHER_ADDRESS}) as proxy:
        begin = b"PROXY TCP4 203.0.113.9 127.0.0.1 1234 8000\r\n"
        request = begin + b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n"
        connection = await proxy.connect(request)
        await asyncio.wait_for(connection.reader.readline(), 5)
        connection.writer.close()
        assert b"\nx-forwarded-for: 203.0.113.9\r\n" in proxy.backend.head
        held = [await proxy.connect(begin) for _ in range(3 * PER_ADDRESS)]
        ends = [asyncio.ensure_future(connection.rest()) for connection in held]
        await asyncio.sleep(0.3)
        idle = sum(not end.done() for end in ends)
        await asyncio.gather(*ends)
    assert idle == PER_ADDRESS


async def test_without_a_router_the_answer_is_json(tmp_path: Path) -> None:
    """With the status that says so, and when to come back."""
    async with running(tmp_path, backend_port=free_port()) as proxy:
        response = await proxy.get("/v1/models", timeout_s=30)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "service_unavailable"
    assert response.headers["content-type"] == "application/json"
    assert response.headers["retry-after"] == "5"


async def test_nothing_is_shown_of_the_inside(proxy: Proxy) -> None:
    """Serve's list of applications is closed; metrics and statistics are on the loopback."""
    routes = await proxy.get("/-/routes")
    assert (routes.status_code, routes.json()["error"]["code"]) == (404, "unknown_url")
    assert (await proxy.get("/-/healthz")).text == "success"
    for port in (proxy.config.metrics_port, proxy.config.stats_port):
        assert listens("127.0.0.1", port)
        assert not listens(OTHER_ADDRESS, port)
    assert listens(OTHER_ADDRESS, proxy.port)


async def test_ray_finds_its_haproxy(proxy: Proxy, tmp_path: Path) -> None:
    """By its file on the command line of the process that it started, and of no other."""
    holder = psutil.Process(proxy.process.pid)
    below = holder.children(recursive=True)
    assert any(process.exe().endswith("/haproxy") for process in below)
    path = str(tmp_path / "haproxy.cfg")
    assert [path in process.cmdline() for process in (holder, *below)] == [True, False, False]


async def test_a_template_that_changed_is_not_used(tmp_path: Path) -> None:
    """HAProxy does not start without the limits, and says why."""
    (tmp_path / "haproxy.cfg").write_text("global\n    maxconn 10\n")
    environment = ray_environment()
    process = await asyncio.create_subprocess_exec(
        environment[HAPROXY_PROGRAM],
        *("-db", "-f", str(tmp_path / "haproxy.cfg")),
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert said == b"serve-app: HAProxy is not started: no admin socket\n"


def test_no_more_connections_than_files(tmp_path: Path) -> None:
    """HAProxy would not start; it needs two files for each connection."""
    write_config(tmp_path, backend_port=1)
    text = (tmp_path / "haproxy.cfg").read_text()
    assert "    maxconn 4096\n" in amend(text, HAProxyLimits(), 100_000)
    assert "    maxconn 1433\n" in amend(text, HAProxyLimits(), 4096)
    with pytest.raises(TemplateChanged, match="no maxconn"):
        amend("", HAProxyLimits(), 4096)


@pytest.mark.parametrize(("routers", "retries"), [(1, 0), (2, 1), (3, 2), (9, 3)])
def test_a_call_is_retried_where_another_router_is(
    tmp_path: Path, routers: int, retries: int
) -> None:
    """A retry at the same Router would wait for a second."""
    write_config(tmp_path, backend_port=1)
    text = (tmp_path / "haproxy.cfg").read_text()
    (line,) = re.findall(r"(?m)^    server router .*\n", text)
    more = "".join(line.replace("router", f"router-{number}") for number in range(routers))
    amended = amend(text.replace(line, more), HAProxyLimits(), FILES)
    assert f"\nbackend llm\n    retries {retries}\n" in amended
    assert amended.count("    retries ") == 1


def test_one_address_has_a_part_of_a_small_port(tmp_path: Path) -> None:
    """Ten addresses could otherwise fill it, each within its own limit."""
    write_config(tmp_path, backend_port=1)
    text = (tmp_path / "haproxy.cfg").read_text()
    assert " sc0_conn_cur gt 252 " in amend(text, HAProxyLimits(), 100_000)
    few = HAProxyLimits(connections_per_address_max=7)
    assert " sc0_conn_cur gt 7 " in amend(text, few, 100_000)


def test_limits_are_read_from_the_environment() -> None:
    """Each has a default; no address at all may be without a limit."""
    assert read_limits({}) == HAProxyLimits()
    read = read_limits(
        {
            CONNECTIONS_PER_ADDRESS_MAX: "7",
            UNLIMITED_ADDRESSES: "10.0.0.0/8, fd00::/8",
            HEAD_S: "3",
            BODY_S: "4",
            METRICS_HOST: "::",
            PROXY_PROTOCOL_FROM: "10.1.0.0/16",
        }
    )
    assert read == HAProxyLimits(7, ("10.0.0.0/8", "fd00::/8"), 3, 4, "::", ("10.1.0.0/16",))
    assert read_limits({UNLIMITED_ADDRESSES: ""}).unlimited_addresses == ()
    assert read_limits(deployed_environment()).metrics_host == "0.0.0.0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (CONNECTIONS_PER_ADDRESS_MAX, "0"),
        (CONNECTIONS_PER_ADDRESS_MAX, "many"),
        (HEAD_S, "-1"),
        (UNLIMITED_ADDRESSES, "proxy.internal"),
        (PROXY_PROTOCOL_FROM, "10.0.0.1 }"),
        (METRICS_HOST, "all; bind *:1"),
    ],
)
def test_a_wrong_limit_is_refused(name: str, value: str) -> None:
    """Nothing of the environment reaches HAProxy's configuration as it is."""
    with pytest.raises(ValueError, match=r"not a number|does not appear"):
        read_limits({name: value})


def test_the_program_is_there() -> None:
    """Ray wants an absolute path to an executable file."""
    program = Path(ray_environment()[HAPROXY_PROGRAM])
    assert program.is_absolute()
    assert os.access(program, os.X_OK)
    assert ray_environment()["SERVE_APP_PYTHON"] == sys.executable


def test_lost_routers_are_noticed_by_the_kernel(tmp_path: Path) -> None:
    """On the line of each server, because HAProxy ignores `tcp-ut` elsewhere."""
    write_config(tmp_path, backend_port=1)
    text = amend((tmp_path / "haproxy.cfg").read_text(), HAProxyLimits(), FILES)
    servers = [line for line in text.splitlines() if line.startswith("    server ")]
    assert servers
    assert all(line.endswith(f" tcp-ut {SILENT_S_MAX}s") for line in servers)
