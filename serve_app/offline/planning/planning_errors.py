"""The errors of a plan."""

from __future__ import annotations


class PlanningFailed(Exception):
    """A fact that the plan needs is not known; the message names it, and how to give it."""


class SchemeUnknown(PlanningFailed):
    """The config does not state in a known way how the weights are stored; `--quantization` can."""
