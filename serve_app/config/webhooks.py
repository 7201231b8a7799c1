"""The config of webhooks: who is told that a batch or a background response has ended."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from serve_app.config.base import Config
from serve_app.config.media import Network
from serve_app.config.secret import SecretConfig
from serve_app.config.tiers import NAME_PATTERN
from serve_app.core.inside import is_listed, is_public

EventName = Literal[
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "response.completed",
    "response.failed",
    "response.incomplete",
    "response.cancelled",
]


def _check_url(url: str) -> str:
    # No message repeats the value, because a path or a query may hold a secret.
    try:
        parts = urlsplit(url)
        usable = parts.hostname is not None and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("write https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a user or a password does not belong in the address")
    return url


HookUrl = Annotated[str, Field(pattern=r"^https?://", max_length=2048), AfterValidator(_check_url)]


class WebhookConfig(Config):
    """One receiver of events."""

    name: str = Field(
        pattern=NAME_PATTERN,
        description="Name in metrics and logs. Events that wait are sent to the newest `url` of "
        "this name.",
    )
    url: HookUrl = Field(
        description="Address that takes the events by POST: `https:`, and a public address. "
        "`http:` and private addresses only within `private_networks`."
    )
    secret: SecretConfig = Field(
        description="The secret of the signatures: `whsec_` and 24 to 64 bytes in base64."
    )
    old_secret: SecretConfig | None = Field(
        None,
        description="The secret before, while receivers change to the new one: events carry a "
        "signature by each.",
    )
    events: tuple[EventName, ...] = Field(
        (), max_length=8, description="The events that are sent. Empty: all of them."
    )
    tenants: tuple[str, ...] = Field(
        (),
        max_length=1000,
        description="The tenants whose events are sent. Empty: all of them.",
    )
    private_networks: tuple[Network, ...] = Field(
        (),
        max_length=64,
        description="Networks of private addresses in which the receiver may be, for example "
        "`10.1.2.0/24`. Empty: the receiver has a public address.",
    )

    @model_validator(mode="after")
    def _reachable(self) -> WebhookConfig:
        if self.url.startswith("http:") and not self.private_networks:
            raise ValueError("url: write https:; http: goes with private_networks only")
        host = urlsplit(self.url).hostname or ""
        try:
            ip_address(host)
        except ValueError:
            return self
        if not self.admits(host):
            raise ValueError(f"url: {host} is not public; name its network in private_networks")
        return self

    def admits(self, address: str) -> bool:
        """Whether events may be sent to this address."""
        if is_listed(address, self.private_networks):
            return True
        return self.url.startswith("https:") and is_public(address)


class DeliveryConfig(Config):
    """How long a receiver that does not answer is tried again."""

    answer_s: float = Field(
        10.0, gt=0, le=300, description="Time to connect, to send the event and to get the answer."
    )
    pause_s: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="Longest pause after the first attempt. Each further pause is twice as long, "
        "and a random half of it is left out.",
    )
    pause_s_max: float = Field(3600.0, gt=0, le=86_400, description="Longest pause of all.")
    give_up_s: float = Field(
        72 * 3600.0,
        ge=1,
        le=30 * 86_400,
        description="Time after which an event that no attempt has brought is dropped.",
    )
    at_once: int = Field(
        4, ge=1, le=256, description="Events that one Router sends to one receiver at a time."
    )
