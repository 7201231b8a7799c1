"""A real Prometheus beside a running service, as an operator would start it on one machine."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.serve.service import free_port, wait_for

PROMETHEUS = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus (Debian)")

TARGETS = "/tmp/ray/prom_metrics_service_discovery.json"
HAPROXY = "127.0.0.1:9101"
STARTS_S = 60


class Prometheus:
    """Its HTTP API. Queries look at all that was scraped since its start."""

    def __init__(self, base_url: str) -> None:
        self._client = httpx.Client(base_url=base_url, timeout=60)
        self._begun = time.time()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def ready(self) -> bool:
        """Whether it answers queries."""
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, path: str, **parameters: Any) -> Any:
        """The `data` of an answer; an error is its text."""
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        assert answer.is_success, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def names(self) -> set[str]:
        """Every metric that was scraped, or recorded by a rule."""
        return set(self.ask("label/__name__/values"))

    def labels(self, name: str) -> set[str]:
        """The labels of a metric, of all its series."""
        series = self.ask("series", **{"match[]": name})
        return {label for one in series for label in one} - {"__name__"}

    def find(self, query: str) -> list[Any]:
        """The series of a query at any time since the start."""
        found = self.ask("query_range", query=query, start=self._begun, end=time.time(), step=1)
        return list(found["result"])

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with their health."""
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def down(self) -> list[str]:
        """The targets that were not scraped, with the reason."""
        active = self.ask("targets")["activeTargets"]
        return [f"{t['scrapeUrl']}: {t['lastError']}" for t in active if t["health"] != "up"]

    def jobs(self) -> set[str]:
        """The jobs whose targets are known."""
        return {target["labels"]["job"] for target in self.ask("targets")["activeTargets"]}


@contextmanager
def running_prometheus(directory: Path, rules: Sequence[Path]) -> Iterator[Prometheus]:
    """Scrapes what Ray's file names, and HAProxy, every second."""
    assert PROMETHEUS is not None
    address = f"127.0.0.1:{free_port()}"
    config = directory / "prometheus.yaml"
    config.write_text(yaml.safe_dump(_configure(rules)))
    command = [
        PROMETHEUS,
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
    ]
    log = directory / "prometheus.log"
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    prometheus = Prometheus(f"http://{address}")
    try:
        wait_for(prometheus.ready, timeout_s=STARTS_S, what=log.read_text()[-2000:] or "ready")
        yield prometheus
    finally:
        prometheus.close()
        child.terminate()
        child.wait(30)


def _configure(rules: Sequence[Path]) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "2s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            # The file gives its targets the job `ray` itself.
            {"job_name": "found", "file_sd_configs": [{"files": [TARGETS]}]},
            {"job_name": "haproxy", "static_configs": [{"targets": [HAPROXY]}]},
        ],
    }
