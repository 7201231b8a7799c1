"""The plan of a config: every tier under every quantisation that is asked for, and the cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from serve_app.config.tiers import TierConfig
from serve_app.planning.cards import Card, parse_card
from serve_app.planning.checks import (
    check_card,
    check_division,
    check_length,
    check_margin,
    check_node,
)
from serve_app.planning.cost import Cost, Need, Pool, plan_pool, price_tier
from serve_app.planning.engine import Engine, read_engine
from serve_app.planning.errors import PlanningFailed
from serve_app.planning.memory import Memory, calls_of, measure
from serve_app.planning.models import ModelFacts
from serve_app.planning.quantization import Scheme, choose_scheme, find_scheme, pad
from serve_app.planning.queues import Queue
from serve_app.planning.resolve import resolve_model
from serve_app.planning.roofline import Roofline, Speed, Workload
from serve_app.planning.starting import Rates, estimate_rates
from serve_app.planning.suggest import suggest
from serve_app.weights.finding import Finding


@dataclass(frozen=True)
class Options:
    """What the config does not say."""

    cards: dict[str, Card] = field(default_factory=dict)
    """By tier; under the empty name the one for all others."""
    quantizations: tuple[str, ...] = ()
    """To compare beside the config's own."""
    load: Workload = field(default_factory=Workload)
    nodes: int | None = None
    gpus_per_node: int = 8
    disk_gb_s: float = 2.0
    utilization: float = 0.5
    price_per_gpu_hour: float | None = None


@dataclass(frozen=True)
class Variant:
    """A tier under one quantisation."""

    scheme: str
    memory: Memory
    longest_tokens: int
    """The longest context that a replica could hold, of those that the model has."""
    typical_calls: float
    """Calls of the typical length that the cache can hold at a time."""
    calls: float
    """Calls in flight that the speeds are for."""
    limited_by: str
    speed: Speed | None
    cost: Cost | None
    findings: list[Finding]
    rates: Rates | None = None
    """Of a full replica, for `replicas.policy: llm` to begin with."""

    @property
    def ok(self) -> bool:
        """Whether it can be started."""
        return not any(finding.fatal for finding in self.findings)


@dataclass(frozen=True)
class TierPlan:
    """One tier."""

    tier: str
    model: str
    model_source: str
    parameters: int
    active_parameters: int
    card: Card | None
    """None: the tier is on CPU."""
    parallel: str
    gpus: int
    replicas_min: int
    replicas_max: int
    variants: list[Variant]
    """The config's own first."""


@dataclass(frozen=True)
class Plan:
    """All tiers, and the nodes that they share."""

    load: Workload
    disk_gb_s: float
    utilization: float
    price_per_gpu_hour: float | None
    tiers: list[TierPlan]
    pools: list[Pool]
    queues: list[Queue] = field(default_factory=list)
    """Of calls that wait for a tier, where the whole config is known."""

    @property
    def findings(self) -> list[Finding]:
        """What is wrong with the config as it stands."""
        return [
            *(f for tier in self.tiers for f in tier.variants[0].findings),
            *self._pool_findings,
            *(finding for queue in self.queues for finding in queue.check()),
        ]

    @property
    def rates(self) -> dict[str, Rates | None]:
        """By tier, of the config as it stands."""
        return {tier.tier: tier.variants[0].rates for tier in self.tiers}

    @property
    def ok(self) -> bool:
        """Whether the config as it stands can be started."""
        return not any(finding.fatal for finding in self.findings)

    @property
    def _pool_findings(self) -> Iterator[Finding]:
        for pool in self.pools:
            where = f"{pool.nodes} nodes of {pool.gpus_per_node} x {pool.card}"
            if not pool.min_fits and pool.nodes_for_min:
                what = f"replicas.min of all tiers need {pool.gpus_min} GPUs"
                yield Finding(where, what, f"--nodes {pool.nodes_for_min}, or fewer replicas")
            elif not pool.max_fits and pool.nodes_for_max:
                what = f"replicas.max of all tiers need {pool.gpus_max} GPUs"
                mend = f"--nodes {pool.nodes_for_max}, or scale less far"
                yield Finding(where, what, mend, fatal=False)


