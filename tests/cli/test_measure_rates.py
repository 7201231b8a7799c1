"""`serve-app measure-rates` as a user meets it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from typer.testing import CliRunner, Result

from serve_app.cli.main import app
from serve_app.cli.measure_rates import choose_clients, count_replicas, parse_endpoint, render
from serve_app.config.reader import read_serve_config
from serve_app.offline.bench.rates import Endpoint, Rates, Shape
from serve_app.offline.bench.responder import Responder

LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"


def run(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["measure-rates", *map(str, arguments)])


class FakeRouter(BaseHTTPRequestHandler):
    """Says how many replicas there are, and no more."""

    replicas: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        tiers = [{"name": "fast", "replicas": self.replicas[0]}]
        body = json.dumps({"ready": True, "tiers": tiers}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def router() -> Iterator[Endpoint]:
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeRouter) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield Endpoint("127.0.0.1", server.server_address[1], "/v1/completions", "fast")
        server.shutdown()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("slow",), "there is no tier 'slow', only fast, strong"),
        (("fast", "--prompt-tokens", 8192), "longer than engine.max_model_len of fast, 8192"),
        (("fast", "--base-url", "https://here/v1"), "not an http:// address"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: tuple[object, ...], words: str) -> None:
    """Exit code 2 before any call."""
    result = run(LOCAL, *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())


def test_where_nobody_listens_it_says_so() -> None:
    """Exit code 1 and one line."""
    result = run(LOCAL, "fast", "--base-url", "http://127.0.0.1:9/v1", "--seconds", 1)
    assert result.exit_code == 1
    assert "a call of /v1/completions failed: cannot connect" in result.stderr


def test_clients_are_what_the_tier_takes() -> None:
    """The smaller of sequences and places; without sequences the places alone."""
    tier = read_serve_config(LOCAL).app.tiers[0]
    assert choose_clients(tier) == 64
    assert choose_clients(tier.model_copy(update={"max_ongoing_calls": 8})) == 8
    assert choose_clients(tier.model_copy(update={"engine": {}})) == 64


def test_addresses() -> None:
    """As OpenAI's clients want them, with a prefix or without."""
    assert parse_endpoint("http://h:81/v1/", "m") == Endpoint("h", 81, "/v1/completions", "m")
    assert parse_endpoint("http://h/llm/v1", "m").path == "/llm/v1/completions"


def test_replicas_are_those_of_the_tier(router: Endpoint) -> None:
    """By the Router's own page; what has no such page is one engine."""
    FakeRouter.replicas[:] = [3]
    assert count_replicas(router, "fast") == 3
    assert count_replicas(router, "other") == 1
    assert count_replicas(Endpoint("127.0.0.1", 9, "/v1/completions", "fast"), "fast") == 1


def test_the_lines_for_the_config_promise_less_than_was_seen() -> None:
    """Two digits, rounded down."""
    text = render("strong", Shape(1024, 256, 128), Rates(13690, 3899, 7.1, 0.5, 1.5), 2)
    assert "the mean of 2 replicas" in text
    assert "prompt_tokens_per_s: 13000" in text
    assert "output_tokens_per_s: 3800" in text


@pytest.fixture
def engine() -> Iterator[str]:
    """The address of a server that does nothing but answer."""
    loop = asyncio.new_event_loop()
    connections: list[asyncio.BaseTransport] = []

    class Tracked(Responder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connections.append(transport)
            super().connection_made(transport)

    async def close() -> None:
        server.close()
        for connection in connections:
            connection.close()
        await server.wait_closed()
        await asyncio.sleep(0)  # a transport closes its socket in the next turn of the loop

    server = loop.run_until_complete(loop.create_server(Tracked, "127.0.0.1", 0))
    thread = Thread(target=loop.run_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    asyncio.run_coroutine_threadsafe(close(), loop).result(timeout=10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_an_engine_of_its_own_is_measured(engine: str) -> None:
    """The whole command, against a server that only answers; JSON has every number."""
    sizes = ("--prompt-tokens", 8, "--output-tokens", 400, "--clients", 4)
    result = run(LOCAL, "fast", "--base-url", engine, *sizes, "--seconds", 0.3, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["tier"], found["replicas"]) == ("fast", 1)
    work_s = 8 / found["prompt_tokens_per_s"] + 400 / found["output_tokens_per_s"]
    # Two phases of a busy machine may differ much; a wrong unit would differ more.
    assert 0.1 < found["calls_per_s"] * work_s < 10
