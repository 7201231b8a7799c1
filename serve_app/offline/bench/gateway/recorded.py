"""The bytes of a streamed chat answer as vLLM 0.29 sends them, and how many of each."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEAD = b'{"id":"chatcmpl-5f0e9c1d7b3a4e6f","object":"chat.completion.chunk","created":1764460800,'
_HEAD += b'"model":"fast",'
_EVENT = b"data: %b%b\n\n"
_ROLE = b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
_ROLE += b'"finish_reason":null}],"prompt_token_ids":null}'
_TOKEN = b'"choices":[{"index":0,"delta":{"content":" %b"},"logprobs":null,'
_TOKEN += b'"finish_reason":null,"token_ids":null}]}'
_LAST = b'"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,'
_LAST += b'"finish_reason":"length","stop_reason":null,"token_ids":null}]}'
_USAGE = b'"choices":[],"usage":{"prompt_tokens":61,"total_tokens":%d,"completion_tokens":%d}}'
_PROMPT_TOKENS = 61

ROLE = _EVENT % (_HEAD, _ROLE)
TOKENS = tuple(_EVENT % (_HEAD, _TOKEN % word) for word in (b"some", b"word"))
"""In turns, because LiteLLM takes a hundred equal chunks for a model that has gone astray."""
LAST = _EVENT % (_HEAD, _LAST)
DONE = b"data: [DONE]\n\n"

_MAX_TOKENS = re.compile(rb'"max_tokens": ?(\d+)')
_USAGE_ASKED = re.compile(rb'"include_usage": ?true')
_STREAM = re.compile(rb'"stream": ?true')


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for; the recorded answer depends on nothing else."""

    tokens: int
    stream: bool
    usage: bool

    @property
    def events(self) -> int:
        """The number of events of a streamed answer; each is one chunk."""
        return self.tokens + 2 + self.usage

    def event(self, number: int) -> bytes:
        """The event of this number, from 0."""
        if number == 0:
            return ROLE
        if number < self.tokens:
            return TOKENS[number % len(TOKENS)]
        if number == self.tokens:
            return LAST
        if number == self.tokens + 1 and self.usage:
            return _EVENT % (_HEAD, _USAGE % (_PROMPT_TOKENS + self.tokens, self.tokens))
        return DONE


def read_asked(body: bytes) -> Asked:
    """Read a chat request without parsing it whole."""
    found = _MAX_TOKENS.search(body)
    tokens = int(found.group(1)) if found else 1
    return Asked(tokens, _STREAM.search(body) is not None, _USAGE_ASKED.search(body) is not None)


def render_whole(asked: Asked) -> bytes:
    """The answer in one piece."""
    choice = (
        b'{"index":0,"message":{"role":"assistant","content":" word"},"finish_reason":"length"}'
    )
    usage = b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}'
    usage %= (_PROMPT_TOKENS, _PROMPT_TOKENS + asked.tokens, asked.tokens)
    return b'{"id":"chatcmpl-1","choices":[%b],"usage":%b}' % (choice, usage)
