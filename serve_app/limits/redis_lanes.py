"""Sends scripts to Redis in batches: what comes while a batch is under way goes with the next one.

A command of the Redis client costs the Router more CPU time than it costs Redis. A few lanes, each
with a connection of its own, share this cost among the calls that come together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

LANES = 4
BATCH_MAX = 64


class Script:
    """A script, and the sum by which Redis knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        # Redis names scripts by SHA-1; the name protects nothing.
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class Command:
    """A script with its keys and arguments, and the future of its answer."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Any]
    answer: asyncio.Future[Any]


class Lanes:
    """Several connections to Redis, each of which carries one batch at a time."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: deque[Command] = deque()
        self._signal = asyncio.Semaphore(0)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send, in the running event loop. May be called twice."""
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._run()) for _ in range(LANES)]

    async def close(self) -> None:
        """End; commands without an answer get none."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for command in self._waiting:
            command.answer.cancel()
        self._waiting.clear()

    def send(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Any]
    ) -> asyncio.Future[Any]:
        """The future answer of a script. Nobody needs to wait for it."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_read_error)
        self._waiting.append(Command(script, keys, arguments, answer))
        self._signal.release()
        return answer

    async def _run(self) -> None:
        while True:
            await self._signal.acquire()
            batch = [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
            if batch:
                await self._send(batch)

    async def _send(self, batch: Sequence[Command]) -> None:
        """Give every command of a batch its answer, or the error."""
        try:
            answers = await self._execute(batch, by_sum=True)
            unknown = [
                command
                for command, answer in zip(batch, answers, strict=True)
                if isinstance(answer, NoScriptError)
            ]
            if unknown:
                again = iter(await self._execute(unknown, by_sum=False))
                answers = [
                    next(again) if isinstance(answer, NoScriptError) else answer
                    for answer in answers
                ]
        except (RedisError, OSError) as error:
            answers = [error] * len(batch)
        except BaseException:
            for command in batch:
                command.answer.cancel()
            raise
        for command, answer in zip(batch, answers, strict=True):
            _give(command.answer, answer)

    async def _execute(self, batch: Sequence[Command], *, by_sum: bool) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in batch:
                if by_sum:
                    name, script = "EVALSHA", command.script.sha
                else:
                    name, script = "EVAL", command.script.text
                pipeline.execute_command(
                    name, script, len(command.keys), *command.keys, *command.arguments
                )
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers


def _give(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _read_error(future: asyncio.Future[Any]) -> None:
    """Else asyncio reports an error that nobody has read."""
    if not future.cancelled():
        future.exception()
