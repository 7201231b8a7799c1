"""Labels samples while the tiers are idle, and stops when a client's call arrives.

A tier that is never idle gets labels too, if `feedback.budget_ratio` pays for them: such a label
call begins although clients' calls are in flight, and goes on when more arrive.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from enum import Enum, auto
from functools import partial

from serve_app.config.runtime import RuntimeConfig
from serve_app.core.errors import GatewayError
from serve_app.feedback.budget import LabelBudget
from serve_app.feedback.idle import QUIET_S, IdleTiers, Pauses
from serve_app.feedback.label_maker import LabelMaker, NoLabel
from serve_app.feedback.sample import Label, Sample
from serve_app.feedback.tally import Fate, FeedbackTally

logger = logging.getLogger("ray.serve")

POLL_S = 0.1
"""How often the load from other Routers is checked; engines report it about once a second."""

TRIES_MAX = 3


class State(Enum):
    """The reason why the labeller waits."""

    DONE = auto()
    """No sample is left. The labeller's task ends, and the next sample starts it again."""
    LABELLING = auto()
    """Label calls are running."""
    SERVING = auto()
    """Clients' calls are in flight on this Router."""
    PAUSING = auto()
    """The last client's call, or the last trouble with a tier, was a short time ago."""
    WATCHING = auto()
    """A tier that the next sample needs is not idle: other Routers use the tier, or it is down."""


