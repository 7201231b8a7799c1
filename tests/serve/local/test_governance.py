"""Every step at once on the real stack: keys, roles, limits, the cache, audit, and what leaks."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray._private.worker import global_worker

from serve_app.audit.audit_report import read_calls
from serve_app.audit.seal import write_keys
from tests.serve.service import ROOT, Service, tool, wait_for

pytestmark = pytest.mark.serve

PEPPER = "pepper-planted-0123456789-abcdefghijklmnop"
PROMPT = "planted-prompt-7f3a"
REQUESTS = 12
HELLO = [{"role": "user", "content": PROMPT}]


def make_config(root: Path) -> dict[str, Any]:
    """A `user_config` with every step, whose files lie below `root`."""
    (root / "keys").mkdir()
    write_keys(root / "keys/audit.key")
    (root / "pepper").write_text(PEPPER)
    return {
        "access": {
            "keys": {"file": str(root / "keys.sqlite"), "pepper": {"file": str(root / "pepper")}},
            "roles": {
                "user": {"tiers": ["fast"], "output_tokens_max": 32},
                "admin": {"admin": True, "overrides": True},
            },
        },
        "limits": {
            "rules": [{"per": "tenant", "requests_per_min": REQUESTS}],
            "store": {"directory": str(root / "limits"), "deadline_s": 10},
        },
        "deadlines": {"total_s": 600},
        "fairness": {"weights": {"acme": 2}},
        "cache": {"store": "memory"},
        "audit": {
            "directory": str(root / "log"),
            "key_file": str(root / "keys/audit.key"),
            "fsync_s": 0.05,
        },
        "prices": {"tiers": {name: {"input": 1, "output": 2} for name in ("fast", "strong")}},
    }


def create_key(config: Path, tenant: str, role: str) -> dict[str, Any]:
    command = [tool("serve-app"), "keys", "create", str(config), "--json"]
    named = ["--tenant", tenant, "--role", role]
    done = subprocess.run([*command, *named], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    created: dict[str, Any] = json.loads(done.stdout)
    return created


def write_config(path: Path, user_config: dict[str, Any]) -> Path:
    """A config file, for the commands that make and revoke keys."""
    document = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    document["applications"][0]["deployments"][0]["user_config"] = user_config
    path.write_text(yaml.safe_dump(document))
    return path


def ask(service: Service, key: str | None, **body: Any) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    document = {"model": "auto", "messages": HELLO, "max_tokens": 8, "temperature": 0, **body}
    url = f"{service.base_url}/v1/chat/completions"
    return httpx.post(url, json=document, headers=headers, timeout=60)


def test_keys_limits_cache_and_audit_work_together(local: Service, tmp_path: Path) -> None:
    """A caller gets its models, its answers from the cache and its limits; the audit log names it;
    no log, page or record shows a key, the pepper or a prompt."""
    user_config = make_config(tmp_path)
    config = write_config(tmp_path / "config.yaml", user_config)
    user, admin = create_key(config, "acme", "user"), create_key(config, "ops", "admin")
    local.configure(user_config)
    wait_for(lambda: ask(local, None).status_code == 401, timeout_s=60, what="keys are asked for")

    assert ask(local, user["key"]).headers["x-cache"] == "miss"
    assert ask(local, user["key"]).headers["x-cache"] == "hit"
    assert ask(local, admin["key"]).headers["x-cache"] == "miss", "another tenant's answer"
    assert ask(local, user["key"], model="strong").status_code == 404
    assert ask(local, user["key"], max_tokens=33).status_code == 400
    assert ask(local, admin["key"], model="strong").headers["x-route-tier"] == "strong"

    statuses = [ask(local, user["key"]).status_code for _ in range(REQUESTS)]
    assert statuses[-1] == 429
    limited = ask(local, user["key"])
    assert limited.headers["x-ratelimit-limit-requests"] == str(REQUESTS)
    assert int(limited.headers["retry-after"]) > 0

    pages = [
        httpx.get(f"{local.base_url}/admin/{page}", headers={"x-api-key": admin["key"]}, timeout=60)
        for page in ("state", "limits", "keys", "config")
    ]
    assert [page.status_code for page in pages] == [200] * 4

    command = [tool("serve-app"), "keys", "revoke", str(config), user["key_id"]]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    wait_for(lambda: ask(local, user["key"]).status_code == 401, timeout_s=5, what="revocation")

    calls = wait_for(
        lambda: (tmp_path / "log").exists() and list(read_calls(tmp_path / "log")),
        timeout_s=30,
        what="records",
    )
    assert {call["tenant"] for call in calls} >= {"acme", "ops"}
    assert user["key_id"] in {call["key_id"] for call in calls}

    shown = "\n".join([*(page.text for page in pages), *read_all(tmp_path / "log")])
    logs = Path(global_worker.node.get_logs_dir_path())
    written = "\n".join([shown, *read_all(logs)])
    secrets = [key["key"].removeprefix(f"sk-serve-{key['key_id']}-") for key in (user, admin)]
    assert [secret for secret in (*secrets, PEPPER, PROMPT) if secret in written] == []


def read_all(directory: Path) -> list[str]:
    """The text of every file below a directory."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return [path.read_text(errors="replace") for path in files]
