"""The cascade: a call is begun on the weakest tier, and the strongest answers if that is unsure.

1. The draft is sent, and its replica holds the answer back up to the checkpoint: the first tokens,
   or the end of a shorter answer.
2. The answer's head comes with the log-probabilities of those tokens; `routing/confidence.py` makes
   P(right) of them.
3. Sure: the draft's bytes pass as those of any answer.
4. Unsure, late or failed: the draft's connection is dropped, which stops its engine and ends its
   lease, and the call goes to the strongest tier with what is left of its deadlines.

No byte of an answer leaves here before that is decided, so an answer is always one model's alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace

from serve_app.config.cascade import ConfidenceConfig
from serve_app.config.runtime import DeadlinesConfig, RuntimeConfig
from serve_app.core.call import Call, Decision, Draft, Reason, Record
from serve_app.core.errors import DeadlineExceeded, GatewayError
from serve_app.routing.confidence import DraftFeatures, draft_features, p_right
from serve_app.tiers.client import UpstreamRequest
from serve_app.tiers.draft_report import DRAFT_HEADER, DraftReport, parse_report
from serve_app.tiers.tier import Answer, Tier

Headers = list[tuple[bytes, bytes]]
Exchange = Callable[[Decision, RuntimeConfig], AbstractAsyncContextManager[Answer]]


class WholeAnswer:
    """An answer that has come completely."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    async def read(self) -> bytes:
        """The body, b'' after it."""
        body, self._body = self._body, b""
        return body


@asynccontextmanager
async def answer_by_cascade(
    call: Call,
    decision: Decision,
    record: Record,
    runtime: RuntimeConfig,
    tier: Tier,
    exchange: Exchange,
) -> AsyncIterator[Answer]:
    """Answer a call whose decision names `tier` for a draft and another one `otherwise`.

    `exchange` is how any call is sent to the tier of a decision; the other one gets it that way.
    `record` gets the decision that came true, and the draft.

    Raises:
        GatewayError: neither tier could answer, or no time was left for the second.
    """
    assert decision.otherwise is not None, "only drafts come here"
    started = time.monotonic()
    draft = record.draft = Draft(decision.tier)
    async with AsyncExitStack() as drafting:
        try:
            answer, reason = await _begin_draft(call, decision, draft, runtime, tier, drafting)
        except (GatewayError, TimeoutError):
            answer, reason = None, Reason.DRAFT_FAILED
        if answer is not None:
            record.decision = replace(decision, reason=reason, otherwise=None)
            yield answer
            return
    draft.discarded = True
    strong = record.decision = replace(decision.otherwise, reason=reason)
    deadlines = _remaining(runtime.deadlines, time.monotonic() - started, stream=call.stream)
    async with exchange(strong, runtime.model_copy(update={"deadlines": deadlines})) as answer:
        yield answer


async def _begin_draft(
    call: Call,
    decision: Decision,
    draft: Draft,
    runtime: RuntimeConfig,
    tier: Tier,
    drafting: AsyncExitStack,
) -> tuple[Answer | None, Reason]:
    """The draft's answer, None if it is to be discarded; and why.

    Raises:
        GatewayError: the draft failed.
        TimeoutError: it did not come to its checkpoint in time.
    """
    cascade, deadlines = runtime.routing.cascade, runtime.deadlines
    request = UpstreamRequest(
        call.endpoint.value,
        call.payload.for_model(decision.model_id),
        call.request_id,
        stream=True,
        session=call.session,
        draft_tokens=cascade.checkpoint_tokens,
    )
    if not call.stream:
        # After its checkpoint an answer in one piece is silent until it is complete.
        deadlines = deadlines.model_copy(update={"gap_s": deadlines.total_s})
    async with asyncio.timeout(cascade.checkpoint_s):
        answer = await drafting.enter_async_context(tier.exchange(request, deadlines))
    if 400 <= answer.status < 500:
        return answer, Reason.DRAFT
    report = _find_report(answer)
    if answer.status >= 500 or report is None:
        return None, Reason.DRAFT_FAILED
    _judge(draft, report, cascade.confidence)
    assert draft.confidence is not None, "it has just been judged"
    if draft.confidence < cascade.confidence_min:
        return None, Reason.ESCALATED
    return answer if call.stream else await _read_whole(answer), Reason.CONFIDENT


def _find_report(answer: Answer) -> DraftReport | None:
    for name, value in answer.headers:
        if name == DRAFT_HEADER:
            return parse_report(value)
    return None


def _judge(draft: Draft, report: DraftReport, confidence: ConfidenceConfig) -> None:
    """A call is as sure as the least sure of its choices."""
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
    """All of it, so that the strongest tier can still answer if it breaks off."""
    chunks: list[bytes] = []
    while chunk := await answer.read():
        chunks.append(chunk)
    return WholeAnswer(answer.status, answer.headers, b"".join(chunks))


def _remaining(deadlines: DeadlinesConfig, elapsed_s: float, *, stream: bool) -> DeadlinesConfig:
    """What a draft has left of the deadlines.

    Raises:
        DeadlineExceeded: nothing.
    """
    total_s = round(deadlines.total_s - elapsed_s, 1)
    first_byte_s = round(deadlines.first_byte_s - elapsed_s, 1)
    if total_s <= 0:
        raise DeadlineExceeded("total", deadlines.total_s)
    if stream and first_byte_s <= 0:
        raise DeadlineExceeded("first byte", deadlines.first_byte_s)
    return deadlines.model_copy(
        update={
            "lease_s": min(deadlines.lease_s, first_byte_s if stream else total_s),
            "first_byte_s": first_byte_s,
            "total_s": total_s,
        }
    )
