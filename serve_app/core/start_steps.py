"""The steps in which a replica starts, as it tells them to `serve-app up`."""

from __future__ import annotations

from enum import StrEnum

STEP_MARK = "serve-app start of "
"""What a line of a replica's output begins with that names a step."""


class StartStep(StrEnum):
    """A step that takes long enough for somebody to wait for it."""

    WAITING = "waiting for a place"
    IMPORTING = "starting the process"
    CHECKING = "checking the weights"
    LOADING = "loading the weights"
    WARMING = "warming up"
    READY = "ready"


def render_step(part: str, step: StartStep) -> str:
    """The line in which a replica tells its step. The part's name keeps Ray, which leaves out what
    another process has just said, from leaving the line out."""
    return f"{STEP_MARK}{part}: {step}"
