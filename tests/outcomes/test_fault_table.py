"""The table of faults, and its place in the docs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.outcomes.account import Account
from tests.outcomes.fault_table import (
    BEGIN,
    END,
    HEAD,
    append_row,
    make_row,
    read_rows,
    render_table,
    write_between_markers,
)
from tests.outcomes.outcome import Ending, Seen

ROOT = Path(__file__).parents[2]
ACCOUNT = Account([1, 2], [Seen(1, True, Ending.BROKEN, 0.0, 2.0)], fault_s=1.0)
ROW = make_row("a Router is killed", ACCOUNT, ["1 request in engines"], ["psm_1", "psm_2"], 12.34)


def test_a_row_says_everything() -> None:
    """The wrong outcomes in words, and a number in every other column."""
    assert ROW.render() == (
        "| a Router is killed | 2 | 1 | 0 | 0 | 0 | 1 | 0 | 0 | 1 lost | 1 | 2 | 1.0 | 0.0 | 12.3 |"
    )


def test_a_row_that_is_not_square_fails_its_test() -> None:
    """By a wrong outcome, and by what is held."""
    with pytest.raises(AssertionError, match="1 lost"):
        ROW.check()
    with pytest.raises(AssertionError, match="1 request"):
        replace(ROW, wrong=[]).check()
    replace(ROW, wrong=[], leaked=[]).check()
    assert (ROW.failed, ROW.refused) == (1, 0)


def test_rows_survive_their_file(tmp_path: Path) -> None:
    """Each test adds its row; the command reads them all."""
    path = tmp_path / "rows.jsonl"
    assert read_rows(path) == []
    append_row(ROW, path)
    append_row(ROW, path)
    assert read_rows(path) == [ROW, ROW]


def test_a_table_has_as_many_columns_in_each_line() -> None:
    """Head, rule and rows."""
    head, rule, row = render_table([ROW], "Measured somewhere.").splitlines()[2:]
    assert head == HEAD
    assert head.count("|") == rule.count("|") == row.count("|")


def test_a_table_takes_the_place_of_the_one_before() -> None:
    """And of nothing else."""
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    written = write_between_markers(page, "new")
    assert written == f"above\n{BEGIN}\nnew\n{END}\nbelow\n"
    assert write_between_markers(written, "new") == written


def test_a_page_without_a_place_is_an_error() -> None:
    """It is not appended somewhere."""
    with pytest.raises(ValueError, match="lacks the lines"):
        write_between_markers("above", "new")


def test_the_page_has_the_place() -> None:
    """docs/guarantees.md has both markers, once."""
    page = (ROOT / "docs/guarantees.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1
