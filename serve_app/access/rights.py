"""What a caller may do: the scopes of its roles, taken together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import lru_cache

from serve_app.config.access import RoleConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Endpoint
from serve_app.core.caller import Priority, Rights

NOTHING = Rights(
    endpoints=frozenset(),
    tiers=frozenset(),
    models=frozenset(),
    overrides=False,
    priority=Priority.BATCH,
    feedback=False,
)
"""The rights of a caller without any role."""

CACHED_MAX = 1024


def build_rights(
    roles: Mapping[str, RoleConfig], tiers: Sequence[TierConfig]
) -> Callable[[tuple[str, ...]], Rights]:
    """A function that gives the rights of a caller with some roles; unknown roles give none."""
    resolved = {name: resolve_role(role, tiers) for name, role in roles.items()}

    @lru_cache(maxsize=CACHED_MAX)
    def merge(names: frozenset[str]) -> Rights:
        return merge_rights([resolved[name] for name in sorted(names)])

    return lambda names: merge(frozenset(names).intersection(resolved))


def resolve_role(role: RoleConfig, tiers: Sequence[TierConfig]) -> Rights:
    """The rights of a role, with the ids of all models that it may use.

    The ids are looked up here because the rights of two roles are merged scope by scope: all models
    of one tier and one model of another must not become all models of both.
    """
    names, models = _find_models(role, tiers)
    every = len(models) == sum(len(tier.model_ids) for tier in tiers)
    return Rights(
        endpoints=None if role.endpoints is None else frozenset(map(Endpoint, role.endpoints)),
        tiers=None if every else names,
        models=None if every else models,
        overrides=role.overrides,
        objectives=None if role.objectives is None else frozenset(role.objectives),
        output_tokens_max=role.output_tokens_max,
        priority=role.priority,
        feedback=role.feedback,
        dashboard=role.dashboard or role.admin,
        admin=role.admin,
    )


def _find_models(
    role: RoleConfig, tiers: Sequence[TierConfig]
) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the tiers, and the ids of the models and adapters, that a role may use."""
    found = {
        tier.name: _allowed_ids(role, tier)
        for tier in tiers
        if role.tiers is None or tier.name in role.tiers
    }
    names = frozenset(name for name, ids in found.items() if ids)
    return names, frozenset().union(*found.values())


def _allowed_ids(role: RoleConfig, tier: TierConfig) -> frozenset[str]:
    allowed = role.models is None or tier.model_id in role.models
    own = [tier.model_id] if allowed else []
    if role.adapters is None:
        return frozenset([*own, *(tier.adapters if allowed else ())])
    return frozenset([*own, *(name for name in tier.adapters if name in role.adapters)])


def merge_rights(rights: Sequence[Rights]) -> Rights:
    """The rights of a caller who has all of these: in each scope the widest."""
    if not rights:
        return NOTHING
    caps = [right.output_tokens_max for right in rights]
    interactive = any(right.priority is Priority.INTERACTIVE for right in rights)
    return Rights(
        endpoints=_union(right.endpoints for right in rights),
        tiers=_union(right.tiers for right in rights),
        models=_union(right.models for right in rights),
        overrides=any(right.overrides for right in rights),
        objectives=_union(r.objectives for r in [r for r in rights if r.overrides] or rights),
        output_tokens_max=None if None in caps else max(cap for cap in caps if cap is not None),
        priority=Priority.INTERACTIVE if interactive else Priority.BATCH,
        feedback=any(right.feedback for right in rights),
        dashboard=any(right.dashboard for right in rights),
        admin=any(right.admin for right in rights),
    )


def _union(sets: Iterable[Set[str] | None]) -> frozenset[str] | None:
    """The union; None stands for everything."""
    found: frozenset[str] = frozenset()
    for values in sets:
        if values is None:
            return None
        found = found.union(values)
    return found


def narrow_tiers(
    tiers: Sequence[TierConfig], names: Set[str] | None, models: Set[str] | None
) -> Sequence[TierConfig]:
    """The tiers of these names, each with the models of these ids; None stands for all."""
    kept = [tier for tier in tiers if names is None or tier.name in names]
    if models is None:
        return tuple(kept)
    narrowed = [_narrow_tier(tier, models) for tier in kept]
    return tuple(tier for tier in narrowed if tier is not None)


def _narrow_tier(tier: TierConfig, models: Set[str]) -> TierConfig | None:
    """The tier with only these models, None if it has none of them.

    A caller who may use only adapters of the tier gets the first of them where it names the tier,
    and where the router chooses the tier.
    """
    ids = [name for name in tier.model_ids if name in models]
    if not ids or len(ids) == len(tier.model_ids):
        return tier if ids else None
    adapters = {name: path for name, path in tier.adapters.items() if name in ids[1:]}
    return tier.model_copy(update={"model_id": ids[0], "adapters": adapters})
