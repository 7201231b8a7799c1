"""The journal of the limits' owner, killed at a random moment."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from serve_app.limits.journal import SqliteJournal
from serve_app.limits.owner import Owner, SliceAsk
from serve_app.limits.windows import LimitWindow
from tests.killed import MOMENTS, kill_writer
from tests.limits.fakes import NOW
from tests.limits.samples import limit_of

PLENTY = limit_of(1_000_000_000, LimitWindow.MONTH)
PLACE_MS = 10_000


def hand_out_for_ever(directory: Path, sender: Connection) -> None:
    """An owner that hands out slices of a budget, and sends their sum."""
    owner, total = Owner(SqliteJournal(directory), PLACE_MS, NOW), 0
    while True:
        verdict = owner.take("router", [SliceAsk(PLENTY, 7, 0, 0)], NOW)
        total += verdict.slices[0].amount
        sender.send(total)


@pytest.mark.parametrize("seed", MOMENTS)
def test_what_was_handed_out_stays_charged(tmp_path: Path, seed: int) -> None:
    """The next owner counts every slice that a Router has got, so a budget is never spent twice."""
    totals = kill_writer(hand_out_for_ever, tmp_path, seed, __name__)
    journal = SqliteJournal(tmp_path)
    [standing] = Owner(journal, PLACE_MS, NOW).standings([PLENTY], NOW)
    journal.close()
    assert standing.used >= totals[-1]
