"""The interface for the other layers: takes sampled calls and feedback, and writes their lines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from dataclasses import replace
from pathlib import Path

from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Decision
from serve_app.core.errors import FeedbackOff, TooManyCalls
from serve_app.core.redact import REDACT_S_MAX, RedactionFailed, Redactor
from serve_app.feedback.capture import Capture
from serve_app.feedback.idle import QUIET_S, IdleTiers
from serve_app.feedback.label_maker import LabelMaker
from serve_app.feedback.labeller import IdleLabeller
from serve_app.feedback.lines import FeedbackReport, render_label, render_report
from serve_app.feedback.prepare import prepare
from serve_app.feedback.sample import Label, Sample
from serve_app.feedback.sampling import choose_other, consents, find_pair, is_drawn
from serve_app.feedback.store import FeedbackStore
from serve_app.feedback.tally import Fate, FeedbackTally
from serve_app.leases.tier import Tier

logger = logging.getLogger("ray.serve")

FLUSH_S = 1.0
UNWRITTEN_BYTES_MAX = 16 * 1024 * 1024
"""The bytes that may wait for the disk; above it, feedback is refused and samples are lost."""


class FeedbackCollector:
    """The feedback log of one Router replica."""

    def __init__(
        self,
        configs: Sequence[TierConfig],
        tiers: Mapping[str, Tier],
        runtime: RuntimeConfig,
        replica: str,
        *,
        flush_s: float = FLUSH_S,
        quiet_s: float = QUIET_S,
        redact_s_max: float = REDACT_S_MAX,
        heard: Callable[[FeedbackReport], None] = lambda report: None,
    ) -> None:
        """`replica` names this Router's files; `heard` gets each report of an application."""
        self._heard = heard
        self.tally = FeedbackTally()
        self._configs = tuple(configs)
        self._pair = find_pair(configs)
        self._replica = replica
        self._flush_s = flush_s
        self._redact_s_max = redact_s_max
        self.labeller: IdleLabeller | None = None
        """None where the config has no two tiers for labels to compare."""
        if self._pair is not None:
            maker = LabelMaker(self._pair, tiers, runtime)
            idle = IdleTiers(tiers)
            self.labeller = IdleLabeller(maker, idle, self.tally, self._keep_label, quiet_s=quiet_s)
        self._lines: list[bytes] = []
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._preparing = 0
        self._flusher: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._failed = False
        self.configure(runtime)

    def configure(self, runtime: RuntimeConfig) -> None:
        """Take new settings; calls in flight keep their old settings."""
        config = runtime.feedback
        self._runtime = runtime
        self._redactor = Redactor(config.redact, seconds_max=self._redact_s_max)
        self._store: FeedbackStore | None = None
        if config.directory is not None:
            directory = Path(config.directory)
            self._store = FeedbackStore(directory, self._replica, config.bytes_max)
        if self.labeller is not None:
            self.labeller.configure(runtime)

    def open(self, call: Call, decision: Decision, consent: bool | None) -> Capture | None:
        """The capture for the answer to this call; None for a call that is not kept."""
        config = self._runtime.feedback
        if (
            self._store is None
            or self._pair is None
            or not consents(consent, config.consent)
            or not is_drawn(call.request_id, config.sample_ratio)
        ):
            return None
        other = choose_other(call, decision, self._configs, self._pair, self._runtime.routing)
        chars = sum(len(turn.text) for turn in call.prompt.turns)
        if other is None or not chars:
            return None
        if chars > config.text_chars_max:
            self.tally.fates[Fate.TOO_LONG] += 1
            return None
        return Capture(call, decision, other, config.text_chars_max)

    def take(self, capture: Capture) -> None:
        """Take the capture of a call that has been answered completely and without an error."""
        assert self.labeller is not None, "no capture is opened without a pair of tiers"
        if self._preparing + self.labeller.pending >= self._runtime.feedback.pending_max:
            self.tally.fates[Fate.QUEUE_FULL] += 1
            return
        self._preparing += 1
        self._spawn(self._prepare(capture))

    async def report(self, report: FeedbackReport) -> FeedbackReport:
        """Keep an application's feedback with a redacted comment; returns the kept feedback.

        The comment is left out where redacting takes too long.

        Raises:
            FeedbackOff: nothing is kept.
            TooManyCalls: the disk does not keep up.
        """
        if self._store is None:
            raise FeedbackOff
        if self._bytes > UNWRITTEN_BYTES_MAX:
            raise TooManyCalls(retry_after_s=1)
        report = replace(report, comment=await self._redact(report.comment))
        self.tally.verdicts[report.right] += 1
        self._heard(report)
        self._add(render_report(report))
        return report

    async def close(self) -> None:
        """Stop labelling, and write the remaining lines."""
        if self.labeller is not None:
            await self.labeller.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.labeller is not None:
            await self.labeller.close()
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)
        await self._flush()

    async def _prepare(self, capture: Capture) -> None:
        assert self._pair is not None, "no capture is opened without it"
        assert self.labeller is not None, "no capture is opened without it"
        config = self._runtime.feedback
        try:
            made = await asyncio.to_thread(prepare, capture, self._pair, config, self._redactor)
        finally:
            self._preparing -= 1
        if isinstance(made, Fate):
            self.tally.fates[made] += 1
            return
        self.tally.fates[Fate.STORED] += 1
        self._add(made.line)
        self.labeller.offer(made.sample)

    def _keep_label(self, sample: Sample, label: Label) -> None:
        fate = Fate.LABELLED_MATCH if label.kind == "match" else Fate.LABELLED_JUDGE
        self.tally.fates[fate] += 1
        self._spawn(self._add_label(sample, label))

    async def _add_label(self, sample: Sample, label: Label) -> None:
        stored = self._runtime.feedback.store_answers
        answer = await self._redact(sample.other_answer) if stored else None
        self._add(render_label(sample.request_id, label, answer))

    async def _redact(self, text: str | None) -> str | None:
        """The redacted text; None where there is no text, or where redacting takes too long."""
        if text is None:
            return None
        try:
            [redacted] = await asyncio.to_thread(self._redactor.redact, [text])
        except RedactionFailed:
            self.tally.fates[Fate.NOT_REDACTED] += 1
            return None
        return redacted

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        # The context is empty because Ray would otherwise tie the work to the request that begins
        # it.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a sampled call could not be kept", exc_info=error)

    def _add(self, line: bytes) -> None:
        """Note a line; it is on disk about a second later."""
        if self._bytes > UNWRITTEN_BYTES_MAX:
            self.tally.fates[Fate.UNWRITTEN] += 1
            return
        self._lines.append(line)
        self._bytes += len(line)
        if self._flusher is None:
            loop = asyncio.get_running_loop()
            self._flusher = loop.create_task(self._flush_later(), context=Context())

    async def _flush_later(self) -> None:
        try:
            while self._lines:
                await asyncio.sleep(self._flush_s)
                await self._flush()
        finally:
            self._flusher = None

    async def _flush(self) -> None:
        async with self._writing:
            lines, self._lines = self._lines, []
            if not lines or self._store is None:
                self._bytes = 0
                return
            try:
                await asyncio.to_thread(self._store.write, lines)
            except OSError as error:
                self._lose(lines, self._store, error)
            else:
                self._failed = False
            finally:
                self._bytes = sum(map(len, self._lines))

    def _lose(self, lines: Sequence[bytes], store: FeedbackStore, error: OSError) -> None:
        """Drop the lines; the log gets one error, until a write succeeds again."""
        self.tally.fates[Fate.UNWRITTEN] += len(lines)
        if not self._failed:
            self._failed = True
            logger.error(
                "feedback.directory %s cannot be written (%s); samples and feedback are lost "
                "until a write succeeds",
                store.directory,
                error.strerror or type(error).__name__,
            )
