"""Feedback and waiting samples of a Router that is killed at a random moment."""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection
from pathlib import Path

import orjson
import pytest

from serve_app.config.runtime import RuntimeConfig
from serve_app.core.call import Endpoint, Turn
from serve_app.feedback.collector import FeedbackCollector
from serve_app.feedback.lines import FeedbackReport
from serve_app.feedback.sample import Sample
from serve_app.feedback.waiting import WaitingSamples, render_sample
from serve_app.offline.learning.records import read_records
from tests.feedback.fakes import TalkingTier
from tests.gateway.conftest import TIERS
from tests.killed import MOMENTS, kill_writer

WRITERS = 4
COMMENT = "c" * 2000


def report_for_ever(directory: Path, sender: Connection) -> None:
    """A Router that takes feedback from several clients, and sends the ids that it acknowledges."""
    asyncio.run(_report_for_ever(directory, sender))


async def _report_for_ever(directory: Path, sender: Connection) -> None:
    runtime = RuntimeConfig.model_validate({"feedback": {"directory": str(directory)}})
    tiers = {"fast": TalkingTier(), "strong": TalkingTier()}
    collector = FeedbackCollector(TIERS, tiers, runtime, "r1")

    async def report(writer: int) -> None:
        number = 0
        while True:
            request_id = f"{writer}-{number}"
            await collector.report(FeedbackReport(request_id, right=True, comment=COMMENT))
            sender.send(request_id)
            number += 1

    await asyncio.gather(*(report(writer) for writer in range(WRITERS)))


def keep_for_ever(directory: Path, sender: Connection) -> None:
    """A Router that keeps samples, and sends the ids of those that are kept."""
    waiting, number = WaitingSamples(directory, "r1"), 0
    while True:
        sample = Sample(str(number), Endpoint.CHAT, (Turn("user", "Hi"),), "42", "fast", False, b"")
        waiting.keep(render_sample(sample, [("user", "Hi")], COMMENT, b'{"model":"m"}'))
        sender.send(sample.request_id)
        number += 1


@pytest.mark.parametrize("seed", MOMENTS)
def test_acknowledged_feedback_survives_its_router(tmp_path: Path, seed: int) -> None:
    """Whatever `/v1/feedback` has answered with 202 is in the log, and `learn` can read the log."""
    acknowledged = kill_writer(report_for_ever, tmp_path, seed, __name__)
    whole = b"".join(path.read_bytes() for path in tmp_path.glob("calls_*")).rpartition(b"\n")[0]
    kept = {orjson.loads(line)["request_id"] for line in whole.splitlines()}
    assert set(acknowledged) <= kept
    read_records([tmp_path])


@pytest.mark.parametrize("seed", MOMENTS)
def test_kept_samples_survive_their_router(tmp_path: Path, seed: int) -> None:
    """Another Router takes over every sample; a file that was not finished is deleted."""
    acknowledged = kill_writer(keep_for_ever, tmp_path, seed, __name__)
    heir = WaitingSamples(tmp_path, "r2")
    adopted = heir.adopt(1_000_000)
    assert set(acknowledged) <= {sample.request_id for sample in adopted}
    assert [path.name for path in tmp_path.iterdir()] == ["waiting_r2"]
    assert all(path.suffix == ".json" for path in (tmp_path / "waiting_r2").iterdir())
    heir.close()
