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

import psutil
import typer
import yaml
from rich.console import Console

from serve_app.cli import processes
from serve_app.cli.check import read_or_exit
from serve_app.cli.death_signal import end_with_parent
from serve_app.cli.keeper import start_keeper
from serve_app.cli.leftovers import (
    RunDirectory,
    end_with_files,
    find_sessions,
    names_dead_cluster,
)
from serve_app.cli.start_log import begin_log, find_trouble, read_end
from serve_app.cli.start_progress import StartProgress, StartTimes
from serve_app.cli.start_view import StartView, build_view
from serve_app.config.dashboard import AUTH_TOKEN, DASHBOARD
from serve_app.config.environment import (
    local_environment,
    ray_environment,
    socket_dir,
    temporary_environment,
)
from serve_app.config.reader import ServeConfig, process_environment, run_dir
from serve_app.config.tls import CERTIFICATE, TlsSettings, read_tls
from serve_app.replica.shared_files import SharedFileRecords

GRACE_S = 20.0
POLL_S = 0.5
ENDING_POLL_S = 0.1
ASK_S = 2.0
"""How long an answer may take while the service starts. Nothing answers once GCS has died, and then
the others are to be ended soon."""

DAEMONS = frozenset(("raylet", "gcs_server"))
"""The parts of Ray without which `serve run` would wait for ever; it notices late or never."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Running(NamedTuple):
    """`serve run`, Ray's daemons below it, and the token for requests to its cluster."""

    child: subprocess.Popen[bytes]
    daemons: dict[str, psutil.Process]
    auth_token: str

    def find_daemons(self) -> None:
        """Note the daemons that run by now."""
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.child.pid).children():
                if (name := process.name()) in DAEMONS:
                    self.daemons.setdefault(name, process)

    def why_ended(self) -> str | None:
        """What has ended, None while everything runs."""
        if (code := self.child.poll()) is not None:
            return f"`serve run` ended with code {code}"
        for name, process in self.daemons.items():
            if not processes.is_alive(process):
                return f"Ray's {name} has ended"
        return None


class Stopped(Exception):
    """A signal asked the service to stop."""


class _Signals:
    """The signals that ask the service to stop; the first one raises, the second one hurries."""

    def __init__(self) -> None:
        self.hurry = False

    def listen(self) -> None:
        """Raise Stopped at the first signal."""
        for signum in SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:  # as under nohup
                signal.signal(signum, self._stop)

    def defer(self) -> None:
        """Raise nothing any more: what has begun to end must end."""
        for signum in SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._hurry)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.defer()
        # Told at once: the service takes seconds to stop, and its user may be about to kill it.
        os.write(sys.stderr.fileno(), b"\nStopping.\n")
        raise Stopped

    def _hurry(self, signum: int, frame: FrameType | None) -> None:
        self.hurry = True


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
    tls = _read_tls(haproxy=haproxy)
    directory = RunDirectory(run_dir())
    serve_config = serve_config.with_thumbs(directory.path / "feedback")
    serve_config = serve_config.with_batches(directory.path / "batches")
    _take(directory)
    base_url = serve_config.base_url if tls is None else _secure(serve_config.base_url)
    processes.adopt_orphans()
    signals = _Signals()
    times = StartTimes(directory.path / "starts.json")
    tiers = [tier.name for tier in serve_config.app.deployed]
    log: Path | None = None
    code = 1
    try:
        signals.listen()
        typer.echo(f"Starting {config}")
        log = None if verbose else begin_log(directory.path)
        progress = StartProgress(tiers, times.read(str(config)))
        with _service(serve_config, directory, signals, log, haproxy=haproxy) as service:
            with build_view(Console(), plain=verbose) as view:
                show = partial(_show, view, progress, log)
                _wait_ready(base_url, service, directory, wait_s, tls, show)
                progress.finish()
                view.show(progress)
            times.write(str(config), progress.times)
            typer.echo(_banner(base_url, serve_config, log))
            code = _wait_ended(service, log)
    except Stopped:
        code = 0
    except (TimeoutError, ChildProcessError) as error:
        _explain_failure(f"The service did not start: {error}", log)
    except OSError as error:
        _tell_disk(directory, error)
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


def _take(directory: RunDirectory) -> None:
    """End what an earlier service has left; exit with code 1 if a service runs."""
    try:
        if _find_supervisor(directory.path) is not None or not directory.lock_when_ended():
            typer.echo("A service runs already; `serve-app down` ends it.")
            raise typer.Exit(1)
        if left := directory.end_leftovers():
            typer.echo(f"Ended {left} processes that an earlier service had left.")
        directory.prune_sessions()
    except OSError as error:
        _tell_disk(directory, error)
        raise typer.Exit(1) from None


def _tell_disk(directory: RunDirectory, error: OSError) -> None:
    where = error.filename or directory.path
    typer.echo(f"The service did not start: {where}: {error.strerror}", err=True)


