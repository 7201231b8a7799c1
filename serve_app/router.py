"""The Router deployment: the ingress that every call passes.

It is in a separate file because the tiers' builder imports vLLM, which costs ten seconds and half a
gigabyte that a Router does not need.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.assemble import StepsOwner
from serve_app.autoscaling.ray_policies import WANTED_PREFIX, parse_window
from serve_app.autoscaling.schedule import choose_floor
from serve_app.batches.batch import BatchProgress
from serve_app.batches.gate import LineGate
from serve_app.batches.notices import Notice
from serve_app.batches.sender import AttemptEnd, NoticeSender, render_delivery
from serve_app.batches.worker import BatchWorker
from serve_app.config.app import AppConfig, complete_runtime
from serve_app.config.explain import explain_validation
from serve_app.config.fairness import FairnessConfig
from serve_app.config.reader import process_environment
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.audit_state import AuditState
from serve_app.core.call import TierState
from serve_app.core.heap import settle_heap
from serve_app.deploy.siblings import SiblingRouters
from serve_app.deploy.status import UNKNOWN, ServeReadiness
from serve_app.feedback.collector import FeedbackCollector
from serve_app.feedback.tally import FeedbackTally
from serve_app.gateway.app import build_gateway
from serve_app.gateway.batch_calls import InProcessCalls
from serve_app.gateway.batch_pages import find_store
from serve_app.leases.board import find_board
from serve_app.leases.client import TierClient
from serve_app.leases.opener import RayLeases
from serve_app.leases.retries import RetryBudget
from serve_app.leases.spare_room import SpareRoom
from serve_app.observe.access_log import AccessLog, serve_log_dir
from serve_app.observe.audit import AuditMetrics
from serve_app.observe.batches import BatchMetrics, WebhookMetrics
from serve_app.observe.certificates import CertificateMetrics, find_certificates
from serve_app.observe.feedback import FeedbackMetrics, QualityMetrics
from serve_app.observe.metrics import CallMetrics
from serve_app.observe.recorder import CallRecorder
from serve_app.observe.routing import (
    ControlMetrics,
    CostWeightMetrics,
    DriftMetrics,
    HedgeMetrics,
    LoadMetrics,
    RetryMetrics,
)
from serve_app.observe.tenants import BudgetMetrics
from serve_app.observe.variants import VariantMetrics
from serve_app.pages.assets import read_assets
from serve_app.pages.numbers import RouterNumbers
from serve_app.pages.own_numbers import OwnNumbers
from serve_app.pages.watch import ASK_S, NumbersWatch, Replies, gather_replies
from serve_app.pipeline import Pipeline
from serve_app.routing.choice import build_scorer
from serve_app.routing.weights import WeightsRefused
from serve_app.steps import Plan
from serve_app.variants.trials import RouterReport, Trials

logger = logging.getLogger("ray.serve")


@serve.ingress()
class Router:
    """The ingress deployment: one replica's gateway, pipeline and leases."""

    def __init__(self, config: AppConfig, handles: dict[str, DeploymentHandle[Any]]) -> None:
        runtime = complete_runtime(config.runtime, config.tiers)
        context = serve.get_replica_context()
        self._config = config
        self._serves = False
        self._taken: dict[str, Any] = {}
        self._retries = RetryBudget(runtime.retries)
        self._clients = {
            tier.name: build_client(tier, handles[tier.name], runtime, self._retries)
            for tier in config.deployed
        }
        self._configure_clients(runtime)
        replica = self._replica = context.replica_id.unique_id
        siblings = SiblingRouters(context.app_name)
        self._trials = Trials(
            self._clients, config.variants, replica, partial(ask_trials, siblings)
        )
        self._trials.configure(runtime.variants)
        self._feedback = FeedbackCollector(
            config.tiers,
            self._clients,
            runtime,
            replica,
            heard=lambda report: self._trials.hear(report.request_id, right=report.right),
        )
        self._steps = StepsOwner(Plan(config, runtime, replica))
        self._pipeline = Pipeline(
            config.tiers,
            self._trials.tiers,
            build_scorer(runtime.routing, config.tiers),
            runtime,
            self._feedback.labeller,
            self._steps.steps,
            self._clients,
        )
        self._readiness = ServeReadiness(context.app_name, config.tiers)
        self._numbers = OwnNumbers(replica, self._pipeline, self._clients)
        self._watch = NumbersWatch(
            partial(ask_routers, siblings, self._numbers),
            self._readiness,
            [unknown_state(tier) for tier in config.tiers],
        )
        self._state_watch: asyncio.Task[None] | None = None
        self._batches: BatchWorker | None = None
        self._sender = NoticeSender(
            partial(find_store, self._pipeline), partial(note_delivery, self._pipeline)
        )
        log_dir = serve_log_dir()
        log_path = log_dir and log_dir / f"access_{replica}.jsonl"
        self._recorder = CallRecorder(
            CallMetrics(),
            AccessLog(log_path),
            {name: partial(read_leases, client) for name, client in self._clients.items()},
            [
                *build_flushers(self._pipeline, self._feedback.tally, self._retries, self._clients),
                VariantMetrics(lambda: self._trials.trials).flush,
                BatchMetrics(partial(read_progress, lambda: self._batches)).flush,
                WebhookMetrics(self._sender.take, lambda: self._sender.waiting).flush,
            ],
            settle=self._numbers.settle,
        )

    async def __serve_build_asgi_app__(self) -> object:
        for client in self._clients.values():
            client.start()
        self._recorder.start()
        self._steps.start()
        self._feedback.start()
        self._state_watch = asyncio.get_running_loop().create_task(self._readiness.watch())
        self._trials.start()
        gateway = build_gateway(
            self._config.tiers,
            self._pipeline,
            self._recorder,
            self._readiness,
            feedback=self._feedback,
            files=read_assets(),
            watch=self._watch,
            echo_request_id=False,
        )
        self._batches = BatchWorker(
            self._replica,
            partial(find_store, self._pipeline),
            InProcessCalls(gateway, self._pipeline),
            LineGate(partial(is_crowded, self._pipeline)),
        )
        self._batches.start()
        self._sender.start()
        return gateway

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The number of calls meant for each tier; Ray carries it to its controller."""
        return {WANTED_PREFIX + name: float(n) for name, n in self._pipeline.wanted.items()}

    async def read_numbers(self) -> RouterNumbers:
        """The live numbers of this Router, for the dashboard of any Router."""
        return self._numbers.read()

    async def read_trials(self) -> RouterReport:
        """What this Router knows of variants on trial, for the other Routers."""
        return self._trials.report()

    async def read_user_config(self) -> dict[str, Any]:
        """The newest `user_config` that this Router has accepted, for `serve-app reload`."""
        return self._taken

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take a new `user_config`; calls in flight keep their old config.

        A Router that serves rejects an invalid config with an error in the log, and keeps its old
        config: an exception would make Ray replace a working Router. A Router that has not served
        yet does not start, because without its config it would let in whoever reaches the port.

        Raises:
            ValueError: the config is invalid, and the Router has not served yet.
        """
        try:
            self._take(user_config)
        except ValidationError as error:
            self._reject(explain_validation(error))
        except WeightsRefused as error:
            self._reject(f"routing.weights: {error}")
        except ValueError as error:
            self._reject(str(error))

    def _take(self, user_config: dict[str, Any]) -> None:
        runtime = RuntimeConfig.model_validate(user_config)
        self._config.check_runtime(runtime)
        runtime = complete_runtime(runtime, self._config.tiers)
        scorer = build_scorer(runtime.routing, self._config.tiers)
        plan, steps = self._steps.prepare(runtime)
        self._pipeline.scorer = scorer
        self._pipeline.runtime = runtime
        self._steps.take(plan, steps)
        self._pipeline.steps = steps
        self._feedback.configure(runtime)
        self._trials.configure(runtime.variants)
        self._configure_clients(runtime)
        self._taken = user_config

    def check_health(self) -> None:
        """A Router that runs is healthy. Ray asks for the first time once it has given the first
        `user_config`, and sends calls after that."""
        if not self._serves:
            settle_heap()
        self._serves = True

    def _reject(self, why: str) -> None:
        if not self._serves:
            raise ValueError(f"user_config refused:\n{why}") from None
        logger.error("user_config refused, the old config stays:\n%s", why)

    def _configure_clients(self, runtime: RuntimeConfig) -> None:
        self._retries.configure(runtime.retries)
        for client in self._clients.values():
            client.configure(
                runtime.leases,
                watches_load=runtime.watches_load,
                fairness=choose_fairness(runtime),
                hedging=runtime.hedging,
            )

    async def __del__(self) -> None:
        self._watch.close()
        self._numbers.close()
        if self._state_watch is not None:
            self._state_watch.cancel()
        if self._batches is not None:
            await self._batches.close()
        await self._sender.close()
        await self._trials.close()
        try:
            await self._feedback.close()
        finally:
            for client in self._clients.values():
                client.close()
            await self._recorder.close()
            await self._steps.close()


