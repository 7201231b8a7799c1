"""Labels samples: asks the other tier while it is idle, and stops when a client's call arrives."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context
from functools import partial

from serve_app.config.runtime import RuntimeConfig
from serve_app.core.call import Endpoint
from serve_app.core.errors import GatewayError
from serve_app.feedback.answer_text import answer_text
from serve_app.feedback.ask import AnswerTooLong, LabelRefused, ask
from serve_app.feedback.capture import BYTES_BESIDE, BYTES_PER_CHAR
from serve_app.feedback.compare import same
from serve_app.feedback.judge import parse_verdict, render_question
from serve_app.feedback.sample import Label, Sample
from serve_app.feedback.sampling import TierPair
from serve_app.feedback.tally import Fate, FeedbackTally
from serve_app.leases.tier import Tier

logger = logging.getLogger("ray.serve")

QUIET_S = 1.0
"""The time without a call after which a label call may begin."""

POLL_S = 0.1
"""How often the load from other Routers is checked; engines report it about once a second."""

ENGINE_NEWS_S = 2.0
"""How long an engine's report may still count a label call that has ended."""

BACK_OFF_S_MAX = 60.0
"""The longest pause. Pauses grow to it while a tier fails, or while it has calls of other Routers
each time: these calls show only once a label call is running."""

TRIES_MAX = 3


class NoLabel(Exception):
    """The sample can have no label, and another try would not change that."""

    def __init__(self, fate: Fate) -> None:
        super().__init__(fate)
        self.fate = fate


