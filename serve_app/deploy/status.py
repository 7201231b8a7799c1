"""The tiers' replicas as Ray Serve reports them, read seldom: one controller serves all Routers.

The Ray dashboard shows that a replica waits, but not for which of a node's resources. So each
Router logs why, in the file that the dashboard shows for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from ray import serve
from ray.serve.schema import DeploymentStatusOverview

from serve_app.config.tiers import TierConfig
from serve_app.core.call import TierState
from serve_app.deploy.cluster_nodes import Groups, count_waiting, read_groups, read_rooms
from serve_app.deploy.fit import explain_misfit
from serve_app.deploy.plan import deployment_name, plan_need

logger = logging.getLogger("ray.serve")

WATCH_S = 30.0
"""How often a Router looks at the tiers if nobody asks for their state."""

FRESH_S = 10.0
"""The highest age of the answer while every tier is ready."""
UNREADY_FRESH_S = 2.0
"""The highest age while a tier is not ready, because an operator may be waiting for it."""

RUNNING = "RUNNING"
"""Serve's name for replicas that take calls; Serve's enum of these names is private."""
UNKNOWN = "UNKNOWN"
"""Our own state, for a tier that Serve does not report yet."""
HEALTHY = "HEALTHY"
"""Serve's name for a deployment that has its target number of replicas."""


class TierNews:
    """Logs how the state of each tier changes, once a change."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[bool, str | None]] = {}

    def note(self, states: Sequence[TierState]) -> None:
        """Log the tiers whose state is not what was logged last."""
        for state in states:
            now = (state.ready, state.message)
            if now == self._said.get(state.name, (True, None)):
                continue
            self._said[state.name] = now
            if state.ready and state.message is None:
                logger.info("tier %s: replicas that run: %d", state.name, state.replicas)
            else:
                why = state.message or f"the deployment is {state.status}"
                logger.warning(
                    "tier %s: replicas that run: %d; %s", state.name, state.replicas, why
                )


class ServeReadiness:
    """The state of every tier of one application."""

    def __init__(
        self,
        app_name: str,
        tiers: Sequence[TierConfig],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app_name = app_name
        self._configs = tuple(tiers)
        self._clock = clock
        self._states: tuple[TierState, ...] = ()
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()
        self._news = TierNews()

    async def tiers(self) -> Sequence[TierState]:
        """The state of every tier, at most `FRESH_S` old."""
        async with self._lock:
            if self._clock() - self._asked_at > self._fresh_s():
                # serve.status() blocks on a call to the controller.
                self._states = await asyncio.to_thread(self._ask)
                self._asked_at = self._clock()
                self._news.note(self._states)
        return self._states

    async def watch(self, every_s: float = WATCH_S) -> None:
        """Look at the tiers until the task is cancelled."""
        while True:
            try:
                await self.tiers()
            except Exception:
                logger.exception("the state of the tiers cannot be read")
            await asyncio.sleep(every_s)

    def _fresh_s(self) -> float:
        return FRESH_S if all(state.ready for state in self._states) else UNREADY_FRESH_S

    def _ask(self) -> tuple[TierState, ...]:
        application = serve.status().applications.get(self._app_name)
        deployments = {} if application is None else application.deployments
        names = [deployment_name(tier) for tier in self._configs]
        if any(name not in deployments for name in names):
            # While Serve builds a new version of the application, for seconds, it reports no
            # deployments although the old ones still run.
            return self._states or tuple(
                TierState(tier.name, tier.model_id, ready=False, replicas=0, status=UNKNOWN)
                for tier in self._configs
            )
        overviews = [deployments[name] for name in names]
        # The placement groups of the whole cluster are read only while a replica starts.
        settled = all(overview.replica_states.keys() <= {RUNNING} for overview in overviews)
        groups = {} if settled else read_groups()
        return tuple(
            self._state(tier, overview, groups)
            for tier, overview in zip(self._configs, overviews, strict=True)
        )

    def _state(
        self, tier: TierConfig, overview: DeploymentStatusOverview, groups: Groups
    ) -> TierState:
        replicas = sum(
            count for state, count in overview.replica_states.items() if state == RUNNING
        )
        # If a tier may have no replicas, its next call starts one.
        ready = replicas > 0 or (tier.replicas.min == 0 and overview.status.value == HEALTHY)
        return TierState(
            tier.name,
            tier.model_id,
            ready,
            replicas,
            overview.status.value,
            self._explain(tier, groups),
        )

    def _explain(self, tier: TierConfig, groups: Groups) -> str | None:
        """Why replicas have no place, None if all replicas have one."""
        waiting = count_waiting(groups, self._app_name, deployment_name(tier))
        if not waiting:
            return None
        misfit = explain_misfit(plan_need(tier), read_rooms(groups))
        if misfit is None:
            return None
        which = "a replica has" if waiting == 1 else f"{waiting} replicas have"
        return f"{which} no place: {misfit}"
