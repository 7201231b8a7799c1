"""Rows and engines that behave by a rule."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from aiohttp import web

from serve_app.offline.probing.questions import Question
from serve_app.offline.probing.rows import Row


def row(
    key: str = "k",
    *,
    fast: str = "41",
    strong: str = "42",
    fast_right: bool = False,
    strong_right: bool = True,
    sure: float = 0.9,
    samples: tuple[str, ...] = ("41", "41"),
    verdicts: dict[str, tuple[bool, bool]] | None = None,
) -> Row:
    """A row whose draft is as sure as `sure` says."""
    logprob = -10 * (1 - sure)
    return Row(
        key=key,
        fast=fast,
        fast_right=fast_right,
        strong=strong,
        strong_right=strong_right,
        logprobs=[logprob] * 20,
        first=[-0.1, -3.0, -5.0],
        prompt=[-1.0, -2.0],
        knows=0.5,
        hidden=[0.0, 1.0],
        samples=samples,
        verdicts=verdicts or {},
    )


def draw_rows(questions: list[Question], seed: int = 0) -> list[Row]:
    """Fast is wrong about a third, and its drafts tell; nothing else does."""
    rng = Random(seed)
    rows = []
    for question in questions:
        right = rng.random() < 2 / 3
        sure = rng.uniform(0.6, 1.0) if right else rng.uniform(0.0, 0.5)
        rows.append(row(question.key, fast_right=right, sure=sure))
    return rows


@asynccontextmanager
async def engine(replies: dict[str, Any]) -> AsyncIterator[tuple[str, list[Any]]]:
    """A server with one reply a path and three tokens a call, and what it was asked."""
    asked: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/reset_prefix_cache":
            return web.Response()
        asked.append(await request.json())
        reply = replies.get(request.path)
        return web.json_response(reply, status=200 if reply is not None else 404)

    async def count(_: web.Request) -> web.Response:
        return web.Response(text=f'vllm:generation_tokens_total{{engine="0"}} {3 * len(asked)}.0')

    app = web.Application()
    app.router.add_get("/metrics", count)
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}", asked
    finally:
        await runner.cleanup()
