"""What the lines of batches take of one engine, so that autoscaling can leave them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve_app.autoscaling.demand import EngineSignals
from serve_app.replica.meter import EngineRequest, Meter
from serve_app.replica.prefills import is_unread


@dataclass(frozen=True, slots=True)
class Taken:
    """What some calls have added to the engine's counts."""

    first_tokens: float = 0.0
    first_token_waits_s: float = 0.0
    finished: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0

    def __add__(self, other: Taken) -> Taken:
        return Taken(
            self.first_tokens + other.first_tokens,
            self.first_token_waits_s + other.first_token_waits_s,
            self.finished + other.finished,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
        )


NOTHING = Taken()


class SpareCalls:
    """The exchanges of one engine: those of lines that shall add no replicas, and the others."""

    def __init__(self) -> None:
        self._others: set[Meter] = set()
        self._spare: set[Meter] = set()
        self._ended = NOTHING

    def begin(self, meter: Meter, *, spare: bool) -> None:
        """An exchange begins; `spare`: of a line that shall add no replicas."""
        (self._spare if spare else self._others).add(meter)

    def end(self, meter: Meter, *, whole: bool) -> None:
        """An exchange has ended; `whole`: with its complete answer, which the engine counts."""
        self._others.discard(meter)
        if meter in self._spare:
            self._spare.discard(meter)
            self._ended += count_begun(meter.requests)
            if whole:
                self._ended += count_finished(meter.requests)

    def leave_out(self, signals: EngineSignals) -> EngineSignals:
        """The engine's numbers without those of lines."""
        taken = sum((count_begun(meter.requests) for meter in self._spare), self._ended)
        return replace(
            signals,
            kv_used_ratio=signals.kv_used_ratio * self._others_ratio(),
            first_tokens=signals.first_tokens - taken.first_tokens,
            first_token_waits_s=signals.first_token_waits_s - taken.first_token_waits_s,
            finished=signals.finished - taken.finished,
            prompt_tokens=signals.prompt_tokens - taken.prompt_tokens,
            output_tokens=signals.output_tokens - taken.output_tokens,
        )

    def _others_ratio(self) -> float:
        """The part of the KV cache's tokens that do not belong to lines."""
        others, spare = (sum(map(count_held, meters)) for meters in (self._others, self._spare))
        return others / (others + spare) if spare else 1.0


def first_token_s(request: EngineRequest) -> float:
    """How long the engine took for the first token; 0 before it, or where the engine counts none.

    vLLM keeps it in the statistics of a request's state, which are not public.
    """
    return float(getattr(getattr(request, "stats", None), "first_token_latency", 0.0))


def count_begun(requests: Sequence[EngineRequest]) -> Taken:
    """The first tokens of requests, and the waits for them."""
    waits_s = [wait_s for wait_s in map(first_token_s, requests) if wait_s > 0]
    return Taken(first_tokens=len(waits_s), first_token_waits_s=sum(waits_s))


def count_finished(requests: Sequence[EngineRequest]) -> Taken:
    """Requests that have ended. vLLM counts the prompt once for each choice."""
    return Taken(
        finished=len(requests),
        prompt_tokens=sum(each.prompt_len for each in requests),
        output_tokens=sum(map(count_output, requests)),
    )


def count_output(request: EngineRequest) -> int:
    """The tokens of one answer so far."""
    return 0 if request.detokenizer is None else request.detokenizer.num_output_tokens()


def count_held(meter: Meter) -> int:
    """The tokens of an exchange whose prompts have been read."""
    read = [each for each in meter.requests if not is_unread(each)]
    return sum(each.prompt_len + count_output(each) for each in read)
