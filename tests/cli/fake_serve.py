"""What `serve run` starts, as far as `serve-app up` sees it: daemons, an agent, an engine, a port.

Nobody here ends with anybody else, and most ignore SIGTERM, so whatever goes is ended by the tested
code. Run as `python -m tests.cli.fake_serve run FILE`.
"""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

import yaml

SESSION = "session_2026-11-30_01-15-26_803281_{pid}"
WAIT = "import time; time.sleep(120)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAIT
AGENT = "import sys, time; log = open(sys.argv[1], 'w'); time.sleep(120)"
NAME_BYTES = 64
"""The first bytes of the engine's shared memory hold its name, so that a test can look for it."""


class Ready(http.server.BaseHTTPRequestHandler):
    """Answers every request with 200."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    """Start everything and serve, until SIGINT."""
    if sys.argv[1:] == ["get-auth-token", "--generate"]:
        print("token")
        return
    options = yaml.safe_load(Path(sys.argv[-1]).read_text())["http_options"]
    session = Path(os.environ["RAY_TMPDIR"], "ray", SESSION.format(pid=os.getpid()))
    (session / "logs").mkdir(parents=True)
    for name in ("gcs_server", "raylet"):
        _start(name, STUBBORN, f"--log_dir={session}/logs")
    log = session / "logs" / "agent.log"
    subprocess.Popen(["ray::Agent", "-c", AGENT, str(log)], executable=sys.executable, env={})
    _start("engine", f"from tests.cli.fake_serve import hold; hold(); {STUBBORN}")
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    http.server.HTTPServer(("127.0.0.1", options["port"]), Ready).serve_forever()


def hold() -> None:
    """Hold a file in shared memory, and note its name, as a process that will be killed."""
    resource_tracker.register = lambda *_: None  # type: ignore[assignment]  # it would remove it
    held = shared_memory.SharedMemory(create=True, size=NAME_BYTES)
    Path(os.environ["SERVE_APP_RUN_DIR"], "held").write_text(held.name)
    globals()["_held"] = held  # mapped as long as the process lives


def _start(name: str, code: str, *arguments: str) -> None:
    """A process of this name, in a session of its own as a daemon is."""
    program = Path(os.environ["TMPDIR"]) / name
    program.symlink_to(sys.executable)
    command = [str(program), "-c", code, *arguments]
    subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
