"""Clients that mean harm, or are broken, as many at a time as asked for.

python -m tests.hostile.attacks NAME HOST PORT SECONDS

Each attack goes on until its time has passed, and prints what it has done. The attackers come from
ten addresses of the loopback network.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import orjson

from serve_app.core.call import Endpoint
from tests.hostile.bodies import absurd_bodies

Attack = Callable[["Target"], Awaitable[None]]

ADDRESSES = tuple(f"127.0.1.{n}" for n in range(1, 11))
IDLE = 10_000
DRIPPERS = 500
READERS = 16
LEAVERS_PER_S = 50.0
BODIES_PER_S = 20.0
AGAIN_S = 5.0
STREAM_TOKENS = 256
LARGE_BYTES = 340_000
"""Nearly what `configs/local.yaml` allows."""


def render_call(*, tokens: int, stream: bool = True) -> bytes:
    """A whole call to the weakest tier."""
    body = {
        "model": "fast",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": stream,
    }
    return render_request(Endpoint.CHAT.value, orjson.dumps(body))


def render_request(path: str, body: bytes) -> bytes:
    """A whole request."""
    lines = [f"POST {path} HTTP/1.1", "host: h", "content-type: application/json"]
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
    return head.encode() + body


class Target:
    """The service, and what has been done to it."""

    def __init__(self, host: str, port: int, sources: Sequence[str] = ADDRESSES) -> None:
        self._host, self._port = host, port
        self._sources = itertools.cycle(sources)
        self._loop = asyncio.get_running_loop()
        self.done: Counter[str] = Counter()

    async def connect(self, *, receives_bytes: int | None = None) -> socket.socket:
        """A new connection from the next address."""
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setblocking(False)
        if receives_bytes is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives_bytes)
        # The system then chooses the port by the whole connection, so that ports do not run out.
        opened.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        opened.bind((next(self._sources), 0))
        try:
            await self._loop.sock_connect(opened, (self._host, self._port))
        except BaseException:
            opened.close()
            raise
        self.done["connections"] += 1
        return opened

    async def send(self, connection: socket.socket, data: bytes) -> None:
        """Send all of it."""
        await self._loop.sock_sendall(connection, data)

    async def status(self, connection: socket.socket) -> str:
        """The status of the answer, or that there is none."""
        answer = await self._loop.sock_recv(connection, 65536)
        return answer[9:12].decode("latin-1") if answer else "closed"

    async def end(self, connection: socket.socket) -> None:
        """Wait until the service closes the connection."""
        while await self._loop.sock_recv(connection, 65536):
            pass


async def at_a_time(target: Target, count: int, one: Attack) -> None:
    """So many attackers, each of which begins again whenever its connection ends."""

    async def again(number: int) -> None:
        await asyncio.sleep(number / count)
        while True:
            try:
                await one(target)
            except OSError as error:
                target.done[type(error).__name__] += 1
                await asyncio.sleep(0.1)

    await asyncio.gather(*(again(number) for number in range(count)))


async def at_a_rate(target: Target, per_s: float, one: Attack) -> None:
    """Attackers that begin one after another, whatever becomes of the others."""
    running: set[asyncio.Task[None]] = set()

    async def once() -> None:
        with suppress(OSError):
            await one(target)

    while True:
        task = asyncio.ensure_future(once())
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(1 / per_s)


async def be_idle(target: Target) -> None:
    """Say nothing, and come again a while after the connection has been closed."""
    with await target.connect() as connection, suppress(ConnectionError):
        await target.end(connection)
    await asyncio.sleep(AGAIN_S)


async def drip_head(target: Target) -> None:
    """Send a head byte by byte."""
    with await target.connect() as connection:
        await target.send(connection, b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nx-slow: ")
        while True:
            await target.send(connection, b"a")
            await asyncio.sleep(1)


async def drip_body(target: Target) -> None:
    """Send a body byte by byte."""
    with await target.connect() as connection:
        await target.send(connection, render_call(tokens=1)[:-40])
        for _ in range(40):
            await target.send(connection, b" ")
            await asyncio.sleep(1)


async def swell(target: Target) -> None:
    """Send most of a large body at once, and the rest byte by byte."""
    with await target.connect() as connection:
        whole = render_request(Endpoint.CHAT.value, b" " * LARGE_BYTES)
        await target.send(connection, whole[: -LARGE_BYTES // 4])
        for _ in range(40):
            await target.send(connection, b" ")
            await asyncio.sleep(1)


async def read_nothing(target: Target) -> None:
    """Ask for a long stream, and do not read it."""
    with await target.connect(receives_bytes=2048) as connection:
        await target.send(connection, render_call(tokens=STREAM_TOKENS))
        await asyncio.sleep(10)


async def half_close(target: Target) -> None:
    """Close the sending side behind a call, and wait for the answer."""
    with await target.connect() as connection:
        await target.send(connection, render_call(tokens=2, stream=False))
        connection.shutdown(socket.SHUT_WR)
        target.done[await target.status(connection)] += 1
    await asyncio.sleep(1)


async def leave(target: Target) -> None:
    """Reset the connection at any stage of a call."""
    request = render_call(tokens=8)
    with await target.connect() as connection:
        sent = random.choice([0, 10, 100, len(request) - 20, len(request), len(request)])
        await target.send(connection, request[:sent])
        await asyncio.sleep(random.choice([0, 0.005, 0.05, 0.3]))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


BODIES = itertools.cycle(absurd_bodies())


async def send_absurd(target: Target) -> None:
    """Send the next absurd body."""
    _, endpoint, body = next(BODIES)
    with await target.connect() as connection:
        await target.send(connection, render_request(endpoint.value, body))
        target.done[await target.status(connection)] += 1


ATTACKS: Mapping[str, Attack] = {
    "idle": lambda target: at_a_time(target, IDLE, be_idle),
    "slow heads": lambda target: at_a_time(target, DRIPPERS, drip_head),
    "slow bodies": lambda target: at_a_time(target, DRIPPERS, drip_body),
    "large bodies": lambda target: at_a_time(target, DRIPPERS, swell),
    "no readers": lambda target: at_a_time(target, READERS, read_nothing),
    "half-closed": lambda target: at_a_time(target, READERS, half_close),
    "leavers": lambda target: at_a_rate(target, LEAVERS_PER_S, leave),
    "absurd bodies": lambda target: at_a_rate(target, BODIES_PER_S, send_absurd),
}


async def attack(name: str, host: str, port: int, seconds: float) -> Counter[str]:
    """Attack for so long; what was done."""
    target = Target(host, port)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ATTACKS[name](target)
    return target.done


if __name__ == "__main__":
    print(dict(asyncio.run(attack(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))))
