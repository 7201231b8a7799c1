"""The plan of a config: every tier under every requested quantisation, and the cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from serve_app.config.app import RouterConfig
from serve_app.config.tiers import TierConfig
from serve_app.model_files.finding import Finding
from serve_app.offline.planning.cards import Card, find_ray_cards, parse_card, read_card_table
from serve_app.offline.planning.checks import (
    check_card,
    check_division,
    check_length,
    check_margin,
    check_name,
    check_node,
    check_scheme,
)
from serve_app.offline.planning.cost import Cost, Need, Pool, plan_pool, price_tier
from serve_app.offline.planning.engine import Engine, read_engine
from serve_app.offline.planning.memory import Memory, Weights, measure
from serve_app.offline.planning.models import ModelFacts
from serve_app.offline.planning.planning_errors import PlanningFailed, SchemeUnknown
from serve_app.offline.planning.quantization import SCHEMES, Scheme, choose_scheme, find_scheme, pad
from serve_app.offline.planning.queues import Queue
from serve_app.offline.planning.resolve import Resolved, resolve_model
from serve_app.offline.planning.roofline import Roofline, Speed, Workload
from serve_app.offline.planning.starting import Rates, estimate_rates
from serve_app.offline.planning.suggest import suggest


@dataclass(frozen=True)
class Options:
    """The facts that the config does not hold."""

    cards: dict[str, Card] = field(default_factory=dict)
    """The cards by tier; the empty name holds the card of all other tiers."""
    quantizations: tuple[str, ...] = ()
    """The quantisations to compare with the config's own."""
    tensor_parallels: tuple[int, ...] = ()
    """The sizes to compare, each under each quantisation."""
    load: Workload = field(default_factory=Workload)
    nodes: int | None = None
    gpus_per_node: int = 8
    own_nodes: bool = False
    """Whether each tier's own `gpus_per_node` counts, and not the number above."""
    router: RouterConfig | None = None
    disk_gb_s: float = 2.0
    utilization: float = 0.5
    price_per_gpu_hour: float | None = None


@dataclass(frozen=True)
class Variant:
    """A tier under one quantisation, on one number of GPUs."""

    scheme: str
    parallel: str
    gpus: int
    memory: Memory
    longest_tokens: int
    """The longest context that a replica could hold, up to the model's positions."""
    typical_calls: float
    """Concurrent calls of the typical length that the cache can hold."""
    calls: float
    """The calls in flight to which the speeds apply."""
    limited_by: str
    speed: Speed | None
    cost: Cost | None
    findings: list[Finding]
    rates: Rates | None = None
    """The rates of a full replica, to start `replicas.policy: llm` with."""

    @property
    def ok(self) -> bool:
        """Whether the variant can be started."""
        return not any(finding.fatal for finding in self.findings)

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of a million output tokens; infinite if the variant cannot be started."""
        return math.inf if self.cost is None else self.cost.gpu_hours_a_million


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
    """The variants; the config's own is first."""
    compared: list[Variant]
    """The comparison: every quantisation on every size, if a comparison is requested."""
    reads: bool = False
    """Whether the model writes nothing: it makes vectors or scores."""


@dataclass(frozen=True)
class Plan:
    """All tiers, and the nodes that they share."""

    load: Workload
    disk_gb_s: float
    utilization: float
    price_per_gpu_hour: float | None
    tiers: list[TierPlan]
    pools: list[Pool]
    router_findings: list[Finding] = field(default_factory=list)
    queues: list[Queue] = field(default_factory=list)
    """The queues of calls that wait for a tier, if the whole config is known."""

    @property
    def findings(self) -> list[Finding]:
        """The findings about the config as it is."""
        return [
            *(f for tier in self.tiers for f in tier.variants[0].findings),
            *self._pool_findings,
            *self.router_findings,
            *(finding for queue in self.queues for finding in queue.check()),
        ]

    @property
    def rates(self) -> dict[str, Rates | None]:
        """The rates by tier that writes, for the config as it is."""
        return {tier.tier: None if tier.reads else tier.variants[0].rates for tier in self.tiers}

    @property
    def ok(self) -> bool:
        """Whether the config can be started as it is."""
        return not any(finding.fatal for finding in self.findings)

    @property
    def _pool_findings(self) -> Iterator[Finding]:
        for pool in self.pools:
            where = f"{pool.nodes} nodes of {pool.gpus_per_node} x {pool.card}"
            if not pool.min_fits and pool.nodes_for_min:
                what = _tell_need("replicas.min", pool.gpus_min, pool)
                yield Finding(where, what, f"--nodes {pool.nodes_for_min}, or fewer replicas")
            elif not pool.max_fits and pool.nodes_for_max:
                what = _tell_need("replicas.max", pool.gpus_max, pool)
                mend = f"--nodes {pool.nodes_for_max}, or scale less far"
                yield Finding(where, what, mend, fatal=False)
            for tier in pool.together:
                what = f"one lost node takes all replicas of {tier}, at the fewest"
                mend = (
                    "slots keep them apart; pods of cluster/kuberay are spread: docs/placement.md"
                )
                yield Finding(f"tiers.{tier}.placement", what, mend, fatal=False)


