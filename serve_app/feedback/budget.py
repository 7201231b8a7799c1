"""What label calls may take from tiers that are never idle: a share of the clients' tokens."""

from __future__ import annotations

LABEL_TOKENS = 1000.0
"""What a label is expected to cost before one has been made."""
KEPT = 0.9
"""The weight that earlier labels keep in the expected cost at the next one."""
SAVED_LABELS = 4
"""A balance never grows beyond the cost of so many labels, so that a quiet hour buys no burst."""


class LabelBudget:
    """Tokens that one Router's clients have earned for labels, less what labels have cost."""

    def __init__(self, ratio: float) -> None:
        """`ratio` is the share of the clients' tokens; 0: nothing is earned."""
        self.ratio = ratio
        self._balance = 0.0
        self._label_tokens = LABEL_TOKENS

    @property
    def affords(self) -> bool:
        """Whether the next label is paid for."""
        return self.ratio > 0 and self._balance >= self._label_tokens

    def earn(self, tokens: int) -> None:
        """A client's call of so many tokens has ended."""
        most = SAVED_LABELS * self._label_tokens
        self._balance = min(self._balance + self.ratio * tokens, most)

    def spend(self, tokens: int | None) -> None:
        """A label has cost so many tokens, None if that is unknown: then as many as expected."""
        if tokens is None:
            tokens = int(self._label_tokens)
        else:
            self._label_tokens = KEPT * self._label_tokens + (1 - KEPT) * tokens
        self._balance -= tokens
