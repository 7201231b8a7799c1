"""The tokens of one exchange as its engine counts them, for answers that are cut off.

A complete answer contains its usage. An answer whose client has left contains none, although the
engine read its prompt and generated tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Protocol

from serve_app.core.call import Usage


class Tokens(Protocol):
    """The part of vLLM's detokenizers that is read here."""

    def num_output_tokens(self) -> int:
        """How many tokens have been generated."""
        ...


class EngineRequest(Protocol):
    """The part of vLLM's `RequestState` that is read here: one sequence in the engine.

    `request_index` counts the choices of one prompt. A request that generates no text has no
    detokenizer.
    """

    prompt_len: int
    request_index: int
    detokenizer: Tokens | None


class Meter:
    """The engine's requests of one exchange: one for each choice of each prompt."""

    __slots__ = ("_requests", "_tell")

    def __init__(self, tell: Callable[[EngineRequest], None] | None = None) -> None:
        """`tell` is told of each request."""
        self._requests: list[EngineRequest] = []
        self._tell = tell

    def add(self, request: EngineRequest) -> None:
        """Add a request that the engine has accepted for the exchange."""
        self._requests.append(request)
        if self._tell is not None:
            self._tell(request)

    @property
    def requests(self) -> Sequence[EngineRequest]:
        """The requests so far."""
        return self._requests

    def read(self) -> Usage:
        """The tokens so far. A prompt counts once, whatever the number of its choices."""
        return Usage(
            sum(each.prompt_len for each in self._requests if each.request_index == 0),
            sum(
                each.detokenizer.num_output_tokens()
                for each in self._requests
                if each.detokenizer is not None
            ),
        )


METER: ContextVar[Meter | None] = ContextVar("meter", default=None)
"""The meter of the exchange that this task works for."""
