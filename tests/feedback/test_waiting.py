"""The samples of a Router on disk, and how another Router takes them over."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from serve_app.core.call import Endpoint, Turn
from serve_app.feedback.sample import Sample
from serve_app.feedback.waiting import OWNERS_MAX, WaitingSamples, parse_sample, render_sample


def document(name: str = "a") -> bytes:
    sample = Sample(name, Endpoint.CHAT, (Turn("user", "Hi"),), "42", "strong", True, b"")
    return render_sample(sample, [("user", "Hi")], "42", b'{"model":"demo-strong"}')


@pytest.fixture
def ended(tmp_path: Path) -> WaitingSamples:
    """A Router that has ended while two samples waited."""
    waiting = WaitingSamples(tmp_path, "r1")
    for name in ("a", "b"):
        waiting.keep(document(name))
    waiting.close()
    return waiting


def names(samples: list[Sample]) -> list[str]:
    return sorted(sample.request_id for sample in samples)


def test_a_sample_is_read_as_it_was_kept() -> None:
    """Every field that a label needs is in the file."""
    sample = parse_sample(document())
    assert (sample.endpoint, sample.answer, sample.other) == (Endpoint.CHAT, "42", "strong")
    assert (sample.turns, sample.other_is_large) == ((Turn("user", "Hi"),), True)
    assert sample.body == b'{"model":"demo-strong"}'


def test_the_samples_of_a_living_router_are_its_own(tmp_path: Path) -> None:
    """Nobody takes them over while it lives."""
    living, other = WaitingSamples(tmp_path, "r1"), WaitingSamples(tmp_path, "r2")
    kept = living.keep(document())
    assert other.adopt(10) == []
    assert kept.exists()
    living.close()
    assert names(other.adopt(10)) == ["a"]
    assert not kept.exists()
    other.close()


@pytest.mark.usefixtures("ended")
def test_one_router_takes_a_sample_over(tmp_path: Path) -> None:
    """Of two that look, one gets it; the directory of the ended Router goes."""
    first, second = WaitingSamples(tmp_path, "r2"), WaitingSamples(tmp_path, "r3")
    assert names(first.adopt(10)) == ["a", "b"]
    assert second.adopt(10) == []
    assert not (tmp_path / "waiting_r1").exists()
    first.close()


@pytest.mark.usefixtures("ended")
def test_no_more_are_taken_over_than_asked_for(tmp_path: Path) -> None:
    """The rest waits for the next look."""
    heir = WaitingSamples(tmp_path, "r2")
    assert len(heir.adopt(1)) == 1
    assert len(heir.adopt(10)) == 1
    heir.close()


def test_a_sample_that_outlives_router_after_router_is_given_up(tmp_path: Path) -> None:
    """It may be what ends them."""
    last = WaitingSamples(tmp_path, "r0")
    last.keep(document())
    for number in range(1, OWNERS_MAX):
        last.close()
        last = WaitingSamples(tmp_path, f"r{number}")
        assert names(last.adopt(10)) == ["a"]
    last.close()
    assert WaitingSamples(tmp_path, "last").adopt(10) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"{", b'{"request_id": "a"}', b"[]"])
def test_a_damaged_file_is_deleted(tmp_path: Path, ended: WaitingSamples, damage: bytes) -> None:
    """A loss of power may leave one; the other samples are taken over."""
    [first, _] = sorted((tmp_path / "waiting_r1").iterdir())
    first.write_bytes(damage)
    heir = WaitingSamples(tmp_path, "r2")
    assert len(heir.adopt(10)) == 1
    assert not (tmp_path / "waiting_r1").exists()
    heir.close()


def test_only_the_service_can_read_it(tmp_path: Path) -> None:
    """Directories have 0700, files 0600."""
    waiting = WaitingSamples(tmp_path / "log", "r1")
    kept = waiting.keep(document())
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (kept.parent, kept)]
    assert modes == [0o700, 0o600]
    waiting.clear()
    assert list((tmp_path / "log").iterdir()) == []


def test_other_files_in_the_directory_stay(tmp_path: Path, ended: WaitingSamples) -> None:
    """Only directories of waiting samples are looked at."""
    (tmp_path / "calls_r1.jsonl").write_bytes(b"{}\n")
    (tmp_path / "mine").mkdir()
    heir = WaitingSamples(tmp_path, "r2")
    heir.adopt(10)
    heir.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calls_r1.jsonl", "mine"]
