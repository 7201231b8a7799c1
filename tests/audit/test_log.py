"""The interface for the Router: what it refuses to start with, and what it tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from serve_app.assemble import Plan, StepsOwner
from serve_app.audit.seal import write_keys
from serve_app.audit.waiting import WaitingRecords
from serve_app.config.app import AppConfig
from serve_app.config.audit import AuditConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.content import Content
from tests.audit.conftest import Place, make_record, read_lines

APP = AppConfig(tiers=(TierConfig(name="fast", model_id="m"),))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"directory": "log"}, "'log' is relative"),
        ({"key_file": "audit.key"}, "'audit.key' is relative"),
        ({"key_file": "/log/keys/audit.key"}, "is inside directory"),
        ({"key_file": "/log/../log/audit.key"}, "is inside directory"),
        ({"state_directory": "/log/state"}, "is inside directory"),
        ({"redact": ["emial"]}, "none of the built-in patterns"),
        ({"content": ["everything"]}, "'prompts' or 'answers'"),
    ],
)
def test_wrong_configs(fields: dict[str, object], words: str) -> None:
    """What proves the log does not lie in the log, and texts are redacted by known patterns."""
    with pytest.raises(ValidationError, match=words):
        AuditConfig.model_validate({"directory": "/log", "key_file": "/keys/a.key", **fields})


def test_a_log_that_cannot_be_made(place: Place) -> None:
    """One line names the key of the config."""
    (place.root / "file").write_text("")
    (place.keys / "open.key").write_bytes((place.keys / "audit.key").read_bytes())
    (place.keys / "open.key").chmod(0o644)
    cases = {
        "audit.key_file: .*keygen": {"key_file": str(place.keys / "none.key")},
        "audit.key_file: .*no private": {"key_file": str(place.keys / "audit.key.pub")},
        "audit.key_file: .*every user": {"key_file": str(place.keys / "open.key")},
        "audit.key_file: .*no key file": {"key_file": str(place.root / "file")},
        "audit.directory: .*cannot be made": {"directory": str(place.root / "file/log")},
    }
    for words, changes in cases.items():
        with pytest.raises(ValueError, match=words):
            place.open(**changes)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written(place: Place) -> None:
    """A directory that a secret is mounted to needs a state directory beside it."""
    place.keys.chmod(0o500)
    with pytest.raises(ValueError, match=r"audit.state_directory: .*cannot be written"):
        place.open()


async def test_a_new_config_makes_a_new_log(place: Place) -> None:
    """The old log is kept for the calls in flight, in a chain of its own; the same config keeps
    the same log."""
    runtime = RuntimeConfig(audit=place.config())
    owner = StepsOwner(Plan(APP, runtime, "r1"))
    owner.start()
    first = owner.steps.audit
    owner.take(*owner.prepare(runtime))
    assert owner.steps.audit is first
    changed = RuntimeConfig(audit=place.config(fsync_s=0.01))
    owner.take(*owner.prepare(changed))
    second = owner.steps.audit
    assert first is not None
    assert second is not None
    assert second is not first
    first.add(make_record(1))
    second.add(make_record(2))
    await owner.close()
    assert sorted(report.calls for report in place.verify()) == [1, 1]
    assert place.findings() == []


async def test_every_record_is_on_disk_after_the_end(place: Place) -> None:
    """`close` writes what waits."""
    log = place.open(fsync_s=60)
    log.start()
    log.start()
    for number in range(2500):
        log.add(make_record(number))
    await log.close()
    assert (log.state().written, log.state().waiting) == (2500, 0)
    [report] = place.verify()
    assert (report.calls, report.findings) == (2500, [])


async def test_an_event_of_a_webhook_is_a_record_of_its_own(place: Place) -> None:
    """In the chain, between the calls; it is no call."""
    log = place.open()
    log.add(make_record())
    log.note("webhook", {"event_id": "evt_1", "fate": "delivered"})
    log.start()
    await log.close()
    [report] = place.verify()
    assert (report.calls, report.findings) == (1, [])
    [line] = [one for one in read_lines(place.files()[0]) if b'"kind":"webhook"' in one]
    assert b'"event_id":"evt_1","fate":"delivered"' in line


def test_notes_that_no_disk_takes_are_bounded() -> None:
    """The oldest is dropped."""
    waiting = WaitingRecords(2, keeps_all=True)
    for number in range(3):
        waiting.note("webhook", {"number": number})
    assert waiting.take_notes(9) == [("webhook", {"number": 1}), ("webhook", {"number": 2})]
    assert len(waiting) == 0


def test_the_bound_on_waiting_records() -> None:
    """Calls that were let in are recorded above the bound if the policy is to refuse; all other
    calls are counted, and the count is told once."""
    refuses, goes_on = WaitingRecords(2, keeps_all=True), WaitingRecords(2, keeps_all=False)
    for waiting in (refuses, goes_on):
        for number in range(3):
            waiting.put(make_record(number))
        waiting.put(make_record(9, decision=None, code="invalid_api_key"))
        waiting.put(make_record(9, decision=None, code="audit_unavailable"))
        assert waiting.full
    assert (len(refuses), refuses.missed.lost, refuses.missed.refused) == (3, 1, 1)
    assert (len(goes_on), goes_on.missed.lost, goes_on.missed.refused) == (2, 2, 1)
    goes_on.tell(goes_on.untold())
    assert (goes_on.untold().lost, goes_on.missed.lost) == (0, 2)


def test_texts_count_for_the_bound() -> None:
    """Long answers fill the queue sooner."""
    waiting = WaitingRecords(100, keeps_all=False, text_bytes_max=1000)
    content = Content([("user", "x" * 400)], 100)
    content.add(b"y" * 700)
    waiting.put(make_record(1, content=content))
    assert waiting.full
    waiting.take(10)
    assert not waiting.full


def test_a_record_that_cannot_be_rendered_takes_no_other_with_it(place: Place) -> None:
    """A fault of ours costs one record's fields, and the log says so."""
    log = place.open()
    log.add(make_record(1))
    log.add(make_record(2, caller=None))
    log.add(make_record(3, tenant="half \ud800 a pair"))
    log._writer.work(ends=True)
    text = b"".join(path.read_bytes() for path in place.files())
    assert text.count(b'"unrendered":true') == 1
    assert place.verify()[0].calls == 3
    assert place.findings() == []


def test_keys_are_not_overwritten(tmp_path: Path) -> None:
    """A second `keygen` would make old logs unverifiable."""
    write_keys(tmp_path / "audit.key")
    assert (tmp_path / "audit.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_keys(tmp_path / "audit.key")
