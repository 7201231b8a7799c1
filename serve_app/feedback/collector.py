"""The interface for the other layers: takes sampled calls and feedback, and writes their lines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from pathlib import Path

from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Decision
from serve_app.core.errors import FeedbackNotKept, FeedbackOff, TooManyCalls
from serve_app.core.redact import REDACT_S_MAX, RedactionFailed, Redactor
from serve_app.feedback.capture import Capture
from serve_app.feedback.idle import QUIET_S, IdleTiers
from serve_app.feedback.label_maker import LabelMaker
from serve_app.feedback.labeller import IdleLabeller
from serve_app.feedback.line_queue import LineQueue
from serve_app.feedback.lines import FeedbackReport, render_label, render_report
from serve_app.feedback.prepare import Prepared, prepare
from serve_app.feedback.sample import Label, Sample
from serve_app.feedback.sampling import choose_other, consents, find_pair, is_drawn
from serve_app.feedback.store import FeedbackStore
from serve_app.feedback.tally import Fate, FeedbackTally, Judged, band_of
from serve_app.feedback.waiting import WaitingSamples
from serve_app.leases.tier import Tier

logger = logging.getLogger("ray.serve")

FLUSH_S = 1.0
CLOSE_POLL_S = 0.05
ADOPT_S = 60.0
"""How often a Router looks for the samples of Routers that have ended."""
NOT_KEPT_RETRY_S = 5
RIGHT_MIN = 0.5
"""An answer with a label of at least this counts as right."""


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
        self._redact_s_max = redact_s_max
        self.labeller: IdleLabeller | None = None
        """None where the config has no two tiers for labels to compare."""
        if self._pair is not None:
            maker = LabelMaker(self._pair, tiers, runtime)
            idle = IdleTiers(tiers)
            self.labeller = IdleLabeller(
                maker, idle, self.tally, self._keep_label, self._forget, quiet_s=quiet_s
            )
        self._lines = LineQueue(self.tally, flush_s)
        self._waiting: WaitingSamples | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._preparing = 0
        self._adopter: asyncio.Task[None] | None = None
        self._closing = False
        self.configure(runtime)

    def configure(self, runtime: RuntimeConfig) -> None:
        """Take new settings; calls in flight keep their old settings."""
        config = runtime.feedback
        self._runtime = runtime
        self._redactor = Redactor(config.redact, seconds_max=self._redact_s_max)
        self._lines.store = None
        if config.directory is not None:
            directory = Path(config.directory)
            self._lines.store = FeedbackStore(directory, self._replica, config.bytes_max)
        self._keep_samples_in(config.directory)
        if self.labeller is not None:
            self.labeller.configure(runtime)

    def open(self, call: Call, decision: Decision, consent: bool | None) -> Capture | None:
        """The capture for the answer to this call; None for a call that is not kept."""
        config = self._runtime.feedback
        if (
            self._lines.store is None
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
        chars_max = config.text_chars_max
        return Capture(call, decision, other, chars_max, consented=consent is True)

    def take(self, capture: Capture) -> None:
        """Take the capture of a call that has been answered completely and without an error."""
        assert self.labeller is not None, "no capture is opened without a pair of tiers"
        if self._preparing + self.labeller.pending >= self._runtime.feedback.pending_max:
            self.tally.fates[Fate.QUEUE_FULL] += 1
            return
        self._preparing += 1
        self._spawn(self._prepare(capture))

    def start(self) -> None:
        """Begin to take over the samples of Routers that have ended."""
        if self._adopter is None and self.labeller is not None:
            loop = asyncio.get_running_loop()
            self._adopter = loop.create_task(self._adopt_regularly(), context=Context())

    async def report(self, report: FeedbackReport) -> FeedbackReport:
        """Keep an application's feedback with a redacted comment; returns the kept feedback.

        The feedback is on the disk when this returns. The comment is left out where redacting takes
        too long.

        Raises:
            FeedbackOff: nothing is kept.
            TooManyCalls: the disk does not keep up.
            FeedbackNotKept: the disk does not take it.
        """
        if self._lines.store is None:
            raise FeedbackOff
        if self._lines.full:
            raise TooManyCalls(retry_after_s=1)
        report = replace(report, comment=await self._redact(report.comment))
        written = self._lines.add(render_report(report))
        self._spawn(self._lines.flush())
        if not await written:
            raise FeedbackNotKept(NOT_KEPT_RETRY_S)
        self.tally.verdicts[report.right] += 1
        self._heard(report)
        return report

    async def close(self) -> None:
        """Stop labelling, and write the remaining lines."""
        self._closing = True
        if self._adopter is not None:
            self._adopter.cancel()
            await asyncio.gather(self._adopter, return_exceptions=True)
            self._adopter = None
        if self.labeller is not None:
            await self.labeller.close()
        while self._tasks:
            # They wait for their lines.
            await self._lines.flush()
            await asyncio.wait(self._tasks, timeout=CLOSE_POLL_S)
        await self._lines.close()
        if self._waiting is not None:
            await asyncio.to_thread(self._waiting.close)
        self._closing = False

    async def _prepare(self, capture: Capture) -> None:
        assert self._pair is not None, "no capture is opened without it"
        assert self.labeller is not None, "no capture is opened without it"
        config = self._runtime.feedback
        try:
            made = await asyncio.to_thread(prepare, capture, self._pair, config, self._redactor)
            if isinstance(made, Fate):
                self.tally.fates[made] += 1
                return
            # The line first: a label without its call is of no use.
            if not await self._lines.add(made.line):
                return
            self.tally.fates[Fate.STORED] += 1
            await self._keep_waiting(made)
        finally:
            self._preparing -= 1
        if not self._closing:  # Its file stays for another Router.
            self.labeller.offer(made.sample)

    def _keep_samples_in(self, directory: str | None) -> None:
        """Another directory gets the samples from now on; without one they are deleted."""
        old = self._waiting
        if directory is not None and old is not None and old.directory == Path(directory):
            return  # A second lock on its files would wait for the first.
        self._waiting = None
        if directory is not None:
            self._waiting = WaitingSamples(Path(directory), self._replica)
        if old is not None:
            (old.clear if directory is None else old.close)()

    async def _keep_waiting(self, made: Prepared) -> None:
        """Let the sample survive this Router, if the disk takes it."""
        if self._waiting is not None:
            with suppress(OSError):  # The sample gets its label from memory.
                made.sample.file = await asyncio.to_thread(self._waiting.keep, made.waiting)

    def _forget(self, sample: Sample) -> None:
        """Delete the file of a sample that needs no label any more."""
        if sample.file is not None:
            self._spawn(asyncio.to_thread(sample.file.unlink, missing_ok=True))

    async def _adopt_regularly(self) -> None:
        while True:
            try:
                await self._adopt()
            except OSError as error:
                why = error.strerror or type(error).__name__
                logger.warning("samples of ended Routers cannot be taken over (%s)", why)
            await asyncio.sleep(ADOPT_S)

    async def _adopt(self) -> None:
        assert self.labeller is not None, "it is started with a labeller only"
        room = self._runtime.feedback.pending_max - self._preparing - self.labeller.pending
        if self._waiting is None or room <= 0:
            return
        for sample in await asyncio.to_thread(self._waiting.adopt, room):
            if self._can_label(sample):
                self.tally.fates[Fate.ADOPTED] += 1
                self.labeller.offer(sample)
            else:
                self._forget(sample)

    def _can_label(self, sample: Sample) -> bool:
        """Whether the tier that the sample asks is still one of the pair."""
        assert self._pair is not None, "without it there is no labeller"
        other = self._pair.large if sample.other_is_large else self._pair.small
        return sample.other == other.name

    def _keep_label(self, sample: Sample, label: Label) -> None:
        fate = Fate.LABELLED_MATCH if label.kind == "match" else Fate.LABELLED_JUDGE
        self.tally.fates[fate] += 1
        self._judge(sample, label)
        self._spawn(self._add_label(sample, label))

    def _judge(self, sample: Sample, label: Label) -> None:
        """Count both answers for the metrics of routing quality."""
        assert self._pair is not None, "no label is made without it"
        band = band_of(sample.score)
        scores = ((self._pair.small, label.small_score), (self._pair.large, label.large_score))
        for tier, score in scores:
            self.tally.judged[Judged(tier.name, score >= RIGHT_MIN, band)] += 1

    async def _add_label(self, sample: Sample, label: Label) -> None:
        stored = self._runtime.feedback.store_answers
        answer = await self._redact(sample.other_answer) if stored else None
        if await self._lines.add(render_label(sample.request_id, label, answer)):
            self._forget(sample)

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