def build_client(
    tier: TierConfig, handle: DeploymentHandle[Any], runtime: RuntimeConfig, retries: RetryBudget
) -> TierClient:
    """The replicas of one tier, behind a handle."""
    places = RayLeases(handle)
    return TierClient(
        tier.name,
        places.open,
        runtime.leases,
        asks_by_session=tier.replica_choice == "session",
        retries=retries,
        board=find_board(handle.deployment_name),
        by_prefix=places.open_ranked if tier.replica_choice == "prefix" else None,
        room=SpareRoom(tier.replicas.target_ongoing_calls, partial(may_start, tier)),
    )


def may_start(tier: TierConfig) -> bool:
    """Whether a tier without replicas may get one for a line of a batch now."""
    windows = (parse_window(one.model_dump(by_alias=True)) for one in tier.replicas.batch_floors)
    return choose_floor(windows, time.time(), 0.0) > 0


def choose_fairness(runtime: RuntimeConfig) -> FairnessConfig | None:
    """The order of waiting calls. Where calls wait in the order of their arrival, the lines of
    batches still wait behind them; all calls are one tenant's then."""
    if runtime.fairness is None and runtime.batches is not None:
        return FairnessConfig()
    return runtime.fairness


def is_crowded(pipeline: Pipeline) -> bool:
    """Whether calls wait for a place, in this Router or in an engine."""
    return any(load.waiting or load.queued for load in pipeline.loads().values())


