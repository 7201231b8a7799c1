"""Draws what policies made of a trace: the calls that came, and the replicas of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from serve_app.offline.bench.scaling_runs import Run
from serve_app.offline.evaluate.picture import COLOURS
from serve_app.offline.simulation.trace import Trace

_WIDTH, _PANEL, _LEFT, _RIGHT, _TOP, _GAP = 900, 120, 60, 16, 34, 34
_INK, _PALE = "#202020", "#dddddd"
_BIN_S = 30.0

Curve = Sequence[tuple[float, float]]


def draw_runs(title: str, trace: Trace, runs: Mapping[str, Run], path: Path) -> None:
    """Writes a PNG: calls a second, then for each policy its replicas ordered (pale) and ready."""
    panels = 1 + len(runs)
    height = _TOP + panels * (_PANEL + _GAP)
    image = Image.new("RGB", (_WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    draw.text((_LEFT, 8), title, fill=_INK, font=font)
    top = max(shown[1] for run in runs.values() for shown in run.picture)
    rates = _rates(trace)
    _draw_panel(draw, 0, "calls a second", [(rates, _INK, 2)], trace.length_s)
    for index, (name, run) in enumerate(runs.items()):
        colour = COLOURS[index % len(COLOURS)]
        ordered = [(shown[0], float(shown[1])) for shown in run.picture]
        ready = [(shown[0], float(shown[2])) for shown in run.picture]
        outcome = run.outcome
        text = (
            f"{name}: replicas ordered (grey) and ready; "
            f"{100 * outcome.missed_ratio:.1f} % missed, {outcome.gpu_hours:.1f} GPU-h"
        )
        curves = [(ordered, "#b0b0b0", 3), (ready, colour, 2)]
        _draw_panel(draw, index + 1, text, curves, trace.length_s, top)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(32).save(path, format="PNG", optimize=True)


def _rates(trace: Trace) -> Curve:
    bins = int(trace.length_s // _BIN_S)
    counted, edges = np.histogram(trace.arrived_s, bins=bins, range=(0.0, bins * _BIN_S))
    return [
        (float(edge), float(count) / _BIN_S) for edge, count in zip(edges, counted, strict=False)
    ]


def _draw_panel(
    draw: ImageDraw.ImageDraw,
    index: int,
    text: str,
    curves: Sequence[tuple[Curve, str, int]],
    length_s: float,
    top: float | None = None,
) -> None:
    high = top or max(value for curve, _, _ in curves for _, value in curve)
    upper = _TOP + index * (_PANEL + _GAP) + 20
    lower, font = upper + _PANEL, ImageFont.load_default(12)
    draw.text((_LEFT, upper - 17), text, fill=_INK, font=font)
    for minute in range(0, int(length_s // 60) + 1, 10):
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * minute * 60 / length_s
        draw.line([(x, upper), (x, lower)], fill=_PALE)
        draw.text((x, lower + 1), str(minute), fill=_INK, font=font, anchor="mt")
    for value in (0.0, high):
        y = lower - _PANEL * value / high
        draw.text((_LEFT - 6, y), f"{value:.0f}", fill=_INK, font=font, anchor="rm")
    draw.rectangle([(_LEFT, upper), (_WIDTH - _RIGHT, lower)], outline=_INK)
    for curve, colour, width in curves:
        points: list[tuple[float, float]] = []
        for at_s, value in curve:
            if at_s > length_s:
                break
            x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * at_s / length_s
            y = lower - _PANEL * value / high
            if points:
                points.append((x, points[-1][1]))
            points.append((x, y))
        draw.line(points, fill=colour, width=width)
