"""A Router's process without a cluster, for `serve-app bench gateway`.

`python -m serve_app.cli.gateway_alone OPTIONS` serves the gateway, pipeline and leases of `Router`
before one engine. OPTIONS is JSON, see `Options`. Ray's own code takes the requests, as it does in
a Router's replica: its server, its middleware and its wrapper around the app. Only what needs a
cluster is left out: Ray's metrics are not exported, and places on the engine are granted over a
socket.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import uvloop
from ray.serve._private.common import DeploymentID
from ray.serve._private.http_util import ASGIAppReplicaWrapper, start_asgi_http_server
from ray.serve._private.replica import Replica, UserCallableWrapper
from ray.serve._private.utils import Semaphore
from ray.serve.config import HTTPOptions

from serve_app.assemble import StepsOwner
from serve_app.config.app import AppConfig, complete_runtime
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import TierState
from serve_app.core.heap import settle_heap
from serve_app.feedback.collector import FeedbackCollector
from serve_app.gateway.app import Gateway, build_gateway
from serve_app.gateway.edge import build_edge
from serve_app.leases.client import TierClient
from serve_app.leases.retries import RetryBudget
from serve_app.observe.access_log import AccessLog
from serve_app.observe.metrics import CallMetrics
from serve_app.observe.recorder import CallRecorder
from serve_app.offline.bench.gateway.opener import DoorOpener
from serve_app.pages.assets import read_assets
from serve_app.pages.own_numbers import OwnNumbers
from serve_app.pipeline import Pipeline
from serve_app.router import build_flushers, read_leases
from serve_app.routing.choice import build_scorer
from serve_app.steps import Plan
from serve_app.variants.trials import RouterReport, Trials

HOST = "127.0.0.1"
MODEL_ID = "fast"


@dataclass(frozen=True, slots=True)
class Options:
    """Where the Router listens, where its engine is, and its config.

    `control` is the port at which the engine's door grants places; None where the engine takes
    every request.
    """

    port: int
    engine: int
    control: int | None = None
    access_log: str | None = None
    runtime: dict[str, Any] = field(default_factory=dict)


class ReadyTiers:
    """Tiers that are always ready."""

    def __init__(self, configs: Sequence[TierConfig]) -> None:
        self._states = [TierState(one.name, one.model_id, True, 1, "HEALTHY") for one in configs]

    async def tiers(self) -> Sequence[TierState]:
        """The state of every tier."""
        return self._states


async def no_reports() -> Sequence[RouterReport]:
    """There are no other Routers."""
    return ()


def build_app(options: Options) -> Gateway:
    """The gateway of a Router, made of the same parts as `Router`."""
    tier = TierConfig(name=MODEL_ID, model_id=MODEL_ID, engine={"max_model_len": 32768})
    config = AppConfig(tiers=(tier,), runtime=RuntimeConfig.model_validate(options.runtime))
    runtime = complete_runtime(config.runtime, config.tiers)
    retries = RetryBudget(runtime.retries)
    opener = DoorOpener((HOST, options.engine), options.control)
    client = TierClient(tier.name, opener, runtime.leases, retries=retries)
    clients = {tier.name: client}
    client.configure(
        runtime.leases,
        watches_load=runtime.watches_load,
        fairness=runtime.fairness,
        hedging=runtime.hedging,
    )
    trials = Trials(clients, config.variants, "alone", no_reports)
    trials.configure(runtime.variants)
    feedback = FeedbackCollector(config.tiers, clients, runtime, "alone")
    steps = StepsOwner(Plan(config, runtime, "alone"))
    pipeline = Pipeline(
        config.tiers,
        trials.tiers,
        build_scorer(runtime.routing, config.tiers),
        runtime,
        feedback.labeller,
        steps.steps,
    )
    recorder = _build_recorder(options, pipeline, feedback, retries, clients)
    recorder.start()
    steps.start()
    feedback.start()
    trials.start()
    return build_gateway(
        config.tiers,
        pipeline,
        recorder,
        ReadyTiers(config.tiers),
        feedback=feedback,
        files=read_assets(),
        echo_request_id=False,
    )


def _build_recorder(
    options: Options,
    pipeline: Pipeline,
    feedback: FeedbackCollector,
    retries: RetryBudget,
    clients: Mapping[str, TierClient],
) -> CallRecorder:
    return CallRecorder(
        CallMetrics(),
        AccessLog(Path(options.access_log) if options.access_log else None),
        {name: partial(read_leases, client) for name, client in clients.items()},
        build_flushers(pipeline, feedback.tally, retries, clients),
        settle=OwnNumbers("alone", pipeline, clients).settle,
    )


class NoMetrics:
    """Takes the numbers that Ray would export."""

    def inc_num_ongoing_requests(self, request_metadata: object) -> None:
        """Do nothing."""

    def dec_num_ongoing_requests(self, request_metadata: object) -> None:
        """Do nothing."""

    def record_request_metrics(self, **numbers: object) -> None:
        """Do nothing."""

    def record_ingress_request_metrics(self, **numbers: object) -> None:
        """Do nothing."""


def build_replica(app: Gateway, http: HTTPOptions) -> Any:
    """Ray's replica around the app, without the parts of it that ask a cluster.

    The private names are those of ray 2.60; `tests/cli/test_gateway_alone.py` makes a call through
    them.
    """
    wrapped = ASGIAppReplicaWrapper(app)
    callable_wrapper: Any = object.__new__(UserCallableWrapper)
    callable_wrapper.__dict__.update(
        _callable=wrapped,
        _is_function=False,
        _run_user_code_in_separate_thread=False,
        _run_sync_methods_in_threadpool=False,
        _user_code_event_loop=asyncio.get_running_loop(),
        _cached_user_method_info={},
        _is_enabled_for_debug=False,
    )
    replica: Any = object.__new__(Replica)
    replica.__dict__.update(
        _user_callable_initialized=True,
        _user_callable_wrapper=callable_wrapper,
        _user_callable_asgi_app=app,
        _route_prefix="/",
        _deployment_id=DeploymentID("Router", "llm"),
        _component_name="Router",
        _metrics_manager=NoMetrics(),
        _http_options=http,
        _ingress=True,
        _quiescing=False,
        _num_queued_requests=0,
        _semaphore=Semaphore(lambda: _NoLimits.max_ongoing_requests),
        _access_log_context={"skip_context_filter": True, "serve_access_log": True},
        _deployment_config=_NoLimits(),
    )
    return replica


class _NoLimits:
    """The part of Ray's config of a deployment that its replica reads for each call."""

    max_queued_requests = -1
    max_ongoing_requests = 1 << 20


async def serve(options: Options) -> None:
    """Serve until this process is ended."""
    # As `deploy/plan.py` sets up Serve's own log: no line for each call.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    http = HTTPOptions(host=HOST, port=options.port)
    http.middlewares.extend(build_edge())
    replica = build_replica(build_app(options), http)
    task, _ = await start_asgi_http_server(
        replica._direct_ingress_asgi, http, event_loop=asyncio.get_running_loop()
    )
    settle_heap()
    print(options.port, flush=True)
    await task


if __name__ == "__main__":
    uvloop.run(serve(Options(**orjson.loads(sys.argv[1]))))
