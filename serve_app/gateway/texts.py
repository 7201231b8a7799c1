"""Reads the texts of a body for vectors or scores: one call may hold thousands of them.

Routing does not look at these texts, but each of them costs the engine work. So their number and
their tokens are bounded, and limits reserve the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.config.bodies import BodiesConfig
from serve_app.core.call import Prompt, Turn
from serve_app.core.errors import InvalidField, TooMany
from serve_app.core.tokens import estimate_text_tokens, estimate_tokens

Json = dict[str, Any]

SCORE_PAIRS = (("text_1", "text_2"), ("queries", "documents"))
"""The names of the two sides of `/v1/score`. vLLM knows further names, which are refused."""


def read_rerank(document: Json, config: BodiesConfig) -> Prompt:
    """A query, and the documents that are ranked for it."""
    query = document.get("query")
    if not isinstance(query, str):
        raise InvalidField("query", "a string")
    documents = _read_side(document, "documents", config)
    return _pair_up(document, [query], documents, "documents", config)


def read_score(document: Json, config: BodiesConfig) -> Prompt:
    """Two sides of texts: one with one, one with each of several, or one by one."""
    left, right = _find_pair(document)
    firsts, seconds = _read_side(document, left, config), _read_side(document, right, config)
    if len(firsts) not in (1, len(seconds)):
        raise InvalidField(left, f"one text, or as many as '{right}' has")
    return _pair_up(document, firsts, seconds, right, config)


def check_tokens(prompt: Prompt, param: str, config: BodiesConfig) -> Prompt:
    """The prompt, unless its texts are longer together than one call may be."""
    if estimate_tokens(prompt) > config.counts.input_tokens_max:
        raise TooMany(param, "tokens in all texts together", config.counts.input_tokens_max)
    return prompt


def _find_pair(document: Json) -> tuple[str, str]:
    """The names that the body uses; vLLM would choose between two pairs."""
    usual, other = SCORE_PAIRS
    if all(document.get(name) is None for name in other):
        return usual
    for name in usual:
        if document.get(name) is not None:
            raise InvalidField(name, "no value beside 'queries' and 'documents'")
    return other


def _read_side(document: Json, param: str, config: BodiesConfig) -> list[str]:
    """One text or several; images are not taken here."""
    value = document.get(param)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise InvalidField(param, "a string or a list of strings")
    if len(texts) > config.counts.inputs_max:
        raise TooMany(param, "items", config.counts.inputs_max)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidField(f"{param}[{index}]", "a string")
    return texts


def _pair_up(
    document: Json, firsts: Sequence[str], seconds: Sequence[str], param: str, config: BodiesConfig
) -> Prompt:
    """The engine reads a single first text, and the instruction, once with each second text."""
    instruction = document.get("instruction")
    repeated = [*firsts] if len(firsts) == 1 else []
    turns = [*_turns("query", firsts), *_turns("document", seconds)]
    if isinstance(instruction, str):
        repeated.append(instruction)
        turns.insert(0, Turn("system", instruction))
    again = sum(map(estimate_text_tokens, repeated)) * (len(seconds) - 1)
    return check_tokens(Prompt(turns=tuple(turns), repeated_tokens=again), param, config)


def _turns(role: str, texts: Sequence[str]) -> list[Turn]:
    return [Turn(role, text) for text in texts]
