"""`serve-app bench gateway`: the real Router through Ray's own code, without a cluster."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app


@pytest.mark.slow
def test_router_and_door_answer_every_call(tmp_path: Path) -> None:
    """Router, Ray's wrapper, leases and door carry every chunk, and each process has its cost.

    An upgrade of Ray that changes the private names in `cli/gateway_alone.py` fails here.
    """
    path = tmp_path / "out.json"
    options = ["--only=router,door,app,engine", "--clients=4", "--step-ms=1"]
    options += [
        "--short=4",
        "--long=16",
        "--seconds=0.9",
        "--rounds=1",
        "--streams=20",
        f"--json={path}",
    ]
    result = CliRunner().invoke(app, ["bench", "gateway", *options])
    assert result.exit_code == 0, result.output
    measured = orjson.loads(path.read_bytes())["measurements"]
    runs = [one for one in measured if "round" in one]
    held = [one for one in measured if "streams" in one]
    assert [run["target"] for run in runs] == ["router", "door", "app", "engine"] * 2
    for run in runs:
        assert run["calls"] > 0
        # A Router asks every stream for its usage, which is one more event.
        usage = run["target"] in ("router", "door")
        assert run["chunks"] == run["calls"] * (run["tokens"] + 2 + usage)
        assert all(part["cpu_s"] > 0 for part in run["spent"].values())
    assert set(runs[1]["spent"]) == {"Router", "door"}
    assert [one["target"] for one in held] == ["router", "door", "door", "app", "engine"]
    assert all(one["streams"] == 20 and one["held_bytes"] > 0 for one in held)
