"""The unread prompts of an engine, its rate, and the corrections of the prefix table."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from serve_app.core.prefix import PrefixKeys, prefix_keys
from serve_app.leases.prefix_cost import PREFILL_TOKENS_PER_S, ReplicaLoad
from serve_app.replica.meter import Meter, Tokens
from serve_app.replica.prefills import PrefillRate, PrefillWatch, PrefixCounts
from serve_app.replica.prefix_table import PrefixTable

TEXT = prefix_keys([b"x" * 2048])


@dataclass(eq=False)
class Request:
    """vLLM's state of a request, as far as it is read."""

    prompt_len: int
    is_prefilling: bool = True
    num_cached_tokens: int = 0
    request_index: int = 0
    detokenizer: Tokens | None = None


def build(table: PrefixTable | None = None) -> tuple[PrefillWatch, list[float]]:
    now = [0.0]
    return PrefillWatch(table, lambda: now[0]), now


def begin(watch: PrefillWatch, request: Request, keys: PrefixKeys | None = None) -> Meter:
    """A request that the engine has accepted."""
    meter = Meter(watch.begin(keys).add)
    meter.add(request)
    return meter


def test_a_prompt_is_pending_until_it_is_read() -> None:
    """Or until its call ends."""
    watch, _ = build()
    first, second = Request(100), Request(50)
    begin(watch, first)
    call = watch.begin(None)
    call.add(second)
    assert watch.complete(ReplicaLoad()).pending_tokens == 150
    first.is_prefilling = False
    watch.look()
    assert watch.pending_tokens == 50
    call.end(0)
    assert watch.pending_tokens == 0


def test_a_prompt_with_several_choices_counts_once() -> None:
    """Each choice is a request of the engine, and the prompt is read once."""
    watch, _ = build()
    call = watch.begin(None)
    call.add(Request(100))
    call.add(Request(100, request_index=1))
    assert watch.pending_tokens == 100
    call.end(0)
    assert watch.pending_tokens == 0


def test_cached_tokens_are_not_pending() -> None:
    """What the table predicts counts from the start, and the engine's word corrects the table."""
    table = PrefixTable(10_000)
    watch, _ = build(table)
    first = Request(512, is_prefilling=False)
    call = watch.begin(TEXT)
    call.add(first)
    call.end(0)
    assert table.predict(TEXT) == 512
    second = Request(512)
    begin(watch, second, TEXT)
    assert watch.pending_tokens == 0
    second.is_prefilling, second.num_cached_tokens = False, 0
    watch.look()
    assert watch.complete(ReplicaLoad()).trust_ratio < 1
    assert watch.take_counts() == PrefixCounts(2, 1024, 0, 512)
    assert watch.take_counts() == PrefixCounts()


def test_the_rate_is_that_of_long_prompts() -> None:
    """Short ones take the time of a step, whatever their length."""
    rate = PrefillRate()
    assert rate.tokens_per_s == pytest.approx(PREFILL_TOKENS_PER_S)
    for _ in range(100):
        rate.note(5, 0.01, idle=True)
    assert rate.tokens_per_s == pytest.approx(PREFILL_TOKENS_PER_S)
    for _ in range(100):
        rate.note(500, 0.5, idle=False)
    assert rate.tokens_per_s == pytest.approx(1000, rel=0.1)


def test_the_time_without_prompts_does_not_count() -> None:
    """Nor does a stop of the whole process."""
    watch, now = build()
    for _ in range(60):
        now[0] += 100
        request = Request(1000)
        begin(watch, request)
        now[0] += 0.5
        request.is_prefilling = False
        watch.look()
    assert watch.complete(ReplicaLoad()).prefill_tokens_per_s == pytest.approx(2000, rel=0.1)
