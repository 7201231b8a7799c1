"""Labels that a service makes by itself, against the questions' own checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from serve_app.feedback.compare import same
from serve_app.offline.evaluate.stats import Interval, wilson
from serve_app.offline.probing.rows import Row

Label = tuple[float, float]
"""How right fast's and strong's answers are, 0 to 1."""
Labeller = Callable[[Row], Label | None]
"""None: the row gets no label."""

VOTE_MIN = 0.5
CHECKED = "the questions' own checks"
MATCH = "match with strong"
VOTES = "agreement of samples"


def label_checked(row: Row) -> Label | None:
    """What the questions' own checks say of both answers."""
    return float(row.fast_right), float(row.strong_right)


def label_match(row: Row) -> Label | None:
    """As `compare: match` does: strong's answer counts as right."""
    alike = same(row.fast, row.strong)
    return None if alike is None else (float(alike), 1.0)


def vote_share(row: Row) -> float:
    """The share of the samples that say what fast's answer says."""
    votes = [same(row.fast, sample) is True for sample in row.samples]
    return sum(votes) / len(votes)


def label_votes(row: Row) -> Label | None:
    """Fast's answer is as right as its own samples agree with it; strong's counts as right."""
    return vote_share(row), 1.0


def label_judged(language: str) -> Labeller:
    """As `compare: judge` does: both orders must give the same verdict; equal answers are right."""

    def label(row: Row) -> Label | None:
        if same(row.fast, row.strong):
            return 1.0, 1.0
        verdict = row.verdicts.get(f"{language} ab")
        if verdict is None or row.verdicts.get(f"{language} ba") != verdict:
            return None
        return float(verdict[0]), float(verdict[1])

    return label


LABELLERS: Mapping[str, Labeller] = {
    MATCH: label_match,
    VOTES: label_votes,
    "judge, English prompt, both orders": label_judged("en"),
    "judge, Chinese prompt, both orders": label_judged("zh"),
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often labels say of each model what the checks say; shares, 0 to 1."""

    name: str
    rows: int
    labelled: int
    fast: float
    fast_interval: Interval
    strong: float
    wrongly_right: int
    """Fast's answers that are wrong and labelled as right."""
    wrongly_wrong: int


def judge_labels(rows: Sequence[Row]) -> Iterator[Agreement]:
    """Every labeller on the same rows."""
    for name, labeller in LABELLERS.items():
        pairs = [(row, label) for row in rows if (label := labeller(row)) is not None]
        if not pairs:
            yield Agreement(name, len(rows), 0, 0.0, Interval(0.0, 1.0), 0.0, 0, 0)
            continue
        fast = [(label[0] > VOTE_MIN, row.fast_right) for row, label in pairs]
        agreed = sum(told == right for told, right in fast)
        strong = sum((label[1] > VOTE_MIN) == row.strong_right for row, label in pairs)
        yield Agreement(
            name,
            len(rows),
            len(pairs),
            agreed / len(pairs),
            wilson(agreed, len(pairs)),
            strong / len(pairs),
            fast.count((True, False)),
            fast.count((False, True)),
        )


@dataclass(frozen=True, slots=True)
class Bias:
    """What a judge goes by, over both orders of every pair of different answers.

    `steady` pairs have the same verdict in both orders. `one_sided` verdicts call one answer alone
    right: `first` and `longer` are the shares of these that chose the first and the longer answer.
    `longer_is_right` is the share of pairs with one right answer, not equally long, whose longer
    answer is the right one. `right` is the share of the verdicts on answers that the checks
    confirm.
    """

    language: str
    pairs: int
    steady: float
    says_right: float
    one_sided: int
    first: float
    longer: float
    longer_is_right: float
    right: float


def measure_bias(rows: Sequence[Row], language: str) -> Bias | None:
    """None where no pair has both verdicts."""
    pairs = [
        (row, row.verdicts[f"{language} ab"], row.verdicts[f"{language} ba"])
        for row in rows
        if {f"{language} ab", f"{language} ba"} <= row.verdicts.keys()
        and not same(row.fast, row.strong)
    ]
    if not pairs:
        return None
    # Of each verdict: whether fast stood first, and what was said of fast and strong.
    verdicts = [(row, order == 0, both[order]) for row, *both in pairs for order in (0, 1)]
    one_sided = [each for each in verdicts if each[2][0] != each[2][1]]
    unequal = [each for each in one_sided if len(each[0].fast) != len(each[0].strong)]
    decided = [
        row
        for row, *_ in pairs
        if row.fast_right != row.strong_right and len(row.fast) != len(row.strong)
    ]
    confirmed = sum(
        (told[0] == row.fast_right) + (told[1] == row.strong_right) for row, _, told in verdicts
    )
    return Bias(
        language,
        len(pairs),
        _share([straight == swapped for _, straight, swapped in pairs]),
        _share([told for _, _, both in verdicts for told in both]),
        len(one_sided),
        _share([told[0] == fast_first for _, fast_first, told in one_sided]),
        _share([told[0] == _fast_longer(row) for row, _, told in unequal]),
        _share([row.fast_right == _fast_longer(row) for row in decided]),
        confirmed / (2 * len(verdicts)),
    )


def _fast_longer(row: Row) -> bool:
    return len(row.fast) > len(row.strong)


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
