"""Tokens of one exchange as its engine has them, for exchanges that end before their answer does.

An answer that is complete says itself what it took. One whose client has left says nothing, and yet
its prompt was read and its tokens were generated.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from serve_app.core.call import Usage


class Tokens(Protocol):
    """The part of vLLM's detokenizers that matters here."""

    def num_output_tokens(self) -> int:
        """How many tokens have been generated."""
        ...


class EngineRequest(Protocol):
    """The part of vLLM's `RequestState` that matters here: one sequence in the engine.

    `request_index` counts the choices of one prompt. There is no detokenizer where nothing is
    generated.
    """

    prompt_len: int
    request_index: int
    detokenizer: Tokens | None


class Meter:
    """The engine's requests of one exchange: one for each choice of each prompt."""

    __slots__ = ("_requests",)

    def __init__(self) -> None:
        self._requests: list[EngineRequest] = []

    def add(self, request: EngineRequest) -> None:
        """The engine has taken a request of the exchange."""
        self._requests.append(request)

    def read(self) -> Usage:
        """The tokens up to now. A prompt counts once, whatever the number of its choices."""
        return Usage(
            sum(each.prompt_len for each in self._requests if each.request_index == 0),
            sum(
                each.detokenizer.num_output_tokens()
                for each in self._requests
                if each.detokenizer is not None
            ),
        )


METER: ContextVar[Meter | None] = ContextVar("meter", default=None)
"""What counts the tokens of the exchange that this task works for."""
