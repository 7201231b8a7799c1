"""How long the newest answers of a tier were, in tokens and in seconds."""

from __future__ import annotations

from serve_app.core.call import Outcome, Record

MEMORY = 200
"""About how many of the newest answers a mean is made of."""


class Mean:
    """A mean of which the newest values weigh most; None before the first one."""

    __slots__ = ("_count", "value")

    def __init__(self) -> None:
        self._count = 0
        self.value: float | None = None

    def note(self, value: float) -> None:
        """Take one more value."""
        self._count = min(self._count + 1, MEMORY)
        before = 0.0 if self.value is None else self.value
        self.value = before + (value - before) / self._count


class AnswerHistory:
    """The means of one tier. Whole answers have no time to the first token of their own."""

    __slots__ = ("first_token_s", "per_token_s", "tokens")

    def __init__(self) -> None:
        self.tokens = Mean()
        self.first_token_s = Mean()
        self.per_token_s = Mean()

    def note(self, record: Record) -> None:
        """Take a call that an engine of the tier has answered."""
        tokens = record.usage.completion_tokens
        if not tokens:
            return
        self.tokens.note(tokens)
        if record.stream and record.first_byte_s is not None:
            self.first_token_s.note(record.first_byte_s)
            first_s = record.first_byte_s
        else:
            first_s = self.first_token_s.value or 0.0
        self.per_token_s.note(max(0.0, record.total_s - first_s) / tokens)


def is_telling(record: Record) -> bool:
    """Whether a call says how long the answers of its tier are."""
    drafted = record.draft is not None and record.draft.discarded
    answered = record.outcome is Outcome.OK and record.status < 400
    return answered and not drafted and not is_free(record)


def is_free(record: Record) -> bool:
    """Whether the cache of answers has answered, and no engine."""
    return record.cache is not None and record.cache.free
