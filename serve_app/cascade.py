"""The cascade: the weakest tier begins a call, and the strongest answers if the weakest is unsure.

1. The draft is sent, and its replica holds the answer back up to the checkpoint: the first tokens,
   or the end of a shorter answer.
2. The answer's head comes with the log-probabilities of those tokens; `routing/confidence.py` makes
   P(right) of them.
3. If the draft is sure, its bytes pass like the bytes of any answer.
4. If the draft is unsure, late or failed, its connection is dropped, which stops its engine and
   ends its lease. The call goes to the strongest tier with the rest of its deadlines.

No byte of an answer is sent before this decision, so an answer always comes from a single model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace

from serve_app.config.cascade import ConfidenceConfig
from serve_app.core.call import Draft, Reason, Route
from serve_app.core.chunks import Take
from serve_app.core.errors import GatewayError
from serve_app.core.headers import Headers
from serve_app.leases.client import UpstreamRequest
from serve_app.leases.draft_report import DRAFT_HEADER, DraftReport, parse_report
from serve_app.leases.tier import Answer, Tier
from serve_app.routing.confidence import DraftFeatures, draft_features, p_right
from serve_app.way import Way

Exchange = Callable[[Route], AbstractAsyncContextManager[Answer]]


class WholeAnswer:
    """An answer that has arrived completely."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    async def read(self) -> bytes:
        """The body, then b''."""
        body, self._body = self._body, b""
        return body

    def divert(self, take: Take) -> None:
        """Nothing comes any more."""


@asynccontextmanager
async def answer_by_cascade(
    way: Way, route: Route, tier: Tier, escalate: Exchange
) -> AsyncIterator[Answer]:
    """Answer a call whose route begins with a draft of `tier`.

    `escalate` sends the call on along the rest of the route. The record gets the draft, and the
    decision that was carried out.

    Raises:
        GatewayError: neither tier could answer, or no time was left for the second tier.
    """
    assert route.draft is not None, "only drafts come here"
    draft = way.record.draft = Draft(route.draft.tier, model_id=route.draft.model_id)
    request = way.draft_request(route.draft, draft)
    async with AsyncExitStack() as drafting:
        try:
            answer, reason = await _begin_draft(way, request, draft, tier, drafting)
        except (GatewayError, TimeoutError) as error:
            way.note_refusal(draft.tier, error)
            answer, reason = None, Reason.DRAFT_FAILED
        if answer is not None:
            request.usage = way.record.usage
            way.record.decision = replace(route.draft, reason=reason)
            yield answer
            return
    draft.discarded = True
    way.record.decision = replace(route.decision, reason=reason)
    async with escalate(replace(route, decision=way.record.decision, draft=None)) as answer:
        yield answer


async def _begin_draft(
    way: Way, request: UpstreamRequest, draft: Draft, tier: Tier, drafting: AsyncExitStack
) -> tuple[Answer | None, Reason]:
    """The draft's answer, None if it is to be discarded; and the reason.

    Raises:
        GatewayError: the draft failed.
        TimeoutError: the draft did not reach its checkpoint in time.
    """
    cascade = way.routing.cascade
    async with asyncio.timeout(cascade.checkpoint_s):
        answer = await way.enter(tier, draft.tier, request, drafting)
    if answer.status >= 400:
        return answer, Reason.DRAFT
    report = _find_report(answer)
    if report is None:
        return None, Reason.DRAFT_FAILED
    _judge(draft, report, cascade.confidence)
    assert draft.confidence is not None, "it has just been judged"
    if draft.confidence < cascade.confidence_min:
        return None, Reason.ESCALATED
    return answer if way.call.stream else await _read_whole(answer), Reason.CONFIDENT


def _find_report(answer: Answer) -> DraftReport | None:
    for name, value in answer.headers:
        if name == DRAFT_HEADER:
            return parse_report(value)
    return None


def _judge(draft: Draft, report: DraftReport, confidence: ConfidenceConfig) -> None:
    """A call is as sure as its least sure choice."""
    choices = [draft_features(logprobs) for logprobs in report.logprobs]
    draft.confidence, features = _least(choices, confidence)
    draft.mean_probability = features.mean_probability
    draft.min_probability = features.min_probability
    draft.usage.prompt_tokens = report.prompt_tokens
    draft.usage.completion_tokens = report.completion_tokens


def _least(
    choices: Sequence[DraftFeatures], confidence: ConfidenceConfig
) -> tuple[float, DraftFeatures]:
    return min(
        ((p_right(features, confidence), features) for features in choices),
        key=lambda judged: judged[0],
    )


async def _read_whole(answer: Answer) -> WholeAnswer:
    """Read the whole draft, so that the strongest tier can still answer if it breaks off."""
    chunks: list[bytes] = []
    while chunk := await answer.read():
        chunks.append(chunk)
    return WholeAnswer(answer.status, answer.headers, b"".join(chunks))