def make_plan(tiers: Sequence[TierConfig], options: Options) -> Plan:
    """Plan every tier, then the nodes for all of them together.

    Raises:
        PlanningFailed: a model, card or quantisation is not known.
    """
    for name in options.cards.keys() - {"", *(tier.name for tier in tiers)}:
        names = ", ".join(tier.name for tier in tiers)
        raise PlanningFailed(f"--card {name}=...: there is no tier '{name}', only {names}")
    plans = [plan_tier(tier, options) for tier in tiers]
    pools = []
    if options.nodes is not None:
        for name in dict.fromkeys(plan.card.name for plan in plans if plan.card):
            needs = [
                _need(tier, read_engine(tier, plan.card))
                for tier, plan in zip(tiers, plans, strict=True)
                if plan.card is not None and plan.card.name == name
            ]
            pools.append(plan_pool(name, options.nodes, options.gpus_per_node, needs))
    return Plan(
        load=options.load,
        disk_gb_s=options.disk_gb_s,
        utilization=options.utilization,
        price_per_gpu_hour=options.price_per_gpu_hour,
        tiers=plans,
        pools=pools,
    )


def plan_tier(tier: TierConfig, options: Options) -> TierPlan:
    """Plan one tier, under its own quantisation and under those to compare."""
    resolved = resolve_model(tier)
    card = _choose_card(tier, options)
    try:
        engine = read_engine(tier, card)
        own = choose_scheme(engine.quantization, resolved.suffix, resolved.stated)
    except PlanningFailed as failure:
        raise PlanningFailed(f"tiers.{tier.name}: {failure}") from None
    others = [find_scheme(name) for name in options.quantizations]
    schemes = [own, *(scheme for scheme in others if scheme.name != own.name)]
    facts = resolved.facts
    return TierPlan(
        tier=tier.name,
        model=facts.name,
        model_source=facts.source,
        parameters=facts.parameters,
        active_parameters=facts.active_parameters,
        card=card,
        parallel=str(engine.parallel),
        gpus=engine.parallel.gpus if card else 0,
        replicas_min=tier.replicas.min,
        replicas_max=tier.replicas.max,
        variants=[_plan_variant(tier, facts, scheme, engine, card, options) for scheme in schemes],
    )


def _choose_card(tier: TierConfig, options: Options) -> Card | None:
    if tier.accelerator == "cpu":
        return None
    given = options.cards.get(tier.name) or options.cards.get("")
    if given is not None:
        return given
    if tier.accelerator_type is None:
        raise PlanningFailed(
            f"tiers.{tier.name}: accelerator_type names no GPU; give one with --card"
        )
    try:
        return parse_card(tier.accelerator_type)
    except PlanningFailed as failure:
        raise PlanningFailed(f"tiers.{tier.name}.accelerator_type: {failure}") from None


def _plan_variant(
    tier: TierConfig,
    facts: ModelFacts,
    scheme: Scheme,
    engine: Engine,
    card: Card | None,
    options: Options,
) -> Variant:
    padded = pad(facts, scheme)
    memory = measure(padded, scheme, engine, card)
    findings = list(_check(tier, facts, scheme, engine, card, memory, options))
    typical = calls_of(memory.kv_tokens, options.load.tokens, engine)
    calls, limit = _choose_calls(tier, engine, typical)
    speed = cost = rates = None
    if card is not None and not any(finding.fatal for finding in findings):
        roofline = Roofline(padded, scheme, engine, card)
        speed = roofline.estimate(options.load, calls)
        rates = estimate_rates(roofline, options.load, _choose_full(tier, engine, typical))
        cost = price_tier(
            _need(tier, engine),
            speed,
            checkpoint_bytes(padded, scheme, engine),
            options.disk_gb_s,
            options.utilization,
            options.price_per_gpu_hour,
        )
    return Variant(
        scheme=scheme.name,
        memory=memory,
        longest_tokens=min(memory.kv_tokens, facts.positions),
        typical_calls=typical,
        calls=calls,
        limited_by=limit,
        speed=speed,
        cost=cost,
        findings=findings,
        rates=rates,
    )