def _tell_need(key: str, gpus: int, pool: Pool) -> str:
    """Check that the cluster has enough GPUs, on nodes where a replica may use them."""
    apart = gpus <= pool.nodes * pool.gpus_per_node
    rest = (
        ", and labels, slots or the size of replicas leave some replicas without a place"
        if apart
        else ""
    )
    return f"{key} of all tiers need {gpus} GPUs{rest}"


def make_plan(tiers: Sequence[TierConfig], options: Options) -> Plan:
    """Plan every tier, then the nodes for all of them together.

    Raises:
        PlanningFailed: a model, card or quantisation is not known.
    """
    for name in options.cards.keys() - {"", *(tier.name for tier in tiers)}:
        names = ", ".join(tier.name for tier in tiers)
        raise PlanningFailed(f"--card {name}=...: there is no tier '{name}', only {names}")
    plans = [plan_tier(tier, _at_home(tier, options)) for tier in tiers]
    pools = []
    if options.nodes is not None:
        kinds: dict[tuple[str, int], list[TierConfig]] = {}
        for tier, plan in zip(tiers, plans, strict=True):
            if plan.card is not None:
                kind = plan.card.name, _at_home(tier, options).gpus_per_node
                kinds.setdefault(kind, []).append(tier)
        pools = [plan_pool(card, options.nodes, gpus, on) for (card, gpus), on in kinds.items()]
    return Plan(
        load=options.load,
        disk_gb_s=options.disk_gb_s,
        utilization=options.utilization,
        price_per_gpu_hour=options.price_per_gpu_hour,
        tiers=plans,
        pools=pools,
        router_findings=list(_check_routers(options, len(pools))),
    )


def _at_home(tier: TierConfig, options: Options) -> Options:
    """The options, with the nodes that the tier is meant for."""
    if not options.own_nodes:
        return options
    return replace(options, gpus_per_node=tier.placement.gpus_per_node)


def _check_routers(options: Options, kinds: int) -> Iterator[Finding]:
    """Check that there are enough nodes for Routers that must not share a node."""
    router, nodes = options.router, (options.nodes or 0) * kinds
    if not nodes or router is None or router.max_replicas_per_node is None:
        return
    wanted = math.ceil(router.replicas.min / router.max_replicas_per_node)
    if wanted > nodes:
        what = (
            f"{router.replicas.min} Routers, {router.max_replicas_per_node} a node, and "
            f"{nodes} with GPUs"
        )
        mend = f"--nodes {wanted}, or nodes without GPUs for the Routers, as pods are"
        yield Finding("router.replicas.min", what, mend, fatal=False)


def plan_tier(tier: TierConfig, options: Options) -> TierPlan:
    """Plan one tier under its own quantisation, and under the quantisations to compare."""
    resolved = resolve_model(tier)
    card = _choose_card(tier, options)
    try:
        engine = read_engine(tier, card)
        own = _choose_own(resolved, engine, options)
    except PlanningFailed as failure:
        raise PlanningFailed(f"tiers.{tier.name}: {failure}") from None
    if resolved.facts.hybrid and engine.parallel.pipeline > 1:
        raise PlanningFailed(
            f"tiers.{tier.name}.engine.pipeline_parallel_size: {resolved.facts.name} has layers of "
            "several kinds, and the plan cannot assign them to stages; take 1"
        )
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
        compared=[
            _plan_variant(tier, facts, scheme, resize(engine, size), card, options)
            for scheme in schemes
            for size in (options.tensor_parallels if card else ())
        ],
        reads="generate" not in tier.tasks,
    )


def resize(engine: Engine, tensor: int) -> Engine:
    """The engine on another number of GPUs."""
    return replace(engine, parallel=replace(engine.parallel, tensor=tensor))


