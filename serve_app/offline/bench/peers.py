"""The routers of other projects, each in a virtual environment of its own.

LiteLLM's proxy asks for rich below 14 and websockets below 16, and the runtime has newer ones. So
no peer is in the extra `bench`: a resolver would go back to a LiteLLM without a proxy.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from serve_app.offline.bench.bench_errors import PeerUnavailable

VLLM_ROUTER = "vllm-router==0.1.17"
LITELLM = "litellm[proxy]==1.108.7"
_DONE = "installed"
_REASON_BYTES = 2000


def command_of(requirement: str, script: str, cache: Path | None = None) -> Sequence[str]:
    """The command that runs a package's script; `install` puts it there."""
    return [str(find_venv(requirement, cache) / "bin" / script)]


def find_venv(requirement: str, cache: Path | None = None) -> Path:
    """Where the environment of a package is; its name holds the version."""
    name = requirement.replace("[proxy]", "").replace("==", "-")
    return (cache or Path.home() / ".cache" / "serve-app" / "bench") / name


def install(requirement: str, cache: Path | None = None) -> None:
    """Make the environment of a package, unless it is there.

    Raises:
        PeerUnavailable: the package could not be installed.
    """
    venv = find_venv(requirement, cache)
    if (venv / _DONE).exists():
        return
    try:
        _run(sys.executable, "-m", "venv", "--clear", str(venv))
        _run(str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", requirement)
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.output if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise PeerUnavailable(requirement, venv, said[-_REASON_BYTES:]) from error
    # Written last: an environment that was interrupted is made again.
    (venv / _DONE).touch()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
