"""The access log: one JSON line a call, nothing of what was said in it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.core.call import Decision, Draft, Endpoint, Outcome, Reason, Record, Usage
from serve_app.observe.access_log import AccessLog, render_line
from serve_app.observe.log_files import UNLOCKED_S

KEYS = {
    "time", "request_id", "endpoint", "stream", "status", "outcome", "code", "tier", "model",
    "reason", "score", "threshold", "first_byte_ms", "total_ms", "prompt_tokens",
    "completion_tokens",
}  # fmt: skip

DRAFT_KEYS = {
    "draft_tier", "escalated", "confidence", "draft_mean_probability", "draft_min_probability",
    "draft_prompt_tokens", "draft_completion_tokens",
}  # fmt: skip

ANSWERED = Record(
    "r-1",
    Endpoint.CHAT,
    stream=True,
    arrived_at=1_700_000_000.1234,
    decision=Decision("strong", "demo-strong", Reason.COMPLEX, 0.75, 0.5),
    status=200,
    first_byte_s=0.0123456,
    total_s=1.5,
    usage=Usage(7, 12),
)
REFUSED = Record(
    "r-2",
    Endpoint.MESSAGES,
    stream=False,
    arrived_at=1_700_000_001.0,
    status=400,
    code="invalid_json",
    outcome=Outcome.CLIENT_ERROR,
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AccessLog]:
    """An access log in a file; its handler is closed afterwards."""
    log = AccessLog(tmp_path / "access.jsonl")
    yield log
    log.close()


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            ANSWERED,
            {
                "time": "2023-11-14T22:13:20.123+00:00",
                "endpoint": "/v1/chat/completions",
                "stream": True,
                "outcome": "ok",
                "code": None,
                "tier": "strong",
                "model": "demo-strong",
                "reason": "complex",
                "score": 0.75,
                "threshold": 0.5,
                "first_byte_ms": 12.35,
                "total_ms": 1500.0,
                "prompt_tokens": 7,
                "completion_tokens": 12,
            },
        ),
        (
            REFUSED,
            {
                "endpoint": "/v1/messages",
                "status": 400,
                "outcome": "client_error",
                "code": "invalid_json",
                "tier": None,
                "model": None,
                "reason": None,
                "score": None,
                "first_byte_ms": None,
                "prompt_tokens": None,
            },
        ),
    ],
    ids=["decided", "undecided"],
)
def test_a_line_is_flat_and_closed(record: Record, expected: dict[str, object]) -> None:
    """A line has these keys and no others, so that no prompt or answer can get into it."""
    line = render_line(record)
    assert set(line) == KEYS
    assert json.loads(json.dumps(line)) == line
    assert not any(isinstance(value, (dict, list)) for value in line.values())
    assert {key: line[key] for key in expected} == expected


def test_a_draft_has_keys_of_its_own() -> None:
    """What a cascade began with is told beside its answer, and is enough to fit its map to."""
    draft = Draft("fast", True, 0.1234567, 0.5, 0.25, Usage(7, 16))
    line = render_line(replace(ANSWERED, draft=draft))
    assert set(line) == KEYS | DRAFT_KEYS
    assert (line["completion_tokens"], line["draft_completion_tokens"]) == (12, 16)
    assert (line["draft_tier"], line["escalated"], line["confidence"]) == ("fast", True, 0.12346)
    failed = render_line(replace(ANSWERED, draft=Draft("fast", discarded=True)))
    assert (failed["confidence"], failed["draft_completion_tokens"]) == (None, None)


def test_every_batch_is_written_once_in_order(log: AccessLog, tmp_path: Path) -> None:
    """A line for each call; a batch without calls writes nothing."""
    path = tmp_path / "access.jsonl"
    log.write([])
    assert path.read_text() == ""
    log.write([ANSWERED, REFUSED])
    log.write([])
    log.write([ANSWERED])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [render_line(record) for record in (ANSWERED, REFUSED, ANSWERED)]


def test_without_a_directory_lines_go_to_the_process_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where Ray Serve keeps no files, the lines are still there."""
    log = AccessLog(None)
    log.write([REFUSED])
    log.close()
    assert json.loads(capsys.readouterr().err)["request_id"] == "r-2"


def dead_router(directory: Path, name: str, *, age_s: float, locked: bool = True) -> Path:
    """The log of a Router that has ended, and one that it had rotated: 2,000 bytes."""
    path = directory / f"access_{name}.jsonl"
    log = AccessLog(path)
    log.close()
    for file in (path, directory / f"{path.name}.1"):
        file.write_bytes(b"x" * 1000)
        os.utime(file, (time.time() - age_s,) * 2)
    if not locked:
        (directory / f".{path.name}.lock").unlink()
    return path


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_logs_of_dead_routers_make_room_the_oldest_first(tmp_path: Path) -> None:
    """With what they had rotated; those of living Routers stay, however old and large."""
    living_path = tmp_path / "access_living.jsonl"
    living = AccessLog(living_path)
    living_path.write_bytes(b"x" * 5000)
    os.utime(living_path, (0, 0))
    oldest = dead_router(tmp_path, "oldest", age_s=300)
    newer = dead_router(tmp_path, "newer", age_s=200)
    (tmp_path / "router.log").write_bytes(b"x" * 9000)
    log = AccessLog(tmp_path / "access_new.jsonl", directory_bytes_max=8000)
    log.write([])
    assert not {name for name in files(tmp_path) if oldest.name in name}
    assert {newer.name, f"{newer.name}.1", living_path.name, "router.log"} <= files(tmp_path)
    for opened in (log, living):
        opened.close()


def test_a_log_without_a_lock_is_old_before_it_goes(tmp_path: Path) -> None:
    """A Router of an older version may still write it."""
    recent = dead_router(tmp_path, "recent", age_s=60, locked=False)
    old = dead_router(tmp_path, "old", age_s=UNLOCKED_S + 60, locked=False)
    log = AccessLog(tmp_path / "access_new.jsonl", directory_bytes_max=0)
    log.write([ANSWERED])
    log.close()
    assert recent.name in files(tmp_path)
    assert old.name not in files(tmp_path)
    assert (tmp_path / "access_new.jsonl").read_text()