def _choose_own(resolved: Resolved, engine: Engine, options: Options) -> Scheme:
    """The config's own scheme or, if it is not known, the first scheme of the comparison."""
    try:
        return choose_scheme(engine.quantization, resolved.suffix, resolved.stated)
    except SchemeUnknown:
        if not options.quantizations:
            raise
        return replace(find_scheme(options.quantizations[0]), assumed=True)


def _is_given(tier: TierConfig, options: Options) -> bool:
    return bool(options.cards.keys() & {tier.name, ""})


def _choose_card(tier: TierConfig, options: Options) -> Card | None:
    if tier.accelerator == "cpu":
        return None
    if _is_given(tier, options):
        return options.cards.get(tier.name) or options.cards[""]
    if tier.accelerator_type is None:
        raise PlanningFailed(
            f"tiers.{tier.name}: accelerator_type names no GPU; give one with --card"
        )
    try:
        return _card_of_type(tier.accelerator_type)
    except PlanningFailed as failure:
        raise PlanningFailed(f"tiers.{tier.name}.accelerator_type: {failure}") from None


def _card_of_type(accelerator_type: str) -> Card:
    """The card with this name or, of the cards with this name in Ray, the card with the least
    memory."""
    alike = find_ray_cards(accelerator_type)
    if accelerator_type in read_card_table() or not alike:
        return parse_card(accelerator_type)
    return alike[0]


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
    typical = memory.calls(options.load.tokens)
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
        parallel=str(engine.parallel),
        gpus=engine.parallel.gpus if card else 0,
        memory=memory,
        longest_tokens=min(memory.longest_tokens, facts.positions),
        typical_calls=typical,
        calls=calls,
        limited_by=limit,
        speed=speed,
        cost=cost,
        findings=findings,
        rates=rates,
    )


def checkpoint_bytes(facts: ModelFacts, scheme: Scheme, engine: Engine) -> float:
    """Bytes of the files that are read: without padding, and in 16 bit if vLLM packs the weights
    itself."""
    stored = SCHEMES["bf16"] if scheme.online else scheme
    packed = facts.packed
    experts = facts.layers * facts.expert * facts.experts
    weights = Weights(packed, facts.parameters - packed, 0.0, experts)
    return weights.bytes(stored, engine.element_bytes)


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
        yield from check_name(where, tier.accelerator_type, given=_is_given(tier, options))
        yield from check_card(where, scheme, engine, card)
        yield from check_scheme(where, facts, scheme)
        yield from check_node(where, tier.placement_strategy, engine, options.gpus_per_node)
        if not engine.fixed_cache:
            yield from check_margin(where, facts, scheme, engine, memory)
    if card is None and engine.cpu_cache_bytes is None and engine.num_gpu_blocks_override is None:
        return  # vLLM takes the free part of the machine's memory.
    if not memory.fits:
        what = _tell_shortage(memory, card)
        ways = suggest(facts, scheme, engine, card, options.gpus_per_node) if card else []
        mend = "; or ".join(ways) or _mend_alone(memory, card)
        yield Finding(f"{where}.engine", what, mend)


def _tell_shortage(memory: Memory, card: Card | None) -> str:
    gib = 1024**3
    need = memory.call_bytes
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
        return (
            f"set max_model_len to {max(1, memory.longest_tokens)}, or give the cache more memory"
        )
    return "no single change makes it fit: take a larger card, or a smaller model"


def _choose_calls(tier: TierConfig, engine: Engine, typical: float) -> tuple[float, str]:
    """The calls in flight that a replica should have, and the limit that keeps it from more."""
    engines = engine.parallel.data
    bounds = {
        "KV cache": math.floor(typical),
        "max_num_seqs": engine.max_num_seqs * engines,
        "target_ongoing_calls": tier.replicas.target_ongoing_calls * engines,
    }
    limit = min(bounds, key=lambda name: bounds[name])
    return max(float(engines), bounds[limit]), limit


def _choose_full(tier: TierConfig, engine: Engine, typical: float) -> float:
    """Calls in flight of a full replica."""
    engines = engine.parallel.data
    most = min(engine.max_num_seqs, tier.max_ongoing_calls) * engines
    return max(float(engines), min(float(most), math.floor(typical)))


def _need(tier: TierConfig, engine: Engine) -> Need:
    return Need(engine.parallel.gpus, tier.replicas.min, tier.replicas.max)
