"""The table of `make faults`, and its place in docs/guarantees.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.outcomes.account import Account
from tests.outcomes.outcome import FAILED, Outcome

BEGIN = "<!-- written by `make faults` -->"
END = "<!-- end of what `make faults` writes -->"
HEAD = (
    "| fault | calls | in flight | answered | refused | error event | connection broken "
    "| no connection | cancelled | lost, truncated, mixed | leaked | files left "
    "| `auto` calls fail for, s | slowest `auto` answer, s | whole again after, s |"
)
COUNTED = (
    Outcome.ANSWERED,
    Outcome.REFUSED,
    Outcome.ERROR_EVENT,
    Outcome.BROKEN,
    Outcome.UNREACHABLE,
    Outcome.CANCELLED,
)


@dataclass(frozen=True)
class FaultRow:
    """What one trial of a fault came to."""

    fault: str
    outcomes: dict[str, int]
    in_flight: int
    wrong: list[str]
    leaked: list[str]
    files: list[str]
    failing_s: float
    longest_s: float
    whole_s: float

    @property
    def calls(self) -> int:
        """All calls of the trial."""
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        """Calls that failed with a reason that their clients saw."""
        return sum(self.outcomes.get(outcome, 0) for outcome in FAILED)

    @property
    def refused(self) -> int:
        """Calls that got a status and an error object."""
        return self.outcomes.get(Outcome.REFUSED, 0)

    def check(self) -> None:
        """Raise AssertionError if a call has a wrong outcome, or something is held for ever.

        Files are reported only.
        """
        assert not self.wrong, f"{self.fault}: {self.wrong}"
        assert not self.leaked, f"{self.fault}: {self.leaked}"

    def render(self) -> str:
        """A line of the table."""
        counts = [str(self.outcomes.get(outcome, 0)) for outcome in COUNTED]
        cells = [self.fault, f"{self.calls:,}", str(self.in_flight), *counts]
        cells += ["; ".join(self.wrong) or "0"]
        cells += [str(len(self.leaked)), str(len(self.files))]
        cells += [f"{time_s:.1f}" for time_s in (self.failing_s, self.longest_s, self.whole_s)]
        return f"| {' | '.join(cells)} |"


def make_row(
    fault: str, account: Account, leaks: list[str], files: list[str], whole_s: float
) -> FaultRow:
    """The row of a trial."""
    outcomes = {str(outcome): count for outcome, count in account.outcomes.items()}
    return FaultRow(
        fault,
        outcomes,
        account.in_flight,
        account.wrong(),
        leaks,
        files,
        account.failing_s,
        account.longest_s,
        whole_s,
    )


def append_row(row: FaultRow, path: Path) -> None:
    """Add a row to a file of rows."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def read_rows(path: Path) -> list[FaultRow]:
    """The rows of a file, none if there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [FaultRow(**json.loads(line)) for line in lines]


def render_table(rows: Sequence[FaultRow], where: str) -> str:
    """The table, below a line that says when and where it was measured."""
    rule = "|---" + "|---:" * (HEAD.count("|") - 2) + "|"
    return "\n".join([where, "", HEAD, rule, *(row.render() for row in rows)])


def write_between_markers(page: str, table: str) -> str:
    """The page with this table in the place of the one before.

    Raises:
        ValueError: the page has no place for it.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page lacks the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"
