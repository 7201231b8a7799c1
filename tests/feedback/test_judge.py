"""The strongest tier as judge."""

from __future__ import annotations

import json

import pytest

from serve_app.core.call import Turn
from serve_app.feedback.judge import is_swapped, parse_verdict, render_question

IDS = [f"id-{number}" for number in range(200)]
SWAPPED = next(name for name in IDS if is_swapped(name))
STRAIGHT = next(name for name in IDS if not is_swapped(name))


def test_the_order_is_drawn_from_the_id() -> None:
    """Half of the answers stand first, against a judge that prefers a place."""
    assert 60 < sum(map(is_swapped, IDS)) < 140


@pytest.mark.parametrize("request_id", [SWAPPED, STRAIGHT])
def test_a_verdict_finds_its_way_back(request_id: str) -> None:
    """Whatever the order in which the judge saw the answers."""
    turns = (Turn("user", 'Is "x" right?'),)
    body = json.loads(render_question("demo-strong", request_id, turns, ("small", "large")))
    material = json.loads(body["messages"][1]["content"])
    assert material["conversation"] == [{"role": "user", "text": 'Is "x" right?'}]
    verdict = {
        "a_right": material["answer_a"] == "small",
        "b_right": material["answer_b"] == "small",
    }
    assert parse_verdict(request_id, json.dumps(verdict)) == (True, False)
    assert (body["model"], body["temperature"], body["stream"]) == ("demo-strong", 0, False)
    schema = body["response_format"]["json_schema"]["schema"]
    assert set(schema["required"]) == {"a_right", "b_right"}


@pytest.mark.parametrize(
    "text", ["", "A is right", "[]", "{}", '{"a_right": 1, "b_right": 0}', '{"a_right": true}']
)
def test_no_verdict(text: str) -> None:
    """What is not what was asked for is none."""
    assert parse_verdict("id", text) is None
