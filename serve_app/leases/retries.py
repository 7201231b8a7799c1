"""The retry budget of a Router: how many calls may be sent a second time.

Where many calls fail, as many retries would double the load of a tier that already fails. So each
call adds a part of a retry to the budget, and each retry takes one. In any time the retries are at
most `spare`, and `ratio_max` of the calls.
"""

from __future__ import annotations

from serve_app.config.runtime import RetriesConfig


class RetryBudget:
    """The budget of all tiers of one Router."""

    def __init__(self, config: RetriesConfig | None = None) -> None:
        self._config = config or RetriesConfig()
        self._left = float(self._config.spare)

    @property
    def left(self) -> float:
        """The retries that may be sent now."""
        return self._left

    def configure(self, config: RetriesConfig) -> None:
        """Take new settings; a larger budget is there at once."""
        self._left = max(0.0, self._left + config.spare - self._config.spare)
        self._config = config

    def note_call(self) -> None:
        """A call is sent for the first time."""
        self._left = min(float(self._config.spare), self._left + self._config.ratio_max)

    def spend(self) -> bool:
        """Take one retry; false if there is none."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
