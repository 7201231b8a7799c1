"""The audit log on the real stack: every dialect, real usage, and a Router that is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.audit.audit_report import read_calls
from serve_app.audit.seal import read_checker, write_keys
from serve_app.audit.verify import ChainReport, verify_directory
from tests.serve.service import Service, wait_for

pytestmark = pytest.mark.serve

MESSAGES = [{"role": "user", "content": "What is the capital of France? Mail me@example.org."}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "The capital of France is"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 16},
    "/v1/responses": {"input": MESSAGES, "store": False},
}
PRICES = {"tiers": {"fast": {"input": 1, "output": 2}, "strong": {"input": 10, "output": 20}}}


def ask_all(service: Service) -> None:
    for path, body in BODIES.items():
        for stream in (False, True):
            document = {**body, "stream": stream}
            answer = httpx.post(f"{service.base_url}{path}", json=document, timeout=120)
            assert answer.status_code == 200, answer.text


def verify(root: Path) -> ChainReport:
    checker = read_checker([root / "keys/audit.key.pub"])
    [report] = verify_directory(root / "log", root / "keys", checker)
    return report


def wait_for_calls(root: Path, count: int) -> list[dict[str, Any]]:
    def written() -> bool:
        directory = root / "log"
        return directory.exists() and len(list(read_calls(directory))) >= count

    wait_for(written, timeout_s=30, what=f"{count} records")
    return list(read_calls(root / "log"))


def test_every_call_is_recorded_and_a_kill_breaks_no_chain(local: Service, tmp_path: Path) -> None:
    """Tokens and money in every dialect, streamed or not; the next Router continues the chain."""
    (tmp_path / "keys").mkdir()
    write_keys(tmp_path / "keys/audit.key")
    audit = {
        "directory": str(tmp_path / "log"),
        "key_file": str(tmp_path / "keys/audit.key"),
        "content": ["prompts", "answers"],
        "fsync_s": 0.05,
    }
    local.deploy({"audit": audit, "prices": PRICES})
    ask_all(local)
    calls = wait_for_calls(tmp_path, 8)
    assert {(call["endpoint"], call["stream"]) for call in calls} == {
        (path, stream) for path in BODIES for stream in (False, True)
    }
    for call in calls:
        assert (call["outcome"], call["status"]) == ("ok", 200)
        assert call["prompt_tokens"] > 0
        assert call["completion_tokens"] > 0
        assert 0 < call["cost_nanos"] <= call["strong_cost_nanos"]
        assert call["answer"]
        assert call["prompt"]
    assert "me@example.org" not in str(calls)
    [router] = local.replica_processes("Router")
    router.kill()
    router.wait(30)
    wait_for(lambda: answers(local), timeout_s=120, what="another Router answers")
    ask_all(local)
    wait_for_calls(tmp_path, 17)
    report = verify(tmp_path)
    assert report.findings == []
    assert (report.killed, report.lost, report.refused) == (1, 0, 0)
    assert local.metric("ray_serve_app_audit_failing") == 0
    wait_for(
        lambda: local.metric("ray_serve_app_cost_total", tier="fast") > 0,
        timeout_s=30,
        what="the cost is exported",
    )


def answers(service: Service) -> bool:
    try:
        return service.chat().status_code == 200
    except httpx.HTTPError:
        return False
