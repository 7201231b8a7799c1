"""Who is drawn for a call, and when a variant is rolled back."""

from __future__ import annotations

from collections import Counter

import pytest

from serve_app.config.variants import RollbackConfig, TierVariantsConfig
from serve_app.variants.trial import KEY_QUIET_S, Drawn, Signal, Trial
from tests.variants.samples import Clock, make_trial


def drawn_by(trial: Trial, keys: list[str | None]) -> Counter[str | None]:
    return Counter(trial.draw(key).variant for key in keys)


def end(trial: Trial, drawn: Drawn, *bad: Signal, number: int = 0, first: float = 0.1) -> None:
    trial.note_end(drawn, bad, f"call-{number}", first_token_s=first)


def send(trial: Trial, calls: int, bad: Signal | None, *, slow_s: float = 0.1) -> int | None:
    """Calls that end badly at the variant only; the number of the call that convicts it."""
    for number in range(calls):
        drawn = trial.draw(None)
        on_variant = drawn.variant is not None
        ends = [bad] if bad and on_variant else []
        end(trial, drawn, *ends, number=number, first=slow_s if on_variant else 0.1)
        if trial.out:
            return number
    return None


@pytest.mark.parametrize("keys", [[None] * 4000, [f"key-{n}" for n in range(4000)]])
def test_the_shares_are_kept(keys: list[str | None]) -> None:
    """Over calls without a key and over keys, within five standard deviations."""
    drawn = drawn_by(make_trial(shares={"next": 0.1, "other": 0.3}), keys)
    assert abs(drawn["next"] - 400) < 95
    assert abs(drawn["other"] - 1200) < 145
    assert drawn[None] == 4000 - drawn["next"] - drawn["other"]


def test_a_key_stays_where_it_was_drawn() -> None:
    """On every Router, and when the share of its variant grows; a new trial draws anew."""
    keys = [f"key-{n}" for n in range(500)]
    small, large = make_trial(), make_trial(seed=2, shares={"next": 0.3})
    chosen = {key for key in keys if small.draw(key).variant == "next"}
    assert chosen
    assert chosen < {key for key in keys if large.draw(key).variant == "next"}
    anew = make_trial(trial="second")
    assert {key for key in keys if anew.draw(key).variant == "next"} != chosen


@pytest.mark.parametrize("signal", [Signal.FAULTS, Signal.REFUSED])
def test_a_broken_variant_is_rolled_back(signal: Signal) -> None:
    """Within 120 calls at 10 %; then the incumbent has every call."""
    trial = make_trial()
    assert send(trial, 120, signal) is not None
    assert trial.out == {"next": signal.value}
    assert trial.shares == {}
    assert drawn_by(trial, [None] * 200) == {None: 200}


def test_a_slow_variant_is_rolled_back() -> None:
    """Its first tokens take twice as long as nearly all of the incumbent's."""
    trial = make_trial()
    assert send(trial, 400, None, slow_s=0.2) is not None
    assert trial.out == {"next": "slow"}


def test_a_little_slower_is_tolerated() -> None:
    """1.4 times the incumbent's 95th percentile, where 1.5 is allowed."""
    assert send(make_trial(), 2000, None, slow_s=0.14) is None


def test_a_disliked_variant_is_rolled_back() -> None:
    """Feedback names the call; the first judgement counts, and unknown calls are ignored."""
    trial = make_trial()
    for number in range(200):
        drawn = trial.draw(None)
        end(trial, drawn, number=number)
        if drawn.variant:
            for _ in range(9):
                trial.note_feedback(f"call-{number}", right=False)
        trial.note_feedback("a call of somebody else", right=False)
    assert trial.out == {"next": "disliked"}
    assert trial.tallies["next"].bad["disliked"] < 15


def test_praise_is_no_evidence() -> None:
    """A right answer says nothing against anybody, and closes the call to feedback."""
    trial = make_trial()
    drawn = trial.draw(None)
    end(trial, drawn)
    trial.note_feedback("call-0", right=True)
    trial.note_feedback("call-0", right=False)
    assert trial.tallies[drawn.variant or ""].bad == {}


def test_only_the_asked_signals_count() -> None:
    """`signals` without faults leaves refusals out as well; null rolls nothing back."""
    quiet = RollbackConfig(signals=("slow",))
    for rollback in (quiet, None):
        for signal in (Signal.FAULTS, Signal.REFUSED, Signal.DISLIKED):
            trial = make_trial(rollback=rollback)
            assert send(trial, 500, signal) is None
            assert trial.tallies["next"].bad[signal] > 0


def test_one_client_cannot_condemn_a_variant_at_once() -> None:
    """The bad ends of one key within ten seconds count once."""
    clock = Clock()
    trial = make_trial(clock)
    [key] = [key for key in map(str, range(50)) if trial.draw(key).variant == "next"][:1]
    for _ in range(100):
        end(trial, trial.draw(key), Signal.FAULTS)
    assert not trial.out
    for _ in range(10):
        clock.now += KEY_QUIET_S + 0.1
        end(trial, trial.draw(key), Signal.FAULTS)
    assert trial.out == {"next": "faults"}


def test_routers_convict_together() -> None:
    """What two Routers have seen is enough, although neither has seen enough."""
    first, second = make_trial(seed=1), make_trial(seed=2)
    for trial in (first, second):
        shares = trial.draw(None).shares
        for _ in range(3):
            end(trial, Drawn("next", shares), Signal.FAULTS)
    assert not first.out
    for _ in range(2):  # A report that comes twice counts once.
        first.merge("second", second.report())
    assert first.out == {"next": "faults"}
    assert first.total()["next"].calls == 6
    second.merge("first", first.report())
    assert second.out == {"next": "faults"}


def test_a_report_of_another_trial_is_ignored() -> None:
    """A Router that has not got the new config yet does not convict in the new trial."""
    old, new = make_trial(), make_trial(trial="second")
    send(old, 200, Signal.FAULTS)
    new.merge("old", old.report())
    assert not new.out


def test_a_variant_that_is_out_leaves_its_calls_to_the_incumbent() -> None:
    """The other variant's keys stay where they are, and its trial goes on."""
    trial = make_trial(shares={"next": 0.1, "other": 0.3})
    keys = [f"key-{n}" for n in range(300)]
    before = {key: trial.draw(key).variant for key in keys}
    trial.out["next"] = "faults"
    after = {key: trial.draw(key).variant for key in keys}
    assert all(after[key] == (None if was == "next" else was) for key, was in before.items())
    assert trial.draw(None).shares.keys() <= {"other"}


def test_all_to_the_variant_compares_nothing() -> None:
    """A promoted variant has no incumbent to be compared with."""
    trial = make_trial(shares={"next": 1.0})
    assert send(trial, 300, Signal.FAULTS) is None


def test_new_bounds_apply_to_what_was_seen() -> None:
    """Within the same trial; the evidence stays."""
    trial = make_trial(rollback=None)
    shares = make_trial().draw(None).shares
    trial.configure(TierVariantsConfig(shares={"next": 0.1}))
    for _ in range(3):
        end(trial, Drawn("next", shares), Signal.FAULTS)
    assert not trial.out
    trial.configure(
        TierVariantsConfig(shares={"next": 0.1}, rollback=RollbackConfig(false_alarm_ratio=0.5))
    )
    assert trial.out
