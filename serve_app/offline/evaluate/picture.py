"""Draw quality over cost: the share of right answers at each share of strong calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from serve_app.offline.evaluate.summary import ModelSummary, Share, Summary, find_weak

_WIDTH, _HEIGHT = 960, 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 920, 80, 570
_INK, _PALE, _MIX = "#202020", "#d8d8d8", "#808080"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
_RADIUS, _WHISKER, _DASH = 7, 6, 8

Point = tuple[float, float]


def draw_picture(summary: Summary, path: Path) -> None:
    """Write a PNG. A model whose share of strong calls is unknown is left out."""
    Picture(summary).image.save(path, format="PNG")


def choose_floor(lowest: float) -> float:
    """The tenth below the lowest accuracy that is drawn."""
    return min(0.9, max(0.0, math.floor(10 * lowest) / 10))


class Canvas:
    """The axes: share of strong calls to the right, accuracy upwards from a floor."""

    def __init__(self, title: str, floor: float) -> None:
        self.image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
        self._draw = ImageDraw.Draw(self.image)
        self._floor = floor
        self._draw_axes(title)

    def draw_curve(self, points: Sequence[Point], colour: str) -> None:
        """A line through points of strong share and accuracy."""
        self._draw.line([self._place(*point) for point in points], fill=colour, width=3)

    def draw_dashes(self, begin: Point, end: Point, label: str) -> None:
        """A dashed straight line, labelled in its middle."""
        (x0, y0), (x1, y1) = self._place(*begin), self._place(*end)
        steps = round(math.hypot(x1 - x0, y1 - y0) / _DASH)
        for step in range(0, steps, 2):
            ends_at = [step / steps, min(1.0, (step + 1) / steps)]
            dash = [(x0 + at * (x1 - x0), y0 + at * (y1 - y0)) for at in ends_at]
            self._draw.line(dash, fill=_MIX, width=2)
        self._write(((x0 + x1) / 2, (y0 + y1) / 2 + 16), label, colour=_MIX, anchor="lm")

    def draw_legend(self, labels: Sequence[tuple[str, str]]) -> None:
        """Text and its colour, a line each, in the lower right corner."""
        for index, (text, colour) in enumerate(reversed(labels)):
            self._write((_RIGHT - 14, _BOTTOM - 20 - 22 * index), text, colour=colour, anchor="rm")

    def _place(self, strong_ratio: float, accuracy: float) -> Point:
        height = (accuracy - self._floor) / (1 - self._floor)
        return _LEFT + strong_ratio * (_RIGHT - _LEFT), _BOTTOM - height * (_BOTTOM - _TOP)

    def _draw_axes(self, title: str) -> None:
        self._write((_LEFT, 24), title, size=20, anchor="lm")
        for percent in range(0, 101, 20):
            x, _ = self._place(percent / 100, 1.0)
            self._draw.line([(x, _TOP), (x, _BOTTOM)], fill=_PALE)
            self._write((x, _BOTTOM + 16), f"{percent}", anchor="mm")
        for percent in range(round(100 * self._floor), 101, 10):
            _, y = self._place(0.0, percent / 100)
            self._draw.line([(_LEFT, y), (_RIGHT, y)], fill=_PALE)
            self._write((_LEFT - 12, y), f"{percent}", anchor="rm")
        self._draw.rectangle([(_LEFT, _TOP), (_RIGHT, _BOTTOM)], outline=_INK)
        self._write(((_LEFT + _RIGHT) / 2, _BOTTOM + 48), "strong calls, %", anchor="mm")
        self._write((12, _TOP - 22), "right, % (95 % interval)", anchor="lm")

    def _write(
        self, at: Point, text: str, *, anchor: str, colour: str = _INK, size: int = 16
    ) -> None:
        font = ImageFont.load_default(size)
        self._draw.text(at, text, fill=colour, font=font, anchor=anchor)


class Picture(Canvas):
    """The drawing; `image` has it when the constructor is done."""

    def __init__(self, summary: Summary) -> None:
        points = [
            (model, model.accuracy, model.strong_ratio)
            for model in summary.models
            if model.accuracy is not None and model.strong_ratio is not None
        ]
        lows = [share.interval.low for _, share, _ in points]
        # Down to the tenth below the lowest interval, so that small differences can be seen.
        floor = choose_floor(min(lows, default=0.0))
        super().__init__(
            f"{summary.dataset}: quality over cost, {summary.questions} questions", floor
        )
        self._draw_random_mix(summary)
        for index, (model, share, strong_ratio) in enumerate(points):
            self._draw_model(model, share, strong_ratio, COLOURS[index % len(COLOURS)])

    def _draw_random_mix(self, summary: Summary) -> None:
        """The dashed line that a router must beat: any share of the calls, chosen by a coin."""
        models = {model.model: model for model in summary.models}
        weak = find_weak(
            {name: model.strong_ratio for name, model in models.items()}, summary.strong
        )
        ends = [models.get(name) for name in (weak, summary.strong) if name is not None]
        shares = [
            end.accuracy.ratio for end in ends if end is not None and end.accuracy is not None
        ]
        if len(shares) != 2:
            return
        self.draw_dashes((0.0, shares[0]), (1.0, shares[1]), "random mix")

    def _draw_model(
        self, model: ModelSummary, share: Share, strong_ratio: float, colour: str
    ) -> None:
        x, y = self._place(strong_ratio, share.ratio)
        _, low = self._place(strong_ratio, share.interval.low)
        _, high = self._place(strong_ratio, share.interval.high)
        self._draw.line([(x, low), (x, high)], fill=colour, width=2)
        for end in (low, high):
            self._draw.line([(x - _WHISKER, end), (x + _WHISKER, end)], fill=colour, width=2)
        self._draw.ellipse([(x - _RADIUS, y - _RADIUS), (x + _RADIUS, y + _RADIUS)], fill=colour)
        # To the side where there is room, and off the dashed line, which mostly rises.
        side, anchor = (-14, "rm") if strong_ratio > 0.5 else (14, "lm")
        below = -12 if strong_ratio > 0 else 12
        label = f"{model.model}  {100 * share.ratio:.1f} %"
        self._write((x + side, y + below), label, colour=colour, anchor=anchor)
