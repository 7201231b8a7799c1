"""`serve-app up`: run a config in the foreground, and leave no process behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NamedTuple

import typer
import yaml
from rich.console import Console

from serve_app.cli import processes
from serve_app.cli.check import read_or_exit
from serve_app.cli.start_log import begin_log, find_trouble, read_end
from serve_app.cli.start_progress import StartProgress, StartTimes
from serve_app.cli.start_view import StartView, build_view
from serve_app.config.environment import local_environment, ray_environment, socket_dir
from serve_app.config.reader import ServeConfig, process_environment, run_dir
from serve_app.config.tls import CERTIFICATE, TlsSettings, read_tls

GRACE_S = 20.0
POLL_S = 0.5
DASHBOARD = "http://127.0.0.1:8265"
"""Ray's default address of the dashboard."""
AUTH_TOKEN = Path.home() / ".ray" / "auth_token"
"""Ray's default path; to ask Ray for the token takes 2 s, in which the cluster can start."""


class _Running(NamedTuple):
    """`serve run`, and the token for requests to its cluster."""

    child: subprocess.Popen[bytes]
    auth_token: str


class Stopped(Exception):
    """A signal asked the service to stop."""


def up(
    config: Annotated[
        Path, typer.Argument(help="A Serve config file, for example configs/local.yaml.")
    ],
    port: Annotated[
        int | None, typer.Option(help="Public port, in place of the config's port.")
    ] = None,
    haproxy: Annotated[bool, typer.Option(help="Let HAProxy listen on the public port.")] = True,
    wait_s: Annotated[
        float, typer.Option(help="Seconds that the models may take to start.")
    ] = 600.0,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the logs of Ray and vLLM here.")
    ] = False,
) -> None:
    """Start the service on this machine and wait; Ctrl-C or `serve-app down` stops it."""
    serve_config = read_or_exit(config)
    if port is not None:
        serve_config = serve_config.with_port(port)
    directory = run_dir()
    running = processes.marked(directory)
    if running:
        typer.echo(f"A service runs already (process {running[0].pid}); `serve-app down` ends it.")
        raise typer.Exit(1)
    tls = _read_tls(haproxy=haproxy)
    base_url = serve_config.base_url if tls is None else _secure(serve_config.base_url)
    processes.adopt_orphans()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    directory.mkdir(parents=True, exist_ok=True)
    log = None if verbose else begin_log(directory)
    times = StartTimes(directory / "starts.json")
    tiers = [tier.name for tier in serve_config.app.tiers]
    progress = StartProgress(tiers, times.read(str(config)))
    code = 0
    typer.echo(f"Starting {config}")
    try:
        with _service(serve_config, directory, log, haproxy=haproxy) as service:
            with build_view(Console(), plain=verbose) as view:
                _wait_ready(base_url, service, wait_s, tls, partial(_show, view, progress, log))
                progress.finish()
                view.show(progress)
            times.write(str(config), progress.times)
            typer.echo(_banner(base_url, log))
            code = service.child.wait()
            if code:
                _explain_failure(f"`serve run` ended with code {code}", log)
    except Stopped:
        pass
    except (TimeoutError, ChildProcessError) as error:
        _explain_failure(f"The service did not start: {error}", log)
        code = 1
    typer.echo("Stopped; no process is left.")
    raise typer.Exit(code)


def _show(
    view: StartView, progress: StartProgress, log: Path | None, applications: Mapping[str, Any]
) -> None:
    progress.take(applications, "" if log is None else read_end(log))
    view.show(progress)


def _explain_failure(why: str, log: Path | None) -> None:
    typer.echo(why, err=True)
    if log is not None:
        lines = find_trouble(read_end(log))
        typer.echo("".join(f"  {line}\n" for line in lines) + f"The whole log: {log}", err=True)


def _read_tls(*, haproxy: bool) -> TlsSettings | None:
    """The TLS of the public port; a wrong variable is one clear message and exit code 1."""
    try:
        tls = read_tls(process_environment())
        if tls is not None and not haproxy:
            raise ValueError(f"{CERTIFICATE} is set, and only HAProxy serves TLS")
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    return tls


def _secure(base_url: str) -> str:
    return base_url.replace("http://", "https://", 1)


