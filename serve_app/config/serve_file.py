"""The shape of Serve's own config file, as far as we read it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

ROUTER_NAME = "Router"
FILE_KEYS = frozenset(
    {
        "applications",
        "controller_options",
        "grpc_options",
        "http_options",
        "logging_config",
        "proxy_location",
        "target_capacity",
        "tracing_config",
    }
)
APPLICATION_KEYS = frozenset(
    {
        "args",
        "autoscaling_policy",
        "deployments",
        "external_scaler_enabled",
        "host",
        "import_path",
        "logging_config",
        "name",
        "port",
        "route_prefix",
        "runtime_env",
    }
)
DEPLOYMENT_KEYS = frozenset(
    {
        "autoscaling_config",
        "backpressure_config",
        "deployment_actors",
        "gang_scheduling_config",
        "graceful_shutdown_timeout_s",
        "graceful_shutdown_wait_loop_s",
        "health_check_period_s",
        "health_check_timeout_s",
        "logging_config",
        "max_ongoing_requests",
        "max_queued_requests",
        "max_replicas_per_node",
        "max_surge_percent",
        "name",
        "num_replicas",
        "placement_group_bundle_label_selector",
        "placement_group_bundles",
        "placement_group_strategy",
        "ray_actor_options",
        "request_router_config",
        "rolling_update_percentage",
        "user_config",
    }
)
"""The keys that Serve knows; a test compares them with Ray's.

Serve silently drops other keys, and drops the whole run-time config if `user_config` is misspelled.
"""


class Section(BaseModel):
    """A part of Serve's own file; Serve itself checks the values of its other keys."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def other_keys(self) -> Iterable[str]:
        """The keys of the file that this model does not read."""
        return (self.model_extra or {}).keys()


class HTTPOptions(Section):
    """Where Serve listens."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)

    @property
    def loopback(self) -> bool:
        """Whether only clients on this machine reach the service."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def base_url(self) -> str:
        """The address of the service for a client on this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class DeploymentSection(Section):
    """The run-time config of one deployment."""

    name: str
    user_config: dict[str, Any] | None = None


class PolicySection(Section):
    """An autoscaling policy for all deployments of an application."""

    policy_function: str | None = None
    policy_kwargs: dict[str, Any] = Field(default_factory=dict)


class ApplicationSection(Section):
    """One application, ours or another."""

    import_path: str
    route_prefix: str | None = "/"
    args: dict[str, Any] = Field(default_factory=dict)
    deployments: tuple[DeploymentSection, ...] = ()
    autoscaling_policy: PolicySection | None = None


class ServeFile(Section):
    """The whole file."""

    http_options: HTTPOptions = Field(default_factory=HTTPOptions)
    applications: tuple[ApplicationSection, ...]
