"""Drafts on the replica: an answer is held back until its first tokens have been judged.

The Router asks for a draft by a header. The head of the answer carries a report of the tokens'
log-probabilities, and the Router decides by this report alone. From then on the engine's bytes pass
unchanged. Other answers do not pass this gate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar

from serve_app.leases.draft_report import DRAFT_HEADER, DRAFT_TOKENS_HEADER, DraftReport
from serve_app.replica.asgi import ASGIApp, Message, Receive, Scope, Send

LOGPROB_MIN = -100.0
"""The lowest log-probability in a report, because JSON has no minus infinity."""


class Watch:
    """The tokens of one draft, until its checkpoint."""

    def __init__(
        self, tokens: int, at_checkpoint: Callable[[DraftReport], Awaitable[None]]
    ) -> None:
        self._tokens = tokens
        self._at_checkpoint = at_checkpoint
        self._logprobs: list[list[float]] = []
        self._counts: list[int] = []
        self._open: set[int] = set()
        self._prompt_tokens = 0
        self.done = False
        """The draft has passed its checkpoint; no more tokens are noted."""

    def expect(self, sequences: int) -> int:
        """Wait for this many more sequences; returns the number of the first."""
        first = len(self._logprobs)
        for number in range(first, first + sequences):
            self._logprobs.append([])
            self._counts.append(0)
            self._open.add(number)
        return first

    def note_prompt(self, tokens: int) -> None:
        """Count the tokens of one prompt."""
        self._prompt_tokens += tokens

    def noted(self, sequence: int) -> int:
        """How many tokens of a sequence have been noted."""
        return self._counts[sequence]

    def note(self, sequence: int, logprobs: Sequence[float], *, ended: bool) -> None:
        """Take the next tokens of a sequence."""
        kept = self._logprobs[sequence]
        room = self._tokens - len(kept)
        kept.extend(round(max(logprob, LOGPROB_MIN), 5) for logprob in logprobs[:room])
        self._counts[sequence] += len(logprobs)
        if ended or len(kept) >= self._tokens:
            self._open.discard(sequence)

    async def check(self) -> None:
        """Send the report, if every sequence has reached the checkpoint."""
        if self._open or self.done:
            return
        self.done = True
        logprobs = tuple(map(tuple, self._logprobs))
        report = DraftReport(self._prompt_tokens, sum(self._counts), logprobs)
        await self._at_checkpoint(report)


WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)
"""The watch of the exchange that this task works for."""


class DraftApp:
    """The engine's app, with a gate before the answers that were requested as drafts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tokens = _draft_tokens(scope)
        if tokens == 0:
            await self._app(scope, receive, send)
            return
        gate = Gate(send)
        token = WATCH.set(Watch(tokens, gate.open))
        try:
            await self._app(scope, receive, gate.send)
        finally:
            WATCH.reset(token)


class Gate:
    """Holds the messages of one answer until it is opened or the answer is complete.

    An answer in one piece has no head at its checkpoint yet. The gate sends a head with status 200;
    if the engine then fails, the connection breaks instead.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: list[Message] = []
        # The engine may write from one task while another task reaches the checkpoint.
        self._lock = asyncio.Lock()
        self._is_open = False
        self._head_sent = self._broken = False

    async def send(self, message: Message) -> None:
        """Take the next message of the engine."""
        if not self._is_open:
            async with self._lock:
                if not self._is_open:
                    self._held.append(message)
                    if _is_last(message):
                        await self._release(None)
                    return
        await self._pass(message)

    async def open(self, report: DraftReport) -> None:
        """Send the head, with the report, and all messages that have been held."""
        async with self._lock:
            if not self._is_open:
                await self._release(report)

    async def _release(self, report: DraftReport | None) -> None:
        headers = [] if report is None else [(DRAFT_HEADER, report.render())]
        if self._held:
            start, *body = self._held
            await self._send({**start, "headers": [*start.get("headers", ()), *headers]})
            if body:
                content = b"".join(message.get("body", b"") for message in body)
                await self._send({**body[-1], "body": content})
            self._held.clear()
        else:
            headers.append((b"content-type", b"application/json"))
            self._head_sent = True
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._is_open = True

    async def _pass(self, message: Message) -> None:
        if self._head_sent and message["type"] == "http.response.start":
            # The server closes the connection of an answer that is never completed.
            self._broken = message["status"] != 200
        elif not self._broken:
            await self._send(message)


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


def _draft_tokens(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == DRAFT_TOKENS_HEADER:
            return int(value)
    return 0
