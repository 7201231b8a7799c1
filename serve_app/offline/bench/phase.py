"""One phase of a benchmark: its requests and its outcome, as bench and generator exchange them."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

CHAT_PROMPT = (
    "Question {serial}: a hospital keeps its patient letters on its own machines. Explain to a new "
    "colleague in two or three sentences why that is so and what she has to look out for."
)
_SERIAL_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Phase:
    """A closed loop: every client sends its next request as soon as it has its answer.

    With `pause_s` it waits before, for a random time of this mean.
    """

    host: str
    port: int
    model: str
    clients: int
    stream: bool
    output_tokens: int
    warmup_s: float
    window_s: float
    drain_s: float = 60.0
    first_serial: int = 0
    """Phases of one server number their requests apart: no prompt comes twice."""
    pause_s: float = 0.0

    @property
    def label(self) -> str:
        """How reports name the phase."""
        kind = "streamed" if self.stream else "whole"
        noun = "client" if self.clients == 1 else "clients"
        return f"{self.clients} {noun}, {kind}, {self.output_tokens} tokens"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answers of one phase; the times are those of the answers that ended in its window.

    `sent_at` is Unix time. `errors` counts failures by their text, in warm-up and drain too,
    because a server must answer every request of the phase.
    """

    request_ids: list[str]
    sent_at: list[float]
    first_event_s: list[float]
    total_s: list[float]
    errors: dict[str, int]
    window_s: float


class Requests:
    """Builds requests that differ in a serial number, so that no cache can stand in for the model.

    The number comes first and has a fixed width: neither the length of the prompt nor the share of
    it that the engine finds in its prefix cache changes from one request to the next.
    """

    def __init__(self, phase: Phase) -> None:
        before, after = _render_body(phase).split(b"{serial}")
        length = len(before) + _SERIAL_DIGITS + len(after)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {phase.host}:{phase.port}\r\n"
            f"content-type: application/json\r\ncontent-length: {length}\r\nx-request-id: bench-"
        )
        self._head = head.encode()
        self._before = b"\r\n\r\n" + before
        self._after = after
        self._serial = phase.first_serial

    def next(self) -> tuple[str, bytes]:
        """The next request: its id, its head and body."""
        self._serial += 1
        serial = f"{self._serial:0{_SERIAL_DIGITS}d}".encode()
        request = self._head + serial + self._before + serial + self._after
        return f"bench-{serial.decode()}", request


def _render_body(phase: Phase) -> bytes:
    body = {
        "model": phase.model,
        "messages": [{"role": "user", "content": CHAT_PROMPT}],
        "max_tokens": phase.output_tokens,
        "ignore_eos": True,
        "stream": phase.stream,
    }
    return orjson.dumps(body)
