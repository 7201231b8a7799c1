"""`traceparent` by the rules of W3C Trace Context, whatever a client sends."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.trace import EXCHANGES_MAX, Trace, TraceParent, make_id, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-fe", False),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
    ],
)
def test_a_valid_parent(value: str, sampled: bool) -> None:
    """Unknown flags and later fields of unknown versions are ignored."""
    assert parse_traceparent(value.encode()) == TraceParent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{TRACE}-{SPAN}-01\r\nx-lease-id: 1",
        f"cc-{TRACE}-{SPAN}-01-a\r\nx: 1",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
    ],
)
def test_an_invalid_parent_is_none(value: str) -> None:
    """The call begins a trace of its own then."""
    assert parse_traceparent(value.encode()) is None


@given(st.binary(max_size=120))
def test_nothing_but_hex_comes_through(value: bytes) -> None:
    """Whatever bytes a client sends."""
    parent = parse_traceparent(value)
    assert parent is None or re.fullmatch("[0-9a-f]{48}", parent.trace_id + parent.span_id)


def test_the_engine_gets_the_exchange_as_parent() -> None:
    """And the decision that this call is sampled, or is not."""
    for sampled, flags in ((True, "01"), (False, "00")):
        trace = Trace(TRACE, SPAN, None, sampled)
        exchange = trace.begin("fast")
        header = trace.render_for(exchange).decode()
        assert header == f"00-{TRACE}-{exchange.span_id}-{flags}"
        assert parse_traceparent(header.encode()) is not None


def test_what_a_call_notes_is_bounded() -> None:
    """However often it is tried again."""
    trace = Trace(TRACE, SPAN, None, True)
    for _ in range(2 * EXCHANGES_MAX):
        trace.begin("fast")
    assert len(trace.exchanges) == EXCHANGES_MAX


@pytest.mark.parametrize("bits", [64, 128])
def test_ids_have_their_length(bits: int) -> None:
    """Also small ones."""
    assert {len(make_id(bits)) for _ in range(500)} == {bits // 4}
