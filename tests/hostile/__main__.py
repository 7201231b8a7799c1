"""Attacks the service of `configs/local.yaml` while others use it, and prints what that costs them.

python -m tests.hostile        (`make hostile`; about six minutes; names of attacks: only these)

Ten thousand idle connections need 25,672 open files in HAProxy. Where the hard limit is lower,
HAProxy takes fewer connections.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from serve_app.config.haproxy import UNLIMITED_ADDRESSES
from serve_app.offline.bench.summary import percentile
from tests.hostile.attacks import ATTACKS
from tests.hostile.bodies import absurd_bodies
from tests.serve.service import ROOT, Service, running_service

SECONDS = 20.0
SLOW_S = 1.0
CLIENTS = 4
REST_S = 4.0
"""After an attack: HAProxy needs the time in which it gives up what has been begun."""
BODY = {
    "model": "fast",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 8,
    "ignore_eos": True,
    "stream": True,
}


async def measure(url: str, seconds: float) -> tuple[list[float], int]:
    """Seconds of each call of a few clients that mean no harm, and how many calls failed."""
    end = time.monotonic() + seconds
    took: list[float] = []
    failed = 0

    async def one(client: httpx.AsyncClient) -> None:
        nonlocal failed
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                answer = await client.post(f"{url}/v1/chat/completions", json=BODY)
                good = answer.status_code == 200 and answer.text.endswith("[DONE]\n\n")
            except httpx.HTTPError:
                good = False
            failed += not good
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.05)

    async with httpx.AsyncClient(timeout=30) as client:
        await asyncio.gather(*(one(client) for _ in range(CLIENTS)))
    return took, failed


def parts(service: Service) -> Iterator[tuple[str, psutil.Process]]:
    """The processes that clients reach, by name."""
    for process in service.processes():
        title = " ".join(process.cmdline())
        for name, mark in [("router", "ServeReplica:llm:Router"), ("fast", "llm:tier-fast")]:
            if mark in title:
                yield name, process
        if process.exe().endswith("/bin/haproxy"):
            yield "haproxy", process


def read_memory(service: Service) -> dict[str, tuple[float, int]]:
    """MiB that are resident, and open files, by part; they may end while they are read."""
    found: dict[str, tuple[float, int]] = {}
    for name, process in parts(service):
        mib, files = found.get(name, (0.0, 0))
        found[name] = (mib + process.memory_info().rss / 2**20, files + process.num_fds())
    return found


def attack(service: Service, name: str, seconds: float) -> tuple[list[float], int, str]:
    """What an attack costs the others, and what the attackers did."""
    address = urlsplit(service.base_url)
    command = [sys.executable, "-m", "tests.hostile.attacks", name, str(address.hostname)]
    child = subprocess.Popen(
        [*command, str(address.port), f"{seconds + 3:g}"], stdout=subprocess.PIPE, text=True
    )
    try:
        time.sleep(2)
        took, failed = asyncio.run(measure(service.base_url, seconds))
        done, _ = child.communicate(timeout=60)
    finally:
        child.kill()
    return took, failed, done.strip()


def render(name: str, took: Sequence[float], failed: int, base_ms: float, more: str) -> str:
    """A line of the report."""
    p50, p95 = (1000 * percentile(took, part) for part in (0.5, 0.95))
    ratio = p95 / base_ms if base_ms else 1.0
    return f"{name:14} {len(took):5} {failed:4} {p50:7.0f} {p95:7.0f} {ratio:6.2f}  {more}"


def run(service: Service, names: Sequence[str], seconds: float) -> None:
    """The quiet service, and each attack between two quiet times."""
    asyncio.run(measure(service.base_url, 5))
    print("run            calls fail  p50 ms  p95 ms x quiet  attackers, memory and files")
    engines = service.engine_processes()
    for name in names:
        before = read_memory(service)
        quiet, failed = asyncio.run(measure(service.base_url, seconds / 2))
        base_ms = 1000 * percentile(quiet, 0.95)
        print(render("quiet", quiet, failed, base_ms, ""))
        took, failed, done = attack(service, name, seconds)
        time.sleep(REST_S)
        after = read_memory(service)
        growth = ", ".join(
            f"{part} {mib:.0f} > {after[part][0]:.0f} MiB, {files} > {after[part][1]}"
            for part, (mib, files) in before.items()
            if part in after
        )
        print(render(name, took, failed, base_ms, f"{done} | {growth}"), flush=True)
    assert service.engine_processes() == engines, "an engine was replaced"
    held = service.ongoing("tier-fast") + service.ongoing("tier-strong")
    print(f"places still held: {held}")


def send_bodies(service: Service) -> None:
    """Each absurd body once, after each other; none may be the service's fault."""
    engines, statuses = service.engine_processes(), Counter[int]()
    with httpx.Client(base_url=service.base_url, timeout=60) as client:
        for name, endpoint, body in absurd_bodies():
            headers = {"content-type": "application/json"}
            began = time.monotonic()
            status = client.post(endpoint.value, content=body, headers=headers).status_code
            took_s = time.monotonic() - began
            statuses[status] += 1
            if status >= 500 or took_s > SLOW_S:
                print(f"{status} after {took_s:.1f} s: {endpoint.value} {name}", flush=True)
    assert service.engine_processes() == engines, "an engine was replaced"
    print(f"absurd bodies by status: {dict(statuses)}", flush=True)


def main() -> None:
    """All attacks, or those that are named."""
    names = [name for name in sys.argv[1:] if name in ATTACKS] or list(ATTACKS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The attackers are at other addresses of the loopback network than the others.
    os.environ[UNLIMITED_ADDRESSES] = "127.0.0.1"
    with tempfile.TemporaryDirectory() as directory:
        config = ROOT / "configs" / "local.yaml"
        with running_service(config, Path(directory) / "service") as service:
            send_bodies(service)
            run(service, names, SECONDS)


if __name__ == "__main__":
    main()
