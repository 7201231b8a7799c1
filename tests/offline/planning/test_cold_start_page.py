"""docs/cold-start.md: its seconds are those of `serve-app plan`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serve_app.config.reader import read_serve_config
from serve_app.offline.planning.plan import Options, plan_tier

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/cold-start.md").read_text()
ROWS = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| [^|]+ \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.M)


@pytest.mark.parametrize(("way", "gb_s", "fast", "strong"), ROWS)
def test_seconds_to_load_are_those_of_the_plan(way: str, gb_s: str, fast: str, strong: str) -> None:
    """For the models of configs/prod.yaml, at the bandwidth of the row."""
    options = Options(disk_gb_s=float(gb_s))
    for tier in read_serve_config(ROOT / "configs/prod.yaml").app.tiers:
        cost = plan_tier(tier, options).variants[0].cost
        assert cost is not None
        written = {"fast": fast, "strong": strong}[tier.name]
        digits = len(written.partition(".")[2])
        assert f"{cost.load_s:.{digits}f}" == written, way


def test_bandwidths_are_bytes_over_published_seconds() -> None:
    """8.03 B parameters in 16 bit, over the seconds that the row cites."""
    cited = re.findall(r"\| ([\d.]+) \| \[1\] (?:16\.1 GB in )?([\d.]+) s \|", PAGE)
    assert len(cited) == 3
    for gb_s, seconds in cited:
        assert round(8.03 * 2 / float(seconds), 2) == pytest.approx(float(gb_s), abs=0.006)
