"""Moves a score by what the caches of the tiers hold: pure functions.

A call that changes its tier leaves its conversation in the cache of the other one, and the new tier
reads the conversation again. The weight says how much of a score a second of a GPU is worth. The
moved score is what the threshold decides, and what the share of strong calls is held by.
"""

from __future__ import annotations

from serve_app.core.residence import Residence

GPU_S_MAX = 1.0
"""The most seconds that count, however long a prompt is."""


def weigh_switch(score: float, weight: float, strong: Residence, weak: Residence) -> float:
    """The score of a call for which either tier may answer."""
    return _move(score, weight, strong.gain_s - weak.gain_s)


def weigh_draft(score: float, weight: float, strong: Residence, weak: Residence) -> float:
    """The score of a call that begins with a draft: the weak tier reads it for a guess."""
    return _move(score, weight, strong.gain_s + weak.read_s)


def _move(score: float, weight: float, saved_s: float) -> float:
    moved = score + weight * min(max(saved_s, -GPU_S_MAX), GPU_S_MAX)
    return min(max(moved, 0.0), 1.0)
