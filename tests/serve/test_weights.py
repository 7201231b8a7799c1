"""A tier whose config pins its files, with a file that differs."""

from __future__ import annotations

import os
import subprocess

import pytest
import yaml

from serve_app import demo
from serve_app.cli import processes
from serve_app.model_files.integrity import make_sums
from tests.serve.conftest import run_dir
from tests.serve.service import ROOT, START_S, free_port, tool

pytestmark = pytest.mark.serve

ONE_TRY = {"RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1"}
"""Serve tries a replica that does not start three times; each time it imports vLLM."""


def test_a_replica_refuses_other_weights(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The service does not start; the operator reads which file differs, and nothing is left."""
    document = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    args = document["applications"][0]["args"]
    args["tiers"] = args["tiers"][:1]
    del document["applications"][0]["deployments"][0]["user_config"]["prices"]
    sums = make_sums(demo.locate("fast"))
    args["tiers"][0]["sha256sums"] = {**sums, "model.safetensors": "0" * 64}
    directory = run_dir(tmp_path_factory)
    config = directory.parent / "pinned.yaml"
    config.write_text(yaml.safe_dump(document))
    result = subprocess.run(
        [tool("serve-app"), "up", str(config), "--port", str(free_port())],
        env={**os.environ, "SERVE_APP_RUN": str(directory), **ONE_TRY},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert result.returncode == 1
    message = result.stderr.split("The service did not start:")[1]
    assert "model.safetensors" in message
    assert "0" * 64 in message
    assert processes.marked(directory) == []
