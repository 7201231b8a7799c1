"""Whether the tiers are ready, as the pages ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from serve_app.core.call import TierState


class Readiness(Protocol):
    """The source of the tiers' readiness."""

    async def tiers(self) -> Sequence[TierState]:
        """The state of every tier, at most a few seconds old."""
        ...
