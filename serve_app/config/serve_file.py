"""The shape of Serve's own config file, as far as we read it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of Serve's own file; the keys that are not ours are Serve's to check."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class HTTPOptions(Section):
    """Where Serve listens."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)

    @property
    def base_url(self) -> str:
        """Where a client on this machine reaches it."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class DeploymentSection(Section):
    """What changes at run time, for one deployment."""

    name: str
    user_config: dict[str, Any] | None = None


class PolicySection(Section):
    """An autoscaling policy for all deployments of an application."""

    policy_function: str | None = None
    policy_kwargs: dict[str, Any] = Field(default_factory=dict)


class ApplicationSection(Section):
    """One application, which need not be ours."""

    import_path: str
    args: dict[str, Any] = Field(default_factory=dict)
    deployments: tuple[DeploymentSection, ...] = ()
    autoscaling_policy: PolicySection | None = None


class ServeFile(Section):
    """The whole file."""

    http_options: HTTPOptions = Field(default_factory=HTTPOptions)
    applications: tuple[ApplicationSection, ...]