class IdleLabeller:
    """One Router replica's samples that wait for a label, and the label calls that are running.

    The pipeline reports every call that begins and ends. `runtime` may be replaced at any time.
    """

    def __init__(
        self,
        pair: TierPair,
        tiers: Mapping[str, Tier],
        runtime: RuntimeConfig,
        tally: FeedbackTally,
        keep: Callable[[Sample, Label], None],
        *,
        quiet_s: float = QUIET_S,
        poll_s: float = POLL_S,
    ) -> None:
        """`keep` is called with each label."""
        self.runtime = runtime
        self._pair = pair
        self._tiers = tiers
        self._tally = tally
        self._keep = keep
        self._quiet_s = quiet_s
        self._poll_s = poll_s
        self._samples: deque[Sample] = deque()
        self._jobs: dict[asyncio.Task[Label], Sample] = {}
        self._ended: deque[tuple[float, str]] = deque(maxlen=64)
        self._calls = 0
        self._no_calls = asyncio.Event()
        self._no_calls.set()
        self._not_before = float("-inf")
        self._back_off_s = quiet_s
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Samples that have no label yet."""
        return len(self._samples) + len(self._jobs)

    def offer(self, sample: Sample) -> None:
        """Take a sample."""
        self._samples.append(sample)
        if self._task is None:
            # The context is empty because Ray would otherwise tie the work to the request that
            # begins it.
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), context=Context())
            self._task.add_done_callback(self._stopped)

    def call_began(self) -> None:
        """A user's call has arrived: label calls must not delay it."""
        self._calls += 1
        self._no_calls.clear()
        for job in self._jobs:
            job.cancel()

    def call_ended(self) -> None:
        """The user's call has been answered."""
        self._calls -= 1
        if not self._calls:
            self._no_calls.set()
            self._pause(self._quiet_s)

    async def close(self) -> None:
        """Stop the label calls, and drop the samples."""
        self._samples.clear()
        tasks = [*self._jobs, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._samples.clear()

    async def _run(self) -> None:
        try:
            while self._samples or self._jobs:
                if self.runtime.feedback.directory is None:
                    self._samples.clear()
                self._yield_to_others()
                self._begin_jobs()
                await self._wait()
        finally:
            self._task = None

    def _stopped(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("labelling stopped until the next sample", exc_info=error)

    async def _wait(self) -> None:
        if self._jobs:
            await asyncio.wait(
                self._jobs, timeout=self._poll_s, return_when=asyncio.FIRST_COMPLETED
            )
        elif self._calls:
            await self._no_calls.wait()
        elif self._samples:
            await asyncio.sleep(self._poll_s)

    def _yield_to_others(self) -> None:
        """Stop label calls on tiers with calls of other Routers, which only the engines know."""
        crossed = [
            job
            for job, sample in self._jobs.items()
            if not all(map(self._is_free, self._tiers_of(sample)))
        ]
        for job in crossed:
            job.cancel()
        if crossed:
            self._ended.clear()
            self._back_off()

    def _back_off(self) -> None:
        self._pause(self._back_off_s)
        self._back_off_s = min(2 * self._back_off_s, BACK_OFF_S_MAX)

    def _pause(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        self._not_before = max(self._not_before, now + seconds)

    def _begin_jobs(self) -> None:
        loop = asyncio.get_running_loop()
        while (
            self._samples
            and not self._calls
            and loop.time() >= self._not_before
            and len(self._jobs) < self.runtime.feedback.concurrency
            and all(map(self._is_free, self._tiers_of(self._samples[0])))
        ):
            sample = self._samples.popleft()
            sample.tries += 1
            job = loop.create_task(self._label(sample), context=Context())
            self._jobs[job] = sample
            job.add_done_callback(partial(self._end, sample))

    def _tiers_of(self, sample: Sample) -> set[str]:
        judges = self.runtime.feedback.compare == "judge"
        return {sample.other, self._pair.large.name} if judges else {sample.other}

    def _is_free(self, tier: str) -> bool:
        """Whether the tier has no calls except label calls of this Router."""
        load = self._tiers[tier].load()
        now = asyncio.get_running_loop().time()
        ours = sum(tier in self._tiers_of(sample) for sample in self._jobs.values())
        ended = sum(name == tier and at > now - ENGINE_NEWS_S for at, name in self._ended)
        told = min(ours + ended, self.runtime.feedback.concurrency)
        running = (load.running or 0) + (load.queued or 0)
        return not load.down and load.ongoing + load.waiting <= ours and running <= told

    def _end(self, sample: Sample, job: asyncio.Task[Label]) -> None:
        """Handle the result of a job: a label, another try, or neither."""
        del self._jobs[job]
        if job.cancelled():
            self._tally.fates[Fate.YIELDED] += 1
            self._try_again(sample, self._samples.appendleft)
            return
        now = asyncio.get_running_loop().time()
        self._ended.extend((now, tier) for tier in self._tiers_of(sample))
        error = job.exception()
        if error is None:
            self._back_off_s = self._quiet_s
            self._keep(sample, job.result())
        elif isinstance(error, NoLabel):
            self._tally.fates[error.fate] += 1
        elif isinstance(error, GatewayError):
            self._back_off()
            self._try_again(sample, self._samples.append)
        else:
            self._tally.fates[Fate.GIVEN_UP] += 1
            logger.error("call %s could not be labelled", sample.request_id, exc_info=error)

    def _try_again(self, sample: Sample, put: Callable[[Sample], None]) -> None:
        if sample.tries < TRIES_MAX:
            put(sample)
        else:
            self._tally.fates[Fate.GIVEN_UP] += 1

    async def _label(self, sample: Sample) -> Label:
        """Ask the other tier, and compare.

        Raises:
            GatewayError: a tier did not answer.
            NoLabel: the answers cannot be compared.
        """
        if sample.other_answer is None:
            path = sample.endpoint.value
            answer = await self._ask(sample, sample.other, path, sample.body)
            text = answer_text(sample.endpoint, answer)
            if text is None:
                raise NoLabel(Fate.NO_TEXT)
            if len(text) > self.runtime.feedback.text_chars_max:
                raise NoLabel(Fate.TOO_LONG)
            sample.other_answer = text
        small, large = sample.answers()
        alike = await asyncio.to_thread(same, small, large)
        if alike:
            return Label(1.0, 1.0, "match", same=True)
        if self.runtime.feedback.compare == "judge":
            return await self._judge(sample)
        if alike is None:
            raise NoLabel(Fate.UNDECIDED)
        return Label(0.0, 1.0, "match", same=False)

    async def _judge(self, sample: Sample) -> Label:
        large = self._pair.large
        body = render_question(large.model_id, sample.request_id, sample.turns, sample.answers())
        answer = await self._ask(sample, large.name, Endpoint.CHAT.value, body)
        verdict = parse_verdict(sample.request_id, answer_text(Endpoint.CHAT, answer) or "")
        if verdict is None:
            raise NoLabel(Fate.BAD_VERDICT)
        return Label(float(verdict[0]), float(verdict[1]), "judge", same=False)

    async def _ask(self, sample: Sample, tier: str, path: str, body: bytes) -> bytes:
        runtime = self.runtime
        bytes_max = BYTES_PER_CHAR * runtime.feedback.text_chars_max + BYTES_BESIDE
        request_id = f"label-{sample.request_id}"
        try:
            return await ask(
                self._tiers[tier], path, body, request_id, runtime.deadlines, bytes_max
            )
        except LabelRefused:
            raise NoLabel(Fate.REFUSED) from None
        except AnswerTooLong:
            raise NoLabel(Fate.TOO_LONG) from None
