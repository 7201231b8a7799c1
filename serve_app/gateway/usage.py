"""Reading token usage off an answer as it passes, and hiding a usage event that only we asked for.

All four dialects name the counts alike: `prompt_tokens` or `input_tokens`, `completion_tokens` or
`output_tokens`, in an object after the key `"usage"`. Inside text that a model wrote every quote is
escaped, so these byte patterns cannot be found there.
"""

from __future__ import annotations

import re

from serve_app.core.call import Usage

USAGE_KEY = b'"usage":{'
PROMPT_TOKENS = re.compile(rb'"(?:prompt|input)_tokens":(\d+)')
COMPLETION_TOKENS = re.compile(rb'"(?:completion|output)_tokens":(\d+)')
USAGE_EVENT = b'"choices":[],'
EVENT_END = b"\n\n"


def read_usage(data: bytes, usage: Usage) -> None:
    """Take the counts of the last usage object in `data`, if there is one."""
    start = data.rfind(USAGE_KEY)
    if start < 0:
        return
    prompt = PROMPT_TOKENS.search(data, start)
    if prompt is not None:
        usage.prompt_tokens = int(prompt[1])
    completion = COMPLETION_TOKENS.search(data, start)
    if completion is not None:
        usage.completion_tokens = int(completion[1])


class UsageTap:
    """Passes a stream of server-sent events on, event by event, and notes the usage in it."""

    __slots__ = ("_hide", "_rest", "usage")

    def __init__(self, usage: Usage, *, hide: bool) -> None:
        self.usage = usage
        self._hide = hide
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes to pass on: whole events only, so that none is judged by its half."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not data.endswith(EVENT_END):
            end = data.rfind(EVENT_END) + len(EVENT_END)
            if end < len(EVENT_END):
                self._rest = data
                return b""
            self._rest = data[end:]
            data = data[:end]
        if USAGE_KEY not in data:
            return data
        read_usage(data, self.usage)
        return self._without_usage_event(data) if self._hide else data

    def flush(self) -> bytes:
        """What is left when the stream has ended without closing its last event."""
        rest, self._rest = self._rest, b""
        return rest

    def _without_usage_event(self, data: bytes) -> bytes:
        events = data.split(EVENT_END)
        kept = [event for event in events if USAGE_EVENT not in event or USAGE_KEY not in event]
        return EVENT_END.join(kept)
