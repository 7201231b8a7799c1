"""The steps in which a replica starts, as its log names them for `serve-app up`."""

from __future__ import annotations

from enum import StrEnum

STEP_MARK = "start: "
"""What a line of the log begins with that names a step."""


class StartStep(StrEnum):
    """A step that takes long enough for somebody to wait for it."""

    WAITING = "waiting for a place"
    IMPORTING = "starting the process"
    CHECKING = "checking the weights"
    LOADING = "loading the weights"
    WARMING = "warming up"
    READY = "ready"
