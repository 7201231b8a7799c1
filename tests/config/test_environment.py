"""The environment of every Ray process, as the pinned packages read it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray._common.utils import get_default_system_temp_dir
from vllm import envs

from serve_app.config.environment import ray_environment, temporary_environment


@pytest.mark.parametrize("name", ["VLLM_USE_FLASHINFER_SAMPLER", "VLLM_USE_DEEP_GEMM"])
def test_nothing_compiles_cuda_at_a_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The pinned vLLM turns on by itself what needs nvcc, and reads our values as off."""
    monkeypatch.delenv(name, raising=False)
    assert envs.environment_variables[name]() is True
    monkeypatch.setenv(name, ray_environment()[name])
    assert envs.environment_variables[name]() is False


@pytest.mark.parametrize(
    ("given", "sessions"),
    [
        ({}, "/tmp"),
        ({"TMPDIR": "/scratch"}, "/scratch"),
        ({"TMPDIR": "/scratch", "RAY_TMPDIR": "/ray"}, "/ray"),
    ],
)
def test_the_sessions_of_ray_stay_where_ray_puts_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], sessions: str
) -> None:
    """Only other temporary files go to the service's own directory."""
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    before = get_default_system_temp_dir()
    found = temporary_environment(tmp_path, given)
    assert found["RAY_TMPDIR"] == sessions == before
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert get_default_system_temp_dir() == before


IDLE_TIMERS = (
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS",
    "REPORTER_UPDATE_INTERVAL_MS",
    "METRICS_RECORD_INTERVAL_S",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD",
    "LOG_NAME_UPDATE_INTERVAL_S",
)

LOGS = """
import logging, pathlib, sys
from ray.serve._private.constants import RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE
from ray.serve._private.logging_utils import configure_component_logger
from ray.serve.schema import LoggingConfig

configure_component_logger(
    component_name="Router",
    component_id="r1",
    logging_config=LoggingConfig(logs_dir=sys.argv[1]),
    buffer_size=RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE,
    max_bytes=1000,
    backup_count=1,
)
logging.getLogger("ray.serve").warning("the tier waits")
print([path.read_text() for path in pathlib.Path(sys.argv[1]).glob("*.log")])
"""


def test_a_line_of_a_log_is_written_at_once(tmp_path: Path) -> None:
    """Ray's throughput options would keep a warning in memory, as long as no error comes."""
    environment = {**os.environ, **ray_environment()}
    command = [sys.executable, "-W", "ignore", "-c", LOGS, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "the tier waits" in done.stdout


INTERVALS = """
from ray._private import log_monitor
from ray.dashboard import consts
from ray.dashboard.modules.reporter import reporter_consts
from ray.serve._private import constants

print(
    constants.RAY_SERVE_METRICS_EXPORT_INTERVAL_MS,
    reporter_consts.REPORTER_UPDATE_INTERVAL_MS,
    consts.METRICS_RECORD_INTERVAL_S,
    log_monitor.RAY_LOG_MONITOR_MANY_FILES_THRESHOLD,
    log_monitor.LOG_NAME_UPDATE_INTERVAL_S,
)
"""


def test_idle_timers_are_slower_than_the_defaults() -> None:
    """The pinned Ray reads our intervals, under these names."""
    ours = {**os.environ, **ray_environment()}
    rays = {name: value for name, value in ours.items() if name not in IDLE_TIMERS}
    assert [_read_intervals(each) for each in (ours, rays)] == [
        "1000 10000 60 0 1.0",
        "100 5000 5 1000 0.5",
    ]


def _read_intervals(environment: dict[str, str]) -> str:
    command = [sys.executable, "-W", "ignore", "-c", INTERVALS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()
