"""TierServer: a Ray Serve LLM replica that serves its engine's own app to lease holders."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import DPServer, LLMServer

from serve_app.autoscaling.ray_policies import SPARE_METRIC, render_signals
from serve_app.config.tiers import DEPLOYMENT_PREFIX
from serve_app.core.start_steps import StartStep, render_step
from serve_app.leases.answers import Refusal
from serve_app.leases.board import Seat, render_seat
from serve_app.leases.http1 import Address
from serve_app.model_files.pinned import check_pinned, default_stamps
from serve_app.replica.asgi import ASGIApp
from serve_app.replica.draft_gate import DraftApp
from serve_app.replica.engine_http import EngineHTTPServer, LeasedApp, probe, warm_up
from serve_app.replica.engine_stats import EngineStats, watch_engine
from serve_app.replica.engine_watch import join_streams, watch_drafts, watch_tokens
from serve_app.replica.health import ReplicaHealth, choose_hold_s
from serve_app.replica.image_fetch import MediaPlan
from serve_app.replica.lease_table import LeaseTable
from serve_app.replica.liveness import WatchPlan
from serve_app.replica.parent_watch import watch_engine_processes
from serve_app.replica.place import count_torn_groups, own_workers_by_node
from serve_app.replica.prefills import PrefillWatch
from serve_app.replica.prefix_metrics import PrefixMetrics
from serve_app.replica.settle import settle
from serve_app.replica.shared_files import SharedFileRecords
from serve_app.replica.spare_calls import SpareCalls
from serve_app.replica.state import find_draining, is_dead, read_check_times
from serve_app.replica.state_feed import StateFeed, read_load
from serve_app.replica.vllm_engine import VLLMSigns, build_table

logger = logging.getLogger("ray.serve")

STDERR = 2
"""The file descriptor; Ray shows what is written there to the driver."""


class TensorGroupTorn(Exception):
    """Tensor-parallel groups of this replica span nodes, and the network would slow every token."""

    def __init__(self, size: int, torn: int, nodes: int) -> None:
        super().__init__(
            f"{torn} of {nodes} nodes hold part of a group of {size} GPUs; free whole groups of "
            "GPUs on the nodes, or set placement.strategy to STRICT_PACK and gpus_per_node to "
            "what a node has"
        )


class TierServer(LLMServer):
    """One replica of a tier: Ray counts and places it, Routers talk HTTP to its engine."""

    _http: EngineHTTPServer | None = None
    _feed: StateFeed | None = None
    _flushing: asyncio.Task[None] | None = None
    _sha256sums: str | dict[str, str] | None = None
    _stats: EngineStats | None = None
    _is_draining: Callable[[], bool] = staticmethod(bool)
    _by_prefix = _tls = False

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self,
        llm_config: LLMConfig,
        *,
        sha256sums: str | dict[str, str] | None = None,
        by_prefix: bool = False,
        tls: bool = False,
        watch: WatchPlan,
        media: MediaPlan,
        stream_join_s: float = 0.0,
    ) -> None:
        self._sha256sums = sha256sums
        self._by_prefix, self._tls = by_prefix, tls
        self._stream_join_s = stream_join_s
        self._plan = watch
        self._media = media
        self._health = ReplicaHealth(watch)
        await super().__init__(llm_config)

    async def start(self) -> None:
        """Check place and weights; start the engine, then its HTTP server.

        Raises:
            WeightsRefused: a file of the model is not the one that the config pins.
            TensorGroupTorn: the GPUs of a tensor-parallel group lie on several nodes.
        """
        self._check_place()
        if self._sha256sums is not None:
            self._tell(StartStep.CHECKING)
            await self._check_weights(self._sha256sums)
        self._tell(StartStep.LOADING)
        self._skip_download_of_local_model()
        records = SharedFileRecords()
        await asyncio.to_thread(records.sweep)
        watch_engine_processes()
        self._close_media()
        await super().start()  # type: ignore[no-untyped-call]  # Ray's
        await self._record_shared_files(records)
        assert self.engine is not None, "LLMServer.start() makes it"
        self._leases, self._spare = LeaseTable(), SpareCalls()
        engine_app = await self.engine.build_asgi_app()
        self._tell(StartStep.WARMING)
        await warm_up(engine_app, self._llm_config.model_id, self._plan.probes)
        watch_drafts(self._engine_client)
        watch_tokens(self._engine_client)
        join_streams(self._engine_client, self._stream_join_s)
        self._stats = watch_engine(self._engine_client)
        self._is_draining = find_draining()
        table = build_table(self._engine_client) if self._by_prefix else None
        prefills = PrefillWatch(table)
        if self._stats is not None:
            self._stats.after_step = prefills.look
        if table is not None:
            self._flushing = asyncio.create_task(PrefixMetrics(prefills).run())
        self._feed = StateFeed(partial(read_load, self._leases, self._stats, prefills), table)
        app = LeasedApp(
            DraftApp(engine_app),
            self._leases,
            self._stats,
            refusal=self._refusal,
            prefills=prefills,
            feed=self._feed,
            spare=self._spare,
        )
        self._http = EngineHTTPServer(app, ray.util.get_node_ip_address(), tls=self._tls)
        await self._http.wait_started()
        how = "TLS" if self._tls else "plain HTTP"
        logger.info("engine app open to lease holders on port %d, %s", self._http.address[1], how)
        self._start_watch(engine_app)
        settle()

    def _close_media(self) -> None:
        # Imported here, because simulations run this class without vLLM.
        from serve_app.replica.media_connector import install_connector

        install_connector(self._media)

    def _start_watch(self, engine_app: ASGIApp) -> None:
        http, model = self._http, self._llm_config.model_id
        assert http is not None, "start() has just made it"
        signs = VLLMSigns(
            self._engine_client,
            self._stats,
            lambda: http.running,
            partial(probe, engine_app, model, self._plan.probes),
        )
        self._health.start(signs, self._leases)

    async def _start_engine(self) -> None:
        # Ray's own method then reports its use, although the report is off: each replica would wait
        # until an agent for reports runs on the head node, in a process of 0.4 GB.
        assert self.engine is not None, "LLMServer.start() makes it"
        await self.engine.start()

    async def _record_shared_files(self, records: SharedFileRecords) -> None:
        try:
            await asyncio.to_thread(records.write, os.getpid())
        except OSError as error:
            why = error.strerror or type(error).__name__
            logger.warning("files in shared memory are not recorded (%s)", why)

    @staticmethod
    def _tell(step: StartStep) -> None:
        """Tell `serve-app up` how far the start has come.

        Serve puts what is written to `sys.stderr` into its log, which another process cannot find.
        """
        name = serve.get_replica_context().deployment.removeprefix(DEPLOYMENT_PREFIX)
        with suppress(OSError):
            os.write(STDERR, f"{render_step(name, step)}\n".encode())

    def _check_place(self) -> None:
        size = int(self._llm_config.engine_kwargs.get("tensor_parallel_size") or 1)
        workers = own_workers_by_node()
        if torn := count_torn_groups(workers, size):
            raise TensorGroupTorn(size, torn, len(workers))

    async def _check_weights(self, sums: str | dict[str, str]) -> None:
        directory = Path(str(self._model_source))
        node = ray.get_runtime_context().get_node_id()  # A node gets a new id with every start.
        started = time.monotonic()
        hashed = await asyncio.to_thread(check_pinned, directory, sums, node, default_stamps())
        how = "hashed" if hashed else "unchanged since they were hashed"
        logger.info("weights are as pinned: %s, %.1f s", how, time.monotonic() - started)

    def _skip_download_of_local_model(self) -> None:
        """Do not start a process that imports vLLM and then finds nothing to download."""
        source = self._model_source
        callback = self._llm_config.get_or_create_callback()
        if isinstance(source, str) and callback is not None:
            callback.ctx.run_init_node = not Path(source).is_dir()

    @property
    def _model_source(self) -> object:
        return getattr(self._llm_config.model_loading_config, "model_source", None)

    @property
    def _engine_client(self) -> Any:
        return getattr(getattr(self, "engine", None), "_engine_client", None)

    def _refusal(self) -> Refusal | None:
        """Why no exchange can begin now: costs microseconds, because every exchange calls it."""
        if is_dead(self._engine_client) or self._health.failed:
            return Refusal.ENGINE
        return Refusal.DRAINING if self._is_draining() else None

    async def lease(self, lease_id: str, secret: bytes) -> AsyncIterator[Address]:
        """Yield the address of the engine app, then hold the place while it is used.

        The secret signs the requests under the lease.

        The lease ends when its Router ends it over HTTP, or by itself when it has carried no
        exchange for a while. The caller does not cancel this call: see `RayGrant`.
        """
        assert self._http is not None, "Ray calls no method before start() has returned"
        with self._leases.open(lease_id, secret) as lease:
            yield self._http.address
            await lease.wait_ended()

    async def record_replica_metadata(self) -> dict[str, Any]:
        """Where Routers read this replica's state: Ray carries it to them, once."""
        if self._http is None or self._feed is None:
            return {}
        return render_seat(Seat(self._http.address, self._feed.token))

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The engine's numbers for `LLMPolicy`; Ray carries them to its controller."""
        signals = None if self._stats is None else self._stats.signals()
        if signals is None:
            return {}
        told = render_signals(self._spare.leave_out(signals))
        return {**told, SPARE_METRIC: float(self._leases.spare)}

    async def check_health(self) -> None:
        """Wait for a fault of the engine or of its HTTP server, for a while.

        Raises:
            RayActorError: the engine is dead. Ray's controller takes this error for the death of
                the actor and replaces the actor at once. Any other error must occur three times in
                a row, but a dead engine does not recover.
            Exception: the replica must be replaced if the error lasts.
        """
        await self._health.wait(choose_hold_s(*read_check_times()))
        if self._refusal() is Refusal.ENGINE:
            raise RayActorError(error_msg="the engine of this replica is dead")
        await super().check_health()
        if self._http is not None:
            self._http.check()

    async def __del__(self) -> None:
        self._health.close()
        if self._flushing is not None:
            self._flushing.cancel()
        if self._feed is not None:
            self._feed.close()
        if self._http is not None:
            await self._http.close()
        client = self._engine_client
        if client is not None:
            # LLMServer itself ends EngineCore and its workers only with the death of this process.
            client.shutdown()
        await super().__del__()


class DataParallelTierServer(TierServer, DPServer):
    """One engine of a group that shares the experts of a mixture; Ray starts and ends the group.

    Serve counts and routes to each engine as a replica.
    """
