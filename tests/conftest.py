"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A busy machine makes any example slow; no test here is about time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
