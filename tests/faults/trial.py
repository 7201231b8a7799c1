"""One trial of a fault: load, the fault, everything whole again, nothing held, one account."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import psutil

from serve_app.leases.load import LOAD_HEADER, parse_engine_load
from tests.outcomes.account import Holdings, leaked, left_files
from tests.outcomes.fault_table import FaultRow, append_row, make_row
from tests.outcomes.load import CLIENTS, Load, running_load
from tests.serve.leases import leased
from tests.serve.service import Service, listening_on, wait_for

ROWS = "SERVE_APP_FAULT_ROWS"
"""The environment variable that names the file for the rows of `make faults`."""
WHOLE_S = 240.0
"""A generous limit; how long it takes is a figure, not a condition."""
SETTLE_S = 45.0
HAPROXY = "haproxy"
KINDS = (
    "ray::ServeController",
    "ray::HAProxyManager",
    "ray::ProxyActor",
    "ray::ServeReplica:llm:Router",
    "ray::ServeReplica:llm:tier-fast",
    "ray::ServeReplica:llm:tier-strong",
    "VLLM::",
    HAPROXY,
    "multiprocessing.resource_tracker",
)
"""The processes that a fault can strike. How many idle workers Ray keeps is its own affair."""
TIERS = ("fast", "strong")
SHARED = Path("/dev/shm")


class Subject:
    """A service under trial."""

    def __init__(self, service: Service, tiers: Sequence[str] = TIERS) -> None:
        self.service = service
        self._tiers = tiers

    def wait_whole(self, kinds: Counter[str] | None = None) -> None:
        """Until every process is there again and every tier answers."""
        wait_for(lambda: self._is_whole(kinds), timeout_s=WHOLE_S, what="everything is whole again")

    def _is_whole(self, kinds: Counter[str] | None) -> bool:
        if kinds is not None and self.kinds() != kinds:
            return False
        try:
            ready = httpx.get(f"{self.service.base_url}/ready", timeout=5).status_code == 200
            return ready and all(map(self._answers, self._tiers))
        except httpx.HTTPError:
            return False

    def _answers(self, tier: str) -> bool:
        return self.service.chat(model=tier, timeout_s=10).status_code == 200

    def kinds(self) -> Counter[str]:
        """The processes of the service by kind."""
        titles = [title_of(process) for process in self.service.processes()]
        return Counter(kind for title in titles for kind in KINDS if is_kind(title, kind))

    def holdings(self) -> Holdings:
        """What the service holds while nobody asks."""
        deployments = ("Router", *(f"tier-{tier}" for tier in self._tiers))
        return Holdings(
            ongoing=sum(map(self.service.ongoing, deployments)),
            generating=sum(map(_generating, self._tiers)),
            processes=self.kinds(),
            descriptors=self._descriptors(),
            shared_files=_unused_shared_files(),
        )

    def _descriptors(self) -> int:
        found = self.service.replica_processes("")
        return sum(process.num_fds() for process in found) // max(len(found), 1)

    def wait_idle(self, before: Holdings) -> Holdings:
        """What the service still holds when it leaks nothing, or after a while."""
        until = time.monotonic() + SETTLE_S
        while leaked(before, after := self.holdings()) and time.monotonic() < until:
            time.sleep(1)
        return after


def run_trial(
    subject: Subject,
    fault: str,
    strike: Callable[[], None],
    *,
    while_loaded: Callable[[Load], None] | None = None,
    removes: Mapping[str, int] | None = None,
    clients: int = CLIENTS,
) -> FaultRow:
    """Strike a loaded service, and give the account.

    `while_loaded` may wait for more calls; `removes` are the processes that are to stay away.
    """
    subject.wait_whole()
    before = subject.holdings()
    whole = before.processes - Counter(removes or {})
    with running_load(subject.service.base_url, clients=clients) as load:
        load.wait_answers(2 * clients)
        fault_s = time.monotonic()
        strike()
        subject.wait_whole(whole)
        whole_s = time.monotonic() - fault_s
        if while_loaded is not None:
            while_loaded(load)
        load.wait_answers(2 * clients)
    after = subject.wait_idle(replace(before, processes=whole))
    leaks, files = leaked(replace(before, processes=whole), after), left_files(before, after)
    account = load.account(fault_s)
    print(*account.unanswered(), sep="\n")
    row = make_row(fault, account, leaks, files, whole_s)
    note(row)
    return row


def note(row: FaultRow) -> None:
    """Keep a row for the table of `make faults`, and show it."""
    print(row.render())
    if path := os.environ.get(ROWS):
        append_row(row, Path(path))


def title_of(process: psutil.Process) -> str:
    """What a process calls itself; HAProxy's command line is a path.

    An HAProxy that was replaced lives as long as its open connections, and counts as nothing.
    """
    try:
        if process.name() == HAPROXY:
            return HAPROXY if listening_on(process) else ""
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def is_kind(title: str, kind: str) -> bool:
    """Whether a process with this title is of a kind; paths of others may hold `haproxy`, too."""
    return title == kind if kind == HAPROXY else kind in title


def _generating(tier: str) -> int:
    """The requests that the engine of a replica of the tier holds."""
    with leased(f"tier-{tier}") as lease:
        answer = lease.post("/serve-app/load")
        lease.post("/lease")
    load = parse_engine_load(answer.headers.get(LOAD_HEADER.decode(), "").encode())
    return 0 if load is None else load.running + load.queued


def _unused_shared_files() -> frozenset[str]:
    """Files of /dev/shm that no process maps or has open: nothing will ever remove them."""
    used: set[str] = set()
    for process in psutil.process_iter():
        try:
            used.update(mapped.path for mapped in process.memory_maps())
            used.update(os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir())
        except (psutil.Error, OSError):
            continue
    found = {str(path) for path in SHARED.rglob("*") if path.is_file()}
    return frozenset(path.removeprefix(f"{SHARED}/") for path in found - used)