class IdleLabeller:
    """One Router replica's samples that wait for a label, and the label calls that are running.

    The pipeline reports every call that begins and ends.
    """

    def __init__(
        self,
        maker: LabelMaker,
        tiers: IdleTiers,
        tally: FeedbackTally,
        keep: Callable[[Sample, Label], None],
        give_up: Callable[[Sample], None] = lambda _: None,
        *,
        quiet_s: float = QUIET_S,
        poll_s: float = POLL_S,
    ) -> None:
        """`keep` is called with each label, `give_up` with each sample that gets none."""
        self._maker = maker
        self._tiers = tiers
        self._tally = tally
        self._keep = keep
        self._give_up = give_up
        self._poll_s = poll_s
        self._pauses = Pauses(quiet_s)
        self._samples: deque[Sample] = deque()
        self._jobs: dict[asyncio.Task[Label], Sample] = {}
        self._paid: set[asyncio.Task[Label]] = set()
        """The jobs that need no idle time."""
        self._budget = LabelBudget(maker.runtime.feedback.budget_ratio)
        self._calls = 0
        self._no_calls = asyncio.Event()
        self._no_calls.set()
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Samples that have no label yet."""
        return len(self._samples) + len(self._jobs)

    @property
    def state(self) -> State:
        """The state now; label calls that may begin have begun already."""
        if self._jobs:
            return State.LABELLING
        if not self._samples:
            return State.DONE
        if self._calls:
            return State.SERVING
        return State.WATCHING if self._pauses.over else State.PAUSING

    async def _run(self) -> None:
        try:
            while self.pending:
                self._drop_if_off()
                self._yield_to_others()
                while self._may_begin():
                    self._begin(self._samples.popleft(), paid=False)
                while self._may_pay():
                    self._begin(self._samples.popleft(), paid=True)
                await self._wait()
        finally:
            self._task = None

    async def _wait(self) -> None:
        """Wait for the event that ends the state; what no event reports is polled."""
        match self.state:
            case State.LABELLING:
                first = asyncio.FIRST_COMPLETED
                await asyncio.wait(self._jobs, timeout=self._poll_s, return_when=first)
            case State.SERVING if not self._budget.ratio:
                await self._no_calls.wait()
            case State.SERVING | State.PAUSING | State.WATCHING:
                await asyncio.sleep(self._poll_s)
            case State.DONE:
                pass

    def _may_begin(self) -> bool:
        return (
            bool(self._samples)
            and not self._calls
            and self._pauses.over
            and len(self._jobs) < self._maker.runtime.feedback.concurrency
            and self._has_idle_tiers(self._samples[0])
        )

    def _may_pay(self) -> bool:
        return (
            bool(self._samples)
            and self._budget.affords
            and not self._pauses.backing_off
            and len(self._jobs) < self._maker.runtime.feedback.concurrency
            and all(map(self._tiers.has_room, self._maker.tiers_of(self._samples[0])))
        )

    def configure(self, runtime: RuntimeConfig) -> None:
        """Take new settings; label calls that are running take them too."""
        self._maker.runtime = runtime
        self._budget.ratio = runtime.feedback.budget_ratio

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
        """A client's call has arrived: label calls must not delay it."""
        self._calls += 1
        self._no_calls.clear()
        for job in self._jobs.keys() - self._paid:
            job.cancel()

    def call_ended(self, tokens: int = 0) -> None:
        """The client's call has been answered, with so many tokens of prompt and answer."""
        self._budget.earn(tokens)
        self._calls -= 1
        if not self._calls:
            self._no_calls.set()
            self._pauses.begin_quiet()

    async def close(self) -> None:
        """Stop the label calls. The samples are dropped; their files stay for another Router."""
        self._samples.clear()
        tasks = [*self._jobs, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._samples.clear()

    def _stopped(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("labelling stopped until the next sample", exc_info=error)

    def _drop_if_off(self) -> None:
        if self._maker.runtime.feedback.directory is None:
            self._samples.clear()

    def _yield_to_others(self) -> None:
        """Stop label calls on tiers with calls of other Routers, which only the engines know."""
        crossed = [
            job
            for job, sample in self._jobs.items()
            if job not in self._paid and not self._has_idle_tiers(sample)
        ]
        for job in crossed:
            job.cancel()
        if crossed:
            self._tiers.forget_ended()
            self._pauses.back_off()

    def _has_idle_tiers(self, sample: Sample) -> bool:
        ours_max = self._maker.runtime.feedback.concurrency
        return all(
            self._tiers.is_idle(tier, self._count_jobs(tier), ours_max)
            for tier in self._maker.tiers_of(sample)
        )

    def _count_jobs(self, tier: str) -> int:
        return sum(tier in self._maker.tiers_of(sample) for sample in self._jobs.values())

    def _begin(self, sample: Sample, *, paid: bool) -> None:
        sample.tries += 1
        sample.label_tokens = 0
        loop = asyncio.get_running_loop()
        job = loop.create_task(self._maker.make(sample), context=Context())
        self._jobs[job] = sample
        if paid:
            self._paid.add(job)
        job.add_done_callback(partial(self._end, sample))

    def _end(self, sample: Sample, job: asyncio.Task[Label]) -> None:
        """Handle the result of a job: a label, another try, or neither."""
        del self._jobs[job]
        if job in self._paid:
            self._paid.discard(job)
            self._budget.spend(sample.label_tokens or None)
        if job.cancelled():
            self._tally.fates[Fate.YIELDED] += 1
            self._try_again(sample, self._samples.appendleft)
            return
        self._tiers.note_ended(self._maker.tiers_of(sample))
        error = job.exception()
        if error is None:
            self._pauses.reset()
            self._keep(sample, job.result())
        else:
            self._handle_error(sample, error)

    def _handle_error(self, sample: Sample, error: BaseException) -> None:
        if isinstance(error, NoLabel):
            self._tally.fates[error.fate] += 1
            self._give_up(sample)
        elif isinstance(error, GatewayError):
            self._pauses.back_off(failed=True)
            self._try_again(sample, self._samples.append)
        else:
            self._tally.fates[Fate.GIVEN_UP] += 1
            self._give_up(sample)
            logger.error("call %s could not be labelled", sample.request_id, exc_info=error)

    def _try_again(self, sample: Sample, put: Callable[[Sample], None]) -> None:
        if sample.tries < TRIES_MAX:
            put(sample)
        else:
            self._tally.fates[Fate.GIVEN_UP] += 1
            self._give_up(sample)
