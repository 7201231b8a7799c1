"""Many streams at a time: tokens travel together, and every dialect still says everything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anthropic
import openai
import pytest

from tests.serve.local.test_clients import HELLO, TOOL
from tests.serve.service import Service

pytestmark = pytest.mark.serve

CROWD = 40
TOKENS = 64
LONG = {"ignore_eos": True}


async def chat(client: openai.AsyncOpenAI) -> int:
    """The events with text of a stream, whose log-probabilities are those of its text."""
    stream = await client.chat.completions.create(
        model="fast",
        messages=HELLO,
        max_tokens=TOKENS,
        stream=True,
        logprobs=True,
        stream_options={"include_usage": True},
        extra_body=LONG,
    )
    text, tokens, usage, events = "", [], None, 0
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            events += bool(choice.delta.content)
            if choice.logprobs is not None:
                tokens += choice.logprobs.content or ()
    assert usage is not None
    assert usage.completion_tokens == TOKENS
    assert b"".join(bytes(each.bytes or ()) for each in tokens if not is_special(each.token)) == (
        text.encode()
    )
    return events


def is_special(token: str) -> bool:
    """Whether a token has no text; vLLM leaves out the event of one that is alone."""
    return token.startswith("<|")


async def choices(client: openai.AsyncOpenAI) -> int:
    """Two choices of a completion each say why they ended."""
    stream = await client.completions.create(
        model="fast", prompt="One", n=2, max_tokens=TOKENS, stream=True, extra_body=LONG
    )
    reasons: dict[int, str] = {}
    async for chunk in stream:
        for choice in chunk.choices:
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert reasons == {0: "length", 1: "length"}
    return 0


async def tool(client: openai.AsyncOpenAI) -> int:
    """The arguments of a forced tool are whole."""
    forced = {"type": "function", "function": {"name": "get_weather"}}
    stream = await client.chat.completions.create(  # type: ignore[call-overload]
        model="fast", messages=HELLO, max_tokens=300, stream=True, tools=[TOOL], tool_choice=forced
    )
    arguments = ""
    async for chunk in stream:
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or ():
                arguments += call.function.arguments or ""
    assert isinstance(json.loads(arguments), dict)
    return 0


async def responses(client: openai.AsyncOpenAI) -> int:
    """The deltas make up the text of the last event."""
    text, whole = "", None
    stream = await client.responses.create(
        model="fast", input="Hello", max_output_tokens=TOKENS, stream=True, extra_body=LONG
    )
    async for event in stream:
        if event.type == "response.output_text.delta":
            text += event.delta
        elif event.type in ("response.completed", "response.incomplete"):
            whole = event.response
    assert whole is not None
    assert text == whole.output_text
    assert whole.usage is not None
    assert whole.usage.output_tokens > 0
    return 0


Ask = Callable[[openai.AsyncOpenAI], Awaitable[int]]


async def ask_all(local: Service, asks: Sequence[Ask]) -> Sequence[int]:
    async with openai.AsyncOpenAI(
        base_url=f"{local.base_url}/v1", api_key="none", max_retries=0, timeout=120
    ) as client:
        return await asyncio.gather(*(ask(client) for ask in asks))


async def ask_claude(local: Service) -> None:
    """Anthropic's client puts the message together from its events."""
    claude = anthropic.AsyncAnthropic(base_url=local.base_url, api_key="none", max_retries=0)
    options: Any = {"model": "fast", "messages": HELLO, "max_tokens": TOKENS}
    async with claude, claude.messages.stream(**options) as stream:
        text = "".join([part async for part in stream.text_stream])
        final = await stream.get_final_message()
    assert text == "".join(part.text for part in final.content if part.type == "text")
    assert final.usage.output_tokens > 0


async def test_a_crowd_of_streams_has_fewer_events_and_loses_nothing(local: Service) -> None:
    """A stream that is alone has about an event for each token."""
    (alone,) = await ask_all(local, [chat])
    crowd = [chat] * CROWD + [choices, tool, responses] * 2
    events, *_ = await asyncio.gather(ask_all(local, crowd), ask_claude(local))
    assert sum(events[:CROWD]) / CROWD < 0.75 * alone
