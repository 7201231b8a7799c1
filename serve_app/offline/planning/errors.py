"""Why a plan cannot be made."""

from __future__ import annotations


class PlanningFailed(Exception):
    """Something that the plan needs is not known; the message says what, and how to give it."""


class SchemeUnknown(PlanningFailed):
    """The config does not say in a known way how the weights are stored; `--quantization` can."""
