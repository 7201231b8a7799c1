"""Says who asks and what the caller may do: the step `access` on the way of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from functools import lru_cache, partial
from typing import Protocol, runtime_checkable

from serve_app.access.addresses import Addresses
from serve_app.access.identity import Identity
from serve_app.access.rights import CACHED_MAX, build_rights, narrow_tiers
from serve_app.config.access import AccessConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import NO_LIMITS, Call, Endpoint, Objective
from serve_app.core.caller import Caller, Credentials
from serve_app.core.errors import Forbidden

ENGINE_PATHS = {Endpoint.TOKENIZE: Endpoint.INPUT_TOKENS}
"""Engine paths that also serve calls of another path."""


class Identifier(Protocol):
    """Finds out who asks."""

    def start(self) -> None:
        """Begin the work in the background, in the running event loop. May be called twice."""
        ...

    async def close(self) -> None:
        """Finish the work and free every resource."""
        ...

    async def identify(self, credentials: Credentials) -> Identity:
        """Who the credentials belong to.

        Raises:
            Unauthorized: the credentials are missing, malformed, unknown or no longer valid.
            AccessUnavailable: the source of keys cannot be reached.
        """
        ...


@runtime_checkable
class KeyLister(Protocol):
    """An Identifier that can list the keys that it knows."""

    async def describe_keys(self) -> Sequence[Mapping[str, object]]:
        """The keys without their secrets.

        Raises:
            AccessUnavailable: the source of keys cannot be reached.
        """
        ...


class AccessControl:
    """The Access of a config."""

    def __init__(
        self, config: AccessConfig, tiers: Sequence[TierConfig], identifier: Identifier
    ) -> None:
        self._identifier = identifier
        self._anonymous = config.anonymous
        self._certificates = config.certificates is not None
        self._default_roles = config.default_roles
        self._addresses = Addresses(config.addresses)
        self._rights = build_rights(config.roles, tiers)
        self._contexts = {tier.name: tier.max_model_len for tier in tiers if tier.max_model_len}
        self._tiers = tiers
        self._narrow = lru_cache(maxsize=CACHED_MAX)(partial(narrow_tiers, tiers))

    def start(self) -> None:
        """Begin the work of the identifier."""
        self._identifier.start()

    async def close(self) -> None:
        """Free the resources of the identifier."""
        await self._identifier.close()

    async def authenticate(self, credentials: Credentials) -> Caller:
        """The caller behind the credentials. The address is checked first, so that a client at a
        wrong address learns nothing of keys."""
        address = self._addresses.find(credentials.peer, credentials.forwarded_for)
        self._addresses.check(address)
        identity = await self._identify(credentials)
        roles = identity.roles or self._default_roles
        return Caller(
            identity.tenant,
            identity.key_id,
            identity.user,
            roles,
            None if address is None else str(address),
            self._rights(roles),
        )

    async def _identify(self, credentials: Credentials) -> Identity:
        proved = credentials.has_proof or (self._certificates and credentials.certificate)
        if self._anonymous is not None and not proved:
            return Identity(self._anonymous.tenant, roles=self._anonymous.roles)
        return await self._identifier.identify(credentials)

    def authorise(self, call: Call, caller: Caller) -> Call:
        """The call within the caller's rights."""
        rights = caller.rights
        _check_endpoint(call.endpoint, rights.endpoints)
        if not rights.overrides and _overrides(call):
            raise Forbidden("use the headers x-route-*")
        allowed = Objective if rights.objectives is None else rights.objectives
        if call.objective is not None and call.objective not in allowed:
            raise Forbidden("use this x-route-objective")
        cap = rights.output_tokens_max
        if cap is None or not call.endpoint.generates:
            return call
        payload = call.payload.capped(call, cap, self._contexts)
        return replace(call, payload=payload, output_tokens_cap=cap)

    def visible(self, caller: Caller, tiers: Sequence[TierConfig]) -> Sequence[TierConfig]:
        """The tiers that the caller may use, each with the models that the caller may name."""
        rights = caller.rights
        if rights.models is None and rights.tiers is None:
            return tiers
        narrow = self._narrow if tiers is self._tiers else partial(narrow_tiers, tiers)
        found: Sequence[TierConfig] = narrow(rights.tiers, rights.models)
        if not found:
            raise Forbidden("use any model of this service")
        return found

    def renew(self, caller: Caller) -> Caller:
        """The caller of an earlier request, with the rights that its roles have now."""
        return replace(caller, rights=self._rights(caller.roles))

    async def describe_keys(self) -> Sequence[Mapping[str, object]] | None:
        """The keys without their secrets, None if they cannot be listed."""
        if not isinstance(self._identifier, KeyLister):
            return None
        return await self._identifier.describe_keys()


def _check_endpoint(endpoint: Endpoint, allowed: Set[str] | None) -> None:
    """Raise Forbidden unless a path may be called. The gateway checks the path that the client
    called; this is the path that the engine gets."""
    if allowed is None or endpoint in allowed or ENGINE_PATHS.get(endpoint) in allowed:
        return
    raise Forbidden(f"call {endpoint.value}")


def _overrides(call: Call) -> bool:
    """Whether a call has a header that overrides the router's choice."""
    asked = call.tier, call.policy, call.objective
    return any(value is not None for value in asked) or call.limits is not NO_LIMITS
