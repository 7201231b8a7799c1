"""vLLM's own servers with the demo models, one at a time."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serve_app import demo
from serve_app.offline.bench.bench_errors import ServerNotReady
from serve_app.offline.bench.ownership import Owned, owned
from serve_app.offline.bench.runner import find_free_port
from serve_app.offline.bench.targets import COMMON_ENV, HOST

CONTEXT_TOKENS = 4096
SEQUENCES = 64
_ENV = {"VLLM_SERVER_DEV_MODE": "1"}
"""For the route that empties the prefix cache; the server listens on this machine alone."""
_READY_S = 240.0
_POLL_S = 0.5
_POOLER = {"pooling_type": "LAST", "use_activation": False}


@dataclass(frozen=True, slots=True)
class Engine:
    """A running server."""

    url: str
    model: str
    pid: int


@contextmanager
def running(model: str, *, pooling: bool = False) -> Iterator[Engine]:
    """A server of one demo model; with `pooling` it gives hidden states and no text.

    Raises:
        BenchFailed: it did not start.
    """
    port = find_free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += [f"--model={demo.locate(model)}", f"--served-model-name={model}"]
    command += [f"--host={HOST}", f"--port={port}", "--dtype=bfloat16", "--enforce-eager"]
    command += [f"--max-model-len={CONTEXT_TOKENS}", f"--max-num-seqs={SEQUENCES}"]
    command += ["--disable-uvicorn-access-log"]
    if pooling:
        command += ["--runner=pooling", "--convert=embed", f"--pooler-config={json.dumps(_POOLER)}"]
    with tempfile.TemporaryDirectory(prefix="probing-", dir="/tmp") as directory:
        log = Path(directory) / "engine.log"
        with owned(model, command, {**COMMON_ENV, **_ENV}, log) as server:
            engine = Engine(f"http://{HOST}:{port}", model, server.pid)
            _wait_healthy(server, engine.url)
            yield engine


def _wait_healthy(server: Owned, url: str) -> None:
    """vLLM's server opens its port when its engine is ready."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        server.check()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(_POLL_S)
    raise ServerNotReady(server.name, _READY_S, server.log_tail())
