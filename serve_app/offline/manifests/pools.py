"""How long the nodes of a config may take to stop, and the CPUs of its head; pure."""

from __future__ import annotations

import math

from serve_app.config.app import AppConfig
from serve_app.deploy.fit import add_up
from serve_app.deploy.plan import plan_need
from serve_app.deploy.pools import fits_on_head

STOP_MARGIN_S = 60
"""On top of the longest drain, for Ray's own processes to end."""


def head_cpus(app: AppConfig) -> int:
    """Ray's CPUs of the head: none if there are pools of workers, otherwise enough for all
    replicas."""
    if not fits_on_head(app):
        return 0
    cpus = app.router.cpus * app.router.replicas.max
    for tier in app.deployed:
        cpus += tier.replicas.max * add_up(plan_need(tier).bundles)["CPU"]
    return math.ceil(cpus)


def drain_s(app: AppConfig) -> int:
    """Seconds after which the last stream of anything that is being replaced has ended."""
    return math.ceil(max(app.router.drain_timeout_s, *(t.drain_timeout_s for t in app.deployed)))


def move_s(app: AppConfig) -> int:
    """Seconds after which a node's replicas run elsewhere and its last stream has ended."""
    return drain_s(app) + math.ceil(max(tier.replicas.start_s for tier in app.deployed))


def stop_s(app: AppConfig) -> int:
    """Seconds that a node may take to stop."""
    return move_s(app) + STOP_MARGIN_S