def _find_supervisor(directory: Path) -> psutil.Process | None:
    """A living `serve-app up` of an earlier version, which holds no lock."""
    found = map(processes.supervisor, processes.marked(directory))
    return next((process for process in found if process is not None), None)


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


@contextlib.contextmanager
def _service(
    config: ServeConfig,
    directory: RunDirectory,
    signals: _Signals,
    log: Path | None,
    *,
    haproxy: bool,
) -> Iterator[_Running]:
    given = process_environment()
    environment = {
        **given,
        **temporary_environment(directory.path, given),
        **local_environment(directory.path),
        **ray_environment(haproxy=haproxy),
    }
    with (
        start_keeper(directory, given) as keeper,
        _cleared(directory, signals, keeper.pid) as started,
    ):
        path = directory.path / "serve.yaml"
        path.write_text(yaml.safe_dump(config.document, sort_keys=False))
        socket_dir(directory.path).mkdir(mode=0o700)
        Path(environment["TMPDIR"]).mkdir()
        if not AUTH_TOKEN.exists():
            _auth_token(environment)  # `serve run` does not make one.
        started.append(_Running(_start(path, environment, log), {}, ""))
        yield started[0]._replace(auth_token=_auth_token(environment))


@contextlib.contextmanager
def _cleared(directory: RunDirectory, signals: _Signals, keeper: int) -> Iterator[list[_Running]]:
    """Yields a list for what has been started; afterwards nothing of the service is left."""
    started: list[_Running] = []
    try:
        yield started
    finally:
        signals.defer()
        with contextlib.suppress(OSError):  # The disk may be full.
            directory.note_sessions(find_sessions(processes.descendants()))
        for running in started:
            _stop_serve(running, signals)
        while left := [each for each in processes.descendants() if each.pid != keeper]:
            end_with_files(left)
        SharedFileRecords().sweep()
        shutil.rmtree(socket_dir(directory.path), ignore_errors=True)


def _stop_serve(running: _Running, signals: _Signals) -> None:
    """Let `serve run` drain and stop Ray, unless a signal hurries it."""
    if running.why_ended() is not None:
        return  # With a part of Ray gone, it would wait for it.
    running.child.send_signal(signal.SIGINT)
    deadline = time.monotonic() + GRACE_S
    while running.child.poll() is None and not signals.hurry and time.monotonic() < deadline:
        time.sleep(ENDING_POLL_S)


def _start(path: Path, environment: dict[str, str], log: Path | None) -> subprocess.Popen[bytes]:
    """Start `serve run`. The kernel kills it with this process, and Ray's daemons with it.

    It has a session of its own, so that Ctrl-C reaches this process alone. Its output goes into the
    log, or here if there is none.
    """
    is_dead = names_dead_cluster(Path(environment["RAY_TMPDIR"]))
    with contextlib.ExitStack() as files:
        output = None if log is None else files.enter_context(log.open("wb"))
        return subprocess.Popen(
            [_tool("serve"), "run", *(("--address", "local") if is_dead else ()), str(path)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: end_with_parent(signal.SIGKILL),
        )


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


def _wait_ended(service: _Running, log: Path | None) -> int:
    """Wait until a part of the service ends; returns the exit code."""
    while (why := service.why_ended()) is None:
        time.sleep(POLL_S)
    _explain_failure(f"The service has ended: {why}", log)
    return 0 if service.child.poll() == 0 else 1


def _wait_ready(
    base_url: str,
    service: _Running,
    directory: RunDirectory,
    wait_s: float,
    tls: TlsSettings | None,
    show: Callable[[Mapping[str, Any]], None],
) -> None:
    asks_clients = tls is not None and tls.client_ca and tls.client_verify == "required"
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        applications = _list_applications(service.auth_token)
        show(applications)
        if (why := service.why_ended()) is not None:
            raise ChildProcessError(why)
        is_ready = _is_running(applications) if asks_clients else _is_ready(base_url)
        service.find_daemons()
        directory.note_sessions(find_sessions(service.daemons.values()))
        if is_ready:
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
        with urllib.request.urlopen(request, timeout=ASK_S) as response:
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
        with urllib.request.urlopen(
            f"{base_url}/ready", timeout=ASK_S, context=context
        ) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _banner(base_url: str, config: ServeConfig, log: Path | None = None) -> str:
    body = '{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}'
    logs = "" if log is None else f"\nLogs of Ray and vLLM: {log}"
    return f"""
Ready at {base_url}/v1   Ray dashboard: {DASHBOARD} (token: .venv/bin/ray get-auth-token)
{_list_pages(base_url, config)}
  .venv/bin/serve-app chat {base_url}
  curl {base_url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{body}'
{logs}
Ctrl-C or `make stop` stops the service.
"""


def _list_pages(base_url: str, config: ServeConfig) -> str:
    """A line for each page for people that the config has."""
    pages = config.runtime.pages
    shown = {"Playground": pages.playground, "Dashboard": pages.dashboard}
    return "".join(
        f"{name + ':':12}{base_url}/{name.lower()}\n" for name, there in shown.items() if there
    )