def build_flushers(
    pipeline: Pipeline,
    tally: FeedbackTally,
    retries: RetryBudget,
    clients: Mapping[str, TierClient],
) -> list[Callable[[], None]]:
    """The parts that report about once a second, apart from the calls."""
    return [
        ControlMetrics(pipeline.control_state).flush,
        DriftMetrics(pipeline.scores).flush,
        CostWeightMetrics(pipeline.cost_weights).flush,
        LoadMetrics(pipeline.loads).flush,
        RetryMetrics(lambda: retries.left).flush,
        HedgeMetrics(lambda: {name: one.take_hedges() for name, one in clients.items()}).flush,
        FeedbackMetrics(tally.take).flush,
        QualityMetrics(tally.take_judged).flush,
        AuditMetrics(partial(read_audit, pipeline)).flush,
        BudgetMetrics(partial(read_budgets, pipeline)).flush,
        CertificateMetrics(find_certificates(process_environment())).flush,
    ]


async def ask_routers(siblings: SiblingRouters, own: OwnNumbers) -> Replies:
    """The numbers of all Routers; of this Router alone where Serve cannot say which there are."""
    try:
        async with asyncio.timeout(ASK_S):
            questions = await siblings.ask("read_numbers")
    except Exception as error:
        logger.debug("the other Routers cannot be asked", exc_info=error)
        return Replies([own.read()], missing=1)
    return await gather_replies(questions)


async def ask_trials(siblings: SiblingRouters) -> Sequence[RouterReport]:
    """The reports of the Routers that answer in time."""
    async with asyncio.timeout(ASK_S):
        questions = await siblings.ask("read_trials")
    reports = await asyncio.gather(*questions, return_exceptions=True)
    return [report for report in reports if isinstance(report, RouterReport)]


def unknown_state(tier: TierConfig) -> TierState:
    """A tier of which Serve has told nothing yet."""
    return TierState(tier.name, tier.model_id, ready=False, replicas=0, status=UNKNOWN)


def read_audit(pipeline: Pipeline) -> AuditState | None:
    """The state of the audit log, None where there is none."""
    audit = pipeline.steps.audit
    return None if audit is None else audit.state()


def read_progress(find_worker: Callable[[], BatchWorker | None]) -> Sequence[BatchProgress] | None:
    """The batches that have not ended; None where the config keeps none, and before the start."""
    worker = find_worker()
    return None if worker is None else worker.progress


def note_delivery(
    pipeline: Pipeline, notice: Notice, tries: int, fate: AttemptEnd, status: int | None
) -> None:
    """Tell the audit log of an event that was delivered or given up."""
    audit = pipeline.steps.audit
    if audit is not None:
        audit.note("webhook", render_delivery(notice, tries, fate, status))


def read_budgets(pipeline: Pipeline) -> Mapping[tuple[str, str], float]:
    """The spent share of tenants' budgets; empty where the config has no limits of callers."""
    limiter = pipeline.steps.limiter
    return {} if limiter is None else limiter.budgets()


def read_leases(client: TierClient) -> tuple[int, int]:
    """The leases held on a tier, and the calls that wait for a lease."""
    return client.open_leases, client.waiting
