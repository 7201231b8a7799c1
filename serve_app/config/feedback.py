"""Which finished calls are kept and labelled: part of the Router's `user_config`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import regex
from pydantic import Field, field_validator

from serve_app.config.base import Config

BuiltIn = Literal["email", "phone", "card", "iban", "secret"]
BUILT_INS: tuple[str, ...] = get_args(BuiltIn)
"""The patterns that `redact` may name; `core/redact.py` defines them."""

MIB = 1024 * 1024


class FeedbackConfig(Config):
    """Which parts of calls are kept, so that the router can learn from them."""

    directory: str | None = Field(
        None,
        min_length=1,
        description="Directory for calls, labels and feedback: an absolute path on each Router's "
        "node. None: no call is kept or labelled, and `/v1/feedback` is off.",
    )
    sample_ratio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the finished `auto` calls that are kept, among the calls that "
        "`consent` allows.",
    )
    consent: Literal["asked", "assumed"] = Field(
        "asked",
        description="asked: only calls with the header `x-feedback-consent: yes` may be kept. "
        "assumed: every call may be kept, except calls with `x-feedback-consent: no`.",
    )
    redact: tuple[str, ...] = Field(
        BUILT_INS,
        max_length=64,
        description="Patterns that are removed from every text before it is written: built-in "
        f"patterns ({', '.join(f'`{name}`' for name in BUILT_INS)}) and your own regular "
        "expressions.",
    )
    compare: Literal["match", "judge"] = Field(
        "match",
        description="Source of the label. match: the two answers agree or differ, and the "
        "strongest tier's answer counts as right. judge: the strongest tier judges both answers "
        "in both orders, and a label needs the same verdict twice.",
    )
    bytes_max: int = Field(
        256 * MIB,
        ge=MIB,
        le=1024**4,
        description="Total size of the files in `directory`; the oldest files are deleted.",
    )
    pending_max: int = Field(
        128,
        ge=1,
        le=65536,
        description="Calls of one Router replica that may wait for their label; further calls are "
        "not kept.",
    )
    text_chars_max: int = Field(
        8000,
        ge=1,
        le=10_000_000,
        description="A call with a longer prompt or answer is not kept.",
    )
    concurrency: int = Field(
        1, ge=1, le=64, description="Concurrent label calls of one Router replica."
    )
    budget_ratio: float = Field(
        0.0,
        ge=0,
        le=0.2,
        description="Tokens that label calls may take although clients' calls are in flight, as a "
        "share of the tokens of clients' calls. Such a label call begins only if no call waits on "
        "its tiers. 0: label calls wait for idle time.",
    )
    store_answers: bool = Field(
        False, description="Whether the answers are kept as well, redacted like the prompts."
    )

    @field_validator("directory")
    @classmethod
    def _absolute(cls, directory: str | None) -> str | None:
        if directory is not None and not Path(directory).is_absolute():
            raise ValueError(
                f"'{directory}' is relative, but Ray chooses a Router's working directory; "
                "write an absolute path"
            )
        return directory

    @field_validator("redact")
    @classmethod
    def _usable(cls, redact: tuple[str, ...]) -> tuple[str, ...]:
        return check_patterns(redact)


def check_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns of a `redact` key.

    Raises:
        ValueError: a pattern is not built in and not a regular expression that can be used.
    """
    for pattern in patterns:
        if pattern not in BUILT_INS:
            _check_pattern(pattern)
    return patterns


def _check_pattern(pattern: str) -> None:
    if pattern.isidentifier():
        raise ValueError(
            f"'{pattern}' is none of the built-in patterns ({', '.join(BUILT_INS)}); "
            f"to remove the text itself, write '(?:{pattern})'"
        )
    try:
        empty = regex.compile(pattern).search("") is not None
    except regex.error as error:
        raise ValueError(f"'{pattern}' is not a regular expression: {error}") from None
    if empty:
        raise ValueError(
            f"'{pattern}' also matches the empty text; write a pattern that matches at least "
            "one character"
        )
