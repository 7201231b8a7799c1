"""The way to the owner's actor, without Ray."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine

from serve_app.limits.owner import Note
from serve_app.limits.owner_actor import RayOwnerPort


class FakeMethod:
    """A method of the actor, which keeps the numbers of its messages in their order."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def remote(self, router: str, note: Note) -> Coroutine[None, None, None]:
        self.numbers.append(note.number)
        return self._answer()

    async def _answer(self) -> None: ...


class FakeActor:
    """An actor that takes changes."""

    def __init__(self) -> None:
        self.change = FakeMethod()


async def test_no_message_overtakes_another() -> None:
    """Also while the actor is looked for: every turn of the event loop sends a message, and the
    actor gets all of them in this order."""
    actor, found = FakeActor(), threading.Event()

    def find(directory: str, place_ms: int) -> FakeActor:
        found.wait()
        return actor

    port, sent = RayOwnerPort("/limits", 1000, find), []
    while len(actor.change.numbers) < 10:
        sent.append(asyncio.create_task(port.change("router", Note(len(sent), ()))))
        await asyncio.sleep(0)
        if len(sent) == 5:
            found.set()
    await asyncio.gather(*sent)
    assert actor.change.numbers == list(range(len(sent)))