def _stop(signum: int, frame: FrameType | None) -> None:
    # Told at once, because the service takes seconds to stop and its user may be about to kill it.
    os.write(sys.stderr.fileno(), b"\nStopping.\n")
    raise Stopped


@contextlib.contextmanager
def _service(
    config: ServeConfig, directory: Path, log: Path | None, *, haproxy: bool
) -> Iterator[_Running]:
    path = directory / "serve.yaml"
    path.write_text(yaml.safe_dump(config.document, sort_keys=False))
    environment = {
        **process_environment(),
        **local_environment(directory),
        **ray_environment(haproxy=haproxy),
    }
    sockets = socket_dir(directory)
    sockets.mkdir(mode=0o700, exist_ok=True)
    if not AUTH_TOKEN.exists():
        _auth_token(environment)  # `serve run` does not make one.
    child = _run_serve(path, environment, log)
    try:
        yield _Running(child, _auth_token(environment))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _end_everything(child)
        shutil.rmtree(sockets, ignore_errors=True)


def _run_serve(
    config: Path, environment: dict[str, str], log: Path | None
) -> subprocess.Popen[bytes]:
    """`serve run`, with its output in the log, or here if there is none."""
    command = [_tool("serve"), "run", str(config)]
    if log is None:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _end_everything(child: subprocess.Popen[bytes]) -> None:
    """End `serve run`, which drains and stops Ray, and then every process that is left."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
    while left := processes.descendants():
        processes.end(left, grace_s=3.0)


def _auth_token(environment: dict[str, str]) -> str:
    """The token of this user's clusters, which Ray creates if it is missing."""
    result = subprocess.run(
        [_tool("ray"), "get-auth-token", "--generate"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return result.stdout.strip()


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _wait_ready(
    base_url: str,
    service: _Running,
    wait_s: float,
    tls: TlsSettings | None,
    show: Callable[[Mapping[str, Any]], None],
) -> None:
    asks_clients = tls is not None and tls.client_ca and tls.client_verify == "required"
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if (code := service.child.poll()) is not None:
            raise ChildProcessError(f"`serve run` ended with code {code}")
        applications = _list_applications(service.auth_token)
        show(applications)
        if _is_running(applications) if asks_clients else _is_ready(base_url):
            return
        if (why := _find_failure(applications)) is not None:
            raise ChildProcessError(why)
        time.sleep(POLL_S)
    raise TimeoutError(f"not ready after {wait_s:g} s; see `RAY_AUTH_MODE=token serve status`")


def _list_applications(auth_token: str) -> dict[str, Any]:
    """What Serve says of its applications, by their names; nothing before it can be asked."""
    request = urllib.request.Request(
        f"{DASHBOARD}/api/serve/applications/", headers={"Authorization": f"Bearer {auth_token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            applications: dict[str, Any] = json.load(response)["applications"]
    except OSError:
        return {}  # The dashboard starts after the cluster, and may be off.
    return applications


def _is_running(applications: dict[str, Any]) -> bool:
    """Whether Serve has started everything. The port answers nobody without a certificate."""
    found = [application["status"] == "RUNNING" for application in applications.values()]
    return bool(found) and all(found)


def _find_failure(applications: dict[str, Any]) -> str | None:
    """Why Serve gave up on the application, or None; `serve run` itself would wait on."""
    for application in applications.values():
        if application["status"] == "DEPLOY_FAILED":
            failed = [
                f"{name}: {deployment['message'].strip()}"
                for name, deployment in application["deployments"].items()
                if deployment["status"] == "DEPLOY_FAILED"
            ]
            return "\n".join([application["message"].strip(), *failed])
    return None


def _is_ready(base_url: str) -> bool:
    # Whether the service is ready says no secret, so any certificate will do here.
    context = ssl._create_unverified_context() if base_url.startswith("https:") else None
    try:
        with urllib.request.urlopen(f"{base_url}/ready", timeout=5, context=context) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _banner(base_url: str, log: Path | None) -> str:
    body = '{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}'
    logs = "" if log is None else f"\nLogs of Ray and vLLM: {log}"
    return f"""
Ready at {base_url}/v1   Ray dashboard: {DASHBOARD} (token: .venv/bin/ray get-auth-token)

  .venv/bin/serve-app chat {base_url}
  curl {base_url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{body}'
{logs}
Ctrl-C or `make stop` stops the service.
"""