def checkpoint_bytes(facts: ModelFacts, scheme: Scheme, engine: Engine) -> float:
    """The files of the model: as much as one GPU would hold of it, without padding."""
    packed = facts.parameters - facts.layers * facts.small - facts.hidden
    packed -= facts.embedding * (1 if facts.tied else 2)
    size = scheme.bits / 8 if scheme.bits < 16 else engine.element_bytes
    return packed * size + (facts.parameters - packed) * engine.element_bytes


def _check(
    tier: TierConfig,
    facts: ModelFacts,
    scheme: Scheme,
    engine: Engine,
    card: Card | None,
    memory: Memory,
    options: Options,
) -> Iterator[Finding]:
    where = f"tiers.{tier.name}"
    yield from check_division(where, pad(facts, scheme), scheme, engine)
    yield from check_length(where, facts, engine)
    if options.load.tokens > memory.max_model_len:
        what = f"typical calls of {options.load.tokens} tokens are longer than max_model_len"
        mend = f"{memory.max_model_len} at most: --prompt-tokens and --output-tokens together"
        yield Finding(f"{where}.engine.max_model_len", what, mend, fatal=False)
    if card is not None:
        yield from check_card(where, scheme, engine, card)
        yield from check_node(where, tier.placement_strategy, engine, options.gpus_per_node)
        if not engine.fixed_cache:
            yield from check_margin(where, facts, scheme, memory)
    if card is None and engine.cpu_cache_bytes is None and engine.num_gpu_blocks_override is None:
        return  # vLLM takes what it finds of the machine's memory.
    if not memory.fits:
        what = _tell_shortage(memory, card)
        ways = suggest(facts, scheme, engine, card, options.gpus_per_node) if card else []
        mend = "; or ".join(ways) or _mend_alone(memory, card)
        yield Finding(f"{where}.engine", what, mend)


def _tell_shortage(memory: Memory, card: Card | None) -> str:
    gib = 1024**3
    need = memory.max_model_len * memory.kv_bytes_a_token
    if card is None:
        return f"one call of {memory.max_model_len} tokens needs {need / gib:.2f} GiB of cache"
    taken = memory.weights_bytes + memory.activation_bytes + memory.overhead_bytes
    return (
        f"does not fit: a GPU gives {memory.budget_bytes / gib:.1f} GiB, of which weights "
        f"({memory.weights_bytes / gib:.1f}), activations and overhead take {taken / gib:.1f}; one "
        f"call of {memory.max_model_len} tokens needs {need / gib:.1f} more: "
        f"{memory.missing_bytes / gib:.1f} GiB a GPU are missing"
    )


def _mend_alone(memory: Memory, card: Card | None) -> str:
    if card is None:
        return f"set max_model_len to {max(1, memory.kv_tokens)}, or give the cache more memory"
    return "no single change makes it fit: take a larger card, or a smaller model"


def _choose_calls(tier: TierConfig, engine: Engine, typical: float) -> tuple[float, str]:
    """Calls in flight that a replica should work at, and what keeps them from being more."""
    engines = engine.parallel.data
    bounds = {
        "KV cache": math.floor(typical),
        "max_num_seqs": engine.max_num_seqs * engines,
        "target_ongoing_calls": tier.replicas.target_ongoing_calls * engines,
    }
    limit = min(bounds, key=lambda name: bounds[name])
    return max(float(engines), bounds[limit]), limit


def _choose_full(tier: TierConfig, engine: Engine, typical: float) -> float:
    """Calls in flight of a replica that takes no more."""
    engines = engine.parallel.data
    most = min(engine.max_num_seqs, tier.max_ongoing_calls) * engines
    return max(float(engines), min(float(most), math.floor(typical)))


def _need(tier: TierConfig, engine: Engine) -> Need:
    parallel = engine.parallel
    whole = tier.placement_strategy == "STRICT_PACK"
    return Need(
        tier=tier.name,
        group_gpus=parallel.gpus if whole else parallel.tensor,
        groups=1 if whole else parallel.pipeline * parallel.data,
        replicas_min=tier.replicas.min,
        replicas_max=tier.replicas.max,
    )
