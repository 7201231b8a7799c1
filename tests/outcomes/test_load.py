"""The clients of a trial tell apart how their calls end, and lose none."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.outcomes.load import Load, draw_ask
from tests.outcomes.outcome import Outcome, judge

Reply = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Reads a request, and lets the server's `reply` answer it."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        self.server.reply(self, json.loads(self.rfile.read(length)))

    def say(self, text: str, *, request_id: str | None = None, promised: int | None = None) -> None:
        """A 200 with this text, or the part of it that is sent."""
        self.send_response(200)
        self.send_header("x-request-id", request_id or self.headers["x-request-id"])
        self.send_header("content-length", str(len(text) if promised is None else promised))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Replies in the same way to every request, until it is closed."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.closing = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client has left, which clients here do on purpose."""


def render(body: dict[str, Any]) -> str:
    """The answer that the call asked for."""
    text, usage = body["structured_outputs"]["choice"][0], {"completion_tokens": 67}
    if not body["stream"]:
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        return json.dumps({"choices": [choice], "usage": usage})
    events = [{"choices": [{"delta": {"content": letter}}]} for letter in text[:-1]]
    events += [{"choices": [{"delta": {"content": text[-1]}, "finish_reason": "stop"}]}]
    events += [{"choices": [], "usage": usage}]
    return "".join(f"data: {line}\n\n" for line in [*map(json.dumps, events), "[DONE]"])


def answer(handler: Handler, body: dict[str, Any]) -> None:
    handler.say(render(body))


def break_off(handler: Handler, body: dict[str, Any]) -> None:
    handler.say("data: ", promised=100)
    handler.close_connection = True


def end_early(handler: Handler, body: dict[str, Any]) -> None:
    handler.say("")


def say_nothing(handler: Handler, body: dict[str, Any]) -> None:
    handler.server.closing.wait()


def answer_another(handler: Handler, body: dict[str, Any]) -> None:
    handler.say(render(body), request_id="call-another")


@contextmanager
def served(reply: Reply) -> Iterator[str]:
    """The address of a server; nobody listens there once the block has ended."""
    with Server(reply) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.closing.set()
        server.shutdown()
        thread.join()


def run_load(address: str, calls: int, *, patience_s: float = 30) -> Load:
    load = Load(address, clients=4, patience_s=patience_s)
    load.start()
    while len(load.seen) < calls:
        threading.Event().wait(0.01)
    load.stop()
    return load


def test_a_service_that_answers() -> None:
    """Every call is answered, but those whose clients leave; and every call is in the account."""
    with served(answer) as address:
        load = run_load(address, 60)
    account = load.account(0.0)
    assert account.wrong() == []
    assert set(account.outcomes) <= {Outcome.ANSWERED, Outcome.CANCELLED}
    assert len(account.begun) == account.outcomes.total() >= 60


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (break_off, Outcome.BROKEN),
        (end_early, Outcome.TRUNCATED),
        (say_nothing, Outcome.LOST),
        (answer_another, Outcome.MIXED),
    ],
)
def test_a_service_that_does_not(reply: Reply, outcome: Outcome) -> None:
    """Each way to fail has its outcome."""
    with served(reply) as address:
        load = run_load(address, 4, patience_s=0.2 if reply is say_nothing else 30)
    assert {judge(seen) for seen in load.seen} == {outcome}


def test_a_service_that_is_away() -> None:
    """Nobody listens."""
    with served(answer) as address:
        pass
    load = run_load(address, 4)
    assert {judge(seen) for seen in load.seen} == {Outcome.UNREACHABLE}


def test_the_mix_of_calls() -> None:
    """Every model, streams and whole answers, and clients that leave streams only."""
    rng = random.Random(1)
    asks = [draw_ask(number, rng) for number in range(300)]
    assert {ask.model for ask in asks} == {"auto", "fast", "strong"}
    assert {ask.stream for ask in asks} == {True, False}
    leaving = [ask for ask in asks if ask.leaves_after]
    assert leaving
    assert all(ask.stream for ask in leaving)
    assert len({json.dumps(ask.body()["structured_outputs"]) for ask in asks}) == len(asks)
