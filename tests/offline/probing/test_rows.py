"""What the engines said, on disk; and all tables of it."""

from __future__ import annotations

from pathlib import Path

from serve_app.offline.learning.options import Options
from serve_app.offline.probing.command import build_grids, read
from serve_app.offline.probing.questions import draw_questions
from serve_app.offline.probing.rows import Cost, read_rows, write_rows
from tests.offline.probing.fakes import draw_rows, row

COST = Cost("one token", 10, 12.0, 7.0, 20.0, 30.0, 1.0)


def test_rows_come_back(tmp_path: Path) -> None:
    """With their verdicts, and the costs beside them."""
    rows = [row("a", verdicts={"en ab": (True, False)}), row("b")]
    write_rows(tmp_path / "rows.jsonl", rows, [COST])
    read_back, costs = read_rows(tmp_path / "rows.jsonl")
    assert list(read_back) == rows
    assert costs == [COST]


def test_all_tables(tmp_path: Path) -> None:
    """The command's report from a file of rows; every table has rows but the judge's biases."""
    questions = list(draw_questions(0.1))
    write_rows(tmp_path / "rows.jsonl", draw_rows(questions), [COST])
    quick = Options(folds=2, resamples=5, anchors=0, strength=1.0, reserve_ratio=0.0)
    grids = list(build_grids(*read(tmp_path / "rows.jsonl", 0.1), quick))
    assert [bool(grid.rows) for grid in grids] == [True] * 9 + [False]
    assert all(len(each) == len(grid.header) for grid in grids for each in grid.rows)
