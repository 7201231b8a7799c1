"""`serve-app audit` as an operator meets it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from serve_app.audit.build import build_log
from serve_app.cli.main import app
from serve_app.config.audit import AuditConfig
from serve_app.core.call import CacheResult, Decision, Draft, Endpoint, Outcome, Reason, Usage
from serve_app.core.call import Record as CallRecord
from serve_app.core.caller import Caller

DAY_S = 86_400
NOON = 1_800_014_400.0  # 2027-01-15


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def make_record(tenant: str, key: str | None, tier: str, day: int) -> CallRecord:
    return CallRecord(
        "r",
        Endpoint.CHAT,
        stream=False,
        arrived_at=NOON + day * DAY_S,
        decision=Decision(tier, f"demo-{tier}", Reason.SIMPLE),
        usage=Usage(100, 10, 60),
        caller=Caller(tenant, key_id=key),
        cost=1_000_000_000,
        strong_cost=4_000_000_000,
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of seven calls, made by the command's own key."""
    assert run("keygen", tmp_path / "audit.key").exit_code == 0
    directory, key = tmp_path / "log", tmp_path / "audit.key"
    written = build_log(
        AuditConfig(directory=str(directory), key_file=str(key)), "EUR", "r1", "node"
    )
    records = [make_record("acme", "k1", "fast", day) for day in (0, 0, 1)]
    records += [make_record("acme", None, "strong", 0), make_record("beta", "k2", "fast", 2)]
    failed = make_record("beta", "k2", "strong", 2)
    failed.outcome = Outcome.SERVER_ERROR
    failed.draft = Draft("fast", model_id="demo-fast", discarded=True, usage=Usage(5, 2), cost=1)
    hit = make_record("beta", "k2", "fast", 2)
    hit.cache, hit.cost, hit.strong_cost = CacheResult.HIT, 0, 0
    for record in (*records, failed, hit):
        written.add(record)
    written._writer.work(ends=True)
    return directory


def rows(log: Path, *arguments: str) -> list[dict[str, object]]:
    result = run("report", log, "--json", *arguments)
    assert result.exit_code == 0, result.output
    found: list[dict[str, object]] = orjson.loads(result.stdout)["rows"]
    return found


def test_sums_by_tenant(log: Path) -> None:
    """Tokens, money, savings, errors and hits of the cache add up."""
    acme, beta = rows(log)
    assert acme == {
        "tenant": "acme", "currency": "EUR", "calls": 4, "errors": 0, "cached": 0,
        "prompt_tokens": 400, "cached_tokens": 240, "completion_tokens": 40, "draft_tokens": 0,
        "cost_nanos": 4_000_000_000, "saved_nanos": 12_000_000_000, "unpriced": 0,
    }  # fmt: skip
    assert (beta["errors"], beta["cached"], beta["draft_tokens"]) == (1, 1, 7)
    assert beta["cost_nanos"] == 2_000_000_000


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("key", {("-",): 1, ("k1",): 3, ("k2",): 3}),
        ("tier", {("fast",): 5, ("strong",): 2}),
        ("day", {("2027-01-15",): 3, ("2027-01-16",): 1, ("2027-01-17",): 3}),
        (
            "tenant,tier",
            {
                ("acme", "fast"): 3,
                ("acme", "strong"): 1,
                ("beta", "fast"): 2,
                ("beta", "strong"): 1,
            },
        ),
        ("", {(): 7}),
    ],
)
def test_groups(log: Path, by: str, groups: dict[tuple[str, ...], int]) -> None:
    """Any combination of tenant, key, tier and day."""
    names = [name for name in by.split(",") if name]
    found = {tuple(str(row[name]) for name in names): row["calls"] for row in rows(log, "--by", by)}
    assert found == groups


def test_period(log: Path) -> None:
    """Both days count."""
    period = ("--since", "2027-01-15", "--until", "2027-01-16")
    assert sum(int(str(row["calls"])) for row in rows(log, *period)) == 4


def test_table_and_csv(log: Path) -> None:
    """A table for people with a total, and CSV for spreadsheets."""
    table = run("report", log, "--by", "tenant,day").output
    assert "total" in table
    assert "12.0000" not in table
    assert "18.0000" in table
    text = run("report", log, "--csv").output
    [acme, beta] = csv.DictReader(io.StringIO(text))
    assert (acme["tenant"], acme["calls"], beta["currency"]) == ("acme", "4", "EUR")


def test_verify(log: Path, tmp_path: Path) -> None:
    """0 for a whole log, 1 and file and line for a changed one, 2 where nothing can be said."""
    key = tmp_path / "audit.key.pub"
    whole = run("verify", log, "--key", key)
    assert (whole.exit_code, "as it was written" in whole.output) == (0, True)
    assert orjson.loads(run("verify", log, "--key", key, "--json").stdout)[0]["calls"] == 7
    [path] = log.glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"beta"', b'"acme"', 1))
    changed = run("verify", log, "--key", key)
    assert changed.exit_code == 1
    assert f"error: {path}:" in changed.output
    assert run("report", log).exit_code == 0
    assert run("verify", log, "--key", tmp_path / "none").exit_code == 2
    assert run("verify", tmp_path / "none", "--key", key).exit_code == 2
    (tmp_path / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    nothing = run("verify", tmp_path / "empty", "--key", key, "--state", tmp_path / "elsewhere")
    assert nothing.exit_code == 2


def test_verify_with_a_copy_of_the_public_key(log: Path, tmp_path: Path) -> None:
    """An auditor's machine has no newest seals, and is told what cannot be found without them."""
    (tmp_path / "auditor").mkdir()
    copy = tmp_path / "auditor/audit.pub"
    copy.write_bytes((tmp_path / "audit.key.pub").read_bytes())
    result = run("verify", log, "--key", copy)
    assert result.exit_code == 0
    assert "without the newest seals" in result.output
    assert run("verify", log, "--key", copy, "--state", tmp_path).exit_code == 0


def test_wrong_use(log: Path, tmp_path: Path) -> None:
    """Each is one clear line."""
    assert "choose of tenant, key" in run("report", log, "--by", "tennant").output
    assert run("report", tmp_path / "none").exit_code == 2
    again = run("keygen", tmp_path / "audit.key")
    assert (again.exit_code, "File exists" in again.output) == (2, True)
