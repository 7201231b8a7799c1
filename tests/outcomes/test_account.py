"""The account of a trial: nothing is missing, nothing counted twice, nothing held for ever."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from tests.outcomes.account import DESCRIPTORS_SPARE, Account, Holdings, leaked, left_files
from tests.outcomes.outcome import Ending, Outcome, Seen, expected_text

CANCELLED = Seen(1, True, Ending.LEFT, 0.0, 2.0)
BROKEN = Seen(2, True, Ending.BROKEN, 1.0, 5.0)
SILENT = Seen(3, True, Ending.SILENT, 1.0, 9.0)


def test_a_square_account() -> None:
    """Every call has one outcome, and none is wrong."""
    account = Account([1, 2], [CANCELLED, BROKEN], fault_s=1.5)
    assert account.wrong() == []
    assert account.outcomes == {Outcome.CANCELLED: 1, Outcome.BROKEN: 1}
    assert account.in_flight == 2
    assert account.failing_s == 3.5


def test_a_call_without_an_outcome_is_lost() -> None:
    """It began, and nothing was seen of it; or its client waited in vain."""
    assert Account([1, 4], [CANCELLED]).wrong() == ["1 lost"]
    assert Account([1, 3], [CANCELLED, SILENT]).wrong() == ["1 lost"]


def test_a_call_with_two_outcomes() -> None:
    """An account that counts a call twice hides another."""
    assert Account([1], [CANCELLED, replace(CANCELLED, ended_s=3.0)]).wrong() == [
        "call 1 has two outcomes"
    ]


def test_an_outcome_without_a_call() -> None:
    """Nobody asked."""
    assert Account([1], [CANCELLED, BROKEN]).wrong() == ["call 2 never began"]


def test_a_call_that_names_its_tier_waits_for_it() -> None:
    """That it fails does not say that `auto` calls do."""
    assert Account([2], [replace(BROKEN, model="fast")], fault_s=1.5).failing_s == 0


def test_cancelled_calls_alone_are_no_failure() -> None:
    """The service has not failed for a moment."""
    account = Account([1], [CANCELLED], fault_s=5.0)
    assert account.failing_s == 0
    assert account.in_flight == 0


def test_the_slowest_answer() -> None:
    """A call that was held while a part was away shows here, if it was answered in the end."""
    body = json.dumps(
        {
            "choices": [{"message": {"content": expected_text(5)}, "finish_reason": "stop"}],
            "usage": {"completion_tokens": 67},
        }
    ).encode()
    answered = Seen(5, False, Ending.COMPLETE, 1.0, 8.0, 200, "call-5", body)
    assert Account([5], [answered, BROKEN]).longest_s == 7
    assert Account([5], [replace(answered, model="fast")]).longest_s == 0


BEFORE = Holdings(processes=Counter({"engine": 2}), descriptors=40, shared_files=frozenset({"old"}))


@pytest.mark.parametrize(
    ("after", "found"),
    [
        (replace(BEFORE, ongoing=2), "2 ongoing calls or leases"),
        (replace(BEFORE, generating=1), "1 requests in engines"),
        (replace(BEFORE, processes=Counter({"engine": 3})), "1 more of engine"),
        (replace(BEFORE, processes=Counter({"engine": 2, "haproxy": 1})), "1 more of haproxy"),
        (replace(BEFORE, descriptors=41 + DESCRIPTORS_SPARE), "17 more descriptors"),
    ],
)
def test_what_is_held_for_ever(after: Holdings, found: str) -> None:
    """Each kind of leak is named."""
    assert leaked(BEFORE, after) == [found]


def test_what_is_no_leak() -> None:
    """The same, or less, or a few idle connections."""
    assert leaked(BEFORE, BEFORE) == []
    less = Holdings(processes=Counter({"engine": 1}), descriptors=40 + DESCRIPTORS_SPARE)
    assert leaked(BEFORE, less) == []


def test_files_that_nothing_uses() -> None:
    """Those from before are not this fault's."""
    after = replace(BEFORE, shared_files=frozenset({"old", "new"}))
    assert left_files(BEFORE, after) == ["new"]
    assert leaked(BEFORE, after) == []
