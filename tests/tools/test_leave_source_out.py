"""The table of what the start weights are worth on unseen sources."""

from __future__ import annotations

from pathlib import Path

import leave_source_out
import orjson

from tests.offline.learning.fakes import draw_metals


def write(path: Path, sources: int, seed: int) -> leave_source_out.Sources:
    lines = [
        {
            "prompt": call.text,
            "small_score": call.fast,
            "large_score": call.strong,
            "source": f"{seed}.{number % sources}",
        }
        for number, call in enumerate(draw_metals(90, seed))
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return leave_source_out.read_sources(path)


def test_each_source_has_a_row(tmp_path: Path) -> None:
    """Those that were learnt from, each left out, and others, with both recipes and two peers."""
    given, other = write(tmp_path / "a", 3, 1), write(tmp_path / "b", 1, 2)
    rows = list(leave_source_out.judge_sources(given, [other], anchors=10))
    assert [row.split(" | ")[0] for row in rows] == ["| 1.0", "| 1.1", "| 1.2", "| 2.0"]
    assert all(row.count("±") == 4 for row in rows)
