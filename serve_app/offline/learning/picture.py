"""Draw the value of a scorer: right answers over the share of strong calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.offline.evaluate.picture import COLOURS, Canvas, choose_floor

if TYPE_CHECKING:  # it brings scikit-learn along
    from serve_app.offline.learning.lesson import Report


def draw_curves(report: Report, title: str, path: Path) -> None:
    """Write a PNG: a curve for each scorer, and the straight line of chance."""
    lowest = min(min(curve.right) for curve in report.curves.values())
    canvas = Canvas(f"{title}: quality over cost, {report.records} calls", choose_floor(lowest))
    canvas.draw_dashes((0.0, report.fast_right), (1.0, report.strong_right), "random")
    labels = []
    # The first is drawn last, on top.
    for index, (name, curve) in reversed(list(enumerate(report.curves.items()))):
        colour = COLOURS[index % len(COLOURS)]
        canvas.draw_curve(list(zip(curve.shares, curve.right, strict=True)), colour)
        value = report.scorers[name].apgr.value
        labels.append((name if value is None else f"{name}, APGR {value:.3f}", colour))
    canvas.draw_legend(labels[::-1])
    canvas.image.save(path, format="PNG")
