"""A whole plan: what is found wrong, and what would fit instead."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.config.app import RouterConfig
from serve_app.offline.planning.cards import GIB, read_card_table
from serve_app.offline.planning.checks import tensor_sizes
from serve_app.offline.planning.models import list_models
from serve_app.offline.planning.plan import Options, Plan, TierPlan, make_plan, plan_tier
from serve_app.offline.planning.planning_errors import PlanningFailed
from serve_app.offline.planning.roofline import Workload
from tests.offline.planning.tiers import engine, facts, fill, tier

B72 = "Qwen/Qwen2.5-72B-Instruct"


def plan_one(model: str, options: Options | None = None, **fields: Any) -> TierPlan:
    return plan_tier(tier(model, **fields), options or Options())


def texts(made: TierPlan, *, fatal: bool = True) -> str:
    findings = made.variants[0].findings
    return "\n".join(str(finding) for finding in findings if finding.fatal or not fatal)


def test_what_does_not_fit_says_what_would() -> None:
    """The shortage in GiB; more GPUs, fewer bits, a shorter context: each of which really fits."""
    arguments = {"tensor_parallel_size": 2, "max_model_len": 32768}
    made = plan_one(B72, engine=arguments)
    [variant] = made.variants
    assert not variant.ok
    assert (variant.speed, variant.cost) == (None, None)
    text = texts(made)
    assert "GiB a GPU are missing" in text
    for words in ("tensor_parallel_size: 4", "quantization fp8", "max_model_len: 9216"):
        assert words in text
    for change in ({"tensor_parallel_size": 4}, {"max_model_len": 9216}):
        assert plan_one(B72, engine={**arguments, **change}).variants[0].ok
    assert fill(B72, "fp8", tensor_parallel_size=2, max_model_len=32768).fits


def test_a_group_takes_the_target_of_each_of_its_engines() -> None:
    """`target_ongoing_calls` is of one engine, so twice as many are in flight on two."""
    replicas = {"target_ongoing_calls": 16}
    engines = {"data_parallel_size": 2, "enable_expert_parallel": True}
    [variant] = plan_one("Qwen/Qwen3-30B-A3B", engine=engines, replicas=replicas).variants
    assert (variant.calls, variant.limited_by) == (32, "target_ongoing_calls")


def test_two_changes_where_one_is_not_enough() -> None:
    """72B on nodes of four A10: fewer bits and more GPUs; 235B: nothing helps."""
    small = plan_one(B72, Options(gpus_per_node=4), accelerator_type="A10")
    assert "quantization awq-int4 with tensor_parallel_size: 4" in texts(small)
    nothing = plan_one("Qwen/Qwen3-235B-A22B", accelerator_type="A10")
    assert "a larger card" in texts(nothing)


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        (B72, {"tensor_parallel_size": 3}, "64 attention heads cannot be divided by 3"),
        ("Qwen/Qwen3-14B", {"tensor_parallel_size": 5}, "8 KV heads can neither be divided"),
        ("Qwen/Qwen2.5-7B", {"tensor_parallel_size": 8}, "take one of 1, 2, 4"),
        (
            "Qwen/Qwen3-235B-A22B-FP8",
            {"tensor_parallel_size": 8},
            "1536 columns over 8 GPUs are 192 each, not a multiple of fp8-block's groups of 128",
        ),
        ("Qwen/Qwen2.5-7B", {"tensor_parallel_size": 28}, "152064 rows of the vocabulary cannot"),
        ("Qwen/Qwen2.5-7B", {"tensor_parallel_size": 28}, "are 676.571 each, not whole"),
        ("Qwen/Qwen3-0.6B", {"pipeline_parallel_size": 29}, "29 stages for 28 layers"),
        ("Qwen/Qwen3-8B", {"max_model_len": 50000}, "50000 tokens, but Qwen3-8B has 40960"),
        (
            "Qwen/Qwen3-Next-80B-A3B-Instruct",
            {"tensor_parallel_size": 32},
            "16 heads of linear attention cannot be divided by 32",
        ),
    ],
)
def test_what_cannot_work(model: str, arguments: dict[str, Any], words: str) -> None:
    """However much memory there is; with what works instead."""
    options = Options(gpus_per_node=64, cards={"": read_card_table()["B200"]})
    assert words in texts(plan_one(model, options, engine=arguments))


@pytest.mark.parametrize(
    ("model", "card", "arguments", "words"),
    [
        ("Qwen/Qwen3-235B-A22B", "H200", {"tensor_parallel_size": 8}, "each is stored 2 times"),
        ("Qwen/Qwen3-32B", "H100", {"pipeline_parallel_size": 3}, "do not divide evenly"),
        ("Qwen/Qwen3-8B", "H100", {"enable_expert_parallel": True}, "has no experts"),
        ("Qwen/Qwen3-8B-FP8", "A100-80G", {}, "does not compute in FP8"),
        ("Qwen/Qwen3-8B", "A10", {"kv_cache_dtype": "fp8", "max_model_len": 4096}, "has no FP8"),
        ("Qwen/Qwen3-8B", "A10", {"max_model_len": 16384}, "fits by 0."),
        ("Qwen/Qwen3-8B", "H100", {"max_model_len": 1000}, "1280 tokens are longer than"),
        (
            "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8",
            "H100",
            {"tensor_parallel_size": 4, "max_model_len": 262144},
            "may be wrong by 4.5",
        ),
        (
            "Qwen/Qwen3-8B",
            "H100",
            {"max_model_len": 50000, "hf_overrides": {"rope_parameters": {}}},
            "50000 tokens",
        ),
    ],
)
def test_what_works_but_should_be_known(
    model: str, card: str, arguments: dict[str, Any], words: str
) -> None:
    """A warning leaves the exit code alone."""
    made = plan_one(model, accelerator_type=card, engine=arguments)
    assert words in texts(made, fatal=False)
    assert words not in texts(made)


def test_whole_experts_need_no_whole_groups() -> None:
    """235B in FP8 over eight GPUs works with EP."""
    arguments = {"tensor_parallel_size": 8, "enable_expert_parallel": True}
    assert plan_one("Qwen/Qwen3-235B-A22B-FP8", engine=arguments).variants[0].ok


def test_a_replica_must_fit_its_node() -> None:
    """STRICT_PACK needs all GPUs on one node; PACK lets stages go apart, but not TP."""
    wide = {"tensor_parallel_size": 8, "pipeline_parallel_size": 2}
    strict = {"strategy": "STRICT_PACK"}
    text = texts(plan_one(B72, engine=wide, placement=strict))
    assert "needs 16 GPUs on one node, which has 8" in text
    pack = {"gpus_per_node": 8}
    assert plan_one(B72, engine=wide, placement=pack).variants[0].ok
    small = Options(gpus_per_node=4)
    text = texts(plan_one(B72, small, engine=wide, placement=pack))
    assert "TP 8 would span nodes" in text


def test_sizes_are_those_that_vllm_takes() -> None:
    """Heads and vocabulary are divided, KV heads are divided or copied evenly."""
    assert tensor_sizes(facts("Qwen2.5-7B")) == [1, 2, 4]
    assert tensor_sizes(facts("Qwen2.5-0.5B")) == [1, 2]
    assert tensor_sizes(facts("Qwen2.5-72B")) == [1, 2, 4, 8, 16, 32, 64]


def test_quantisations_side_by_side() -> None:
    """The config's own first; the padded 72B of AWQ; the same one not twice."""
    options = Options(quantizations=("bf16", "fp8", "awq"), nodes=1)
    made = plan_one(B72, options, engine={"tensor_parallel_size": 4})
    assert [variant.scheme for variant in made.variants] == ["bf16", "fp8", "awq-int4"]
    assert all(variant.ok for variant in made.variants)
    weights = [variant.memory.weights_bytes for variant in made.variants]
    assert weights == sorted(weights, reverse=True)


def test_fp8_by_channel_needs_fp8() -> None:
    """vLLM refuses to start it on Ampere, where plain fp8 is only not faster."""
    for name, ok in (("fp8_per_channel", False), ("fp8", True)):
        made = plan_one("Qwen/Qwen3-8B", accelerator_type="A100", engine={"quantization": name})
        assert made.variants[0].ok is ok


def test_an_unknown_quantisation_is_planned_with_the_nearest() -> None:
    """What the message says to do works, and the plan says that it was done."""
    unknown = {"quantization": "torchao"}
    with pytest.raises(PlanningFailed, match="give --quantization"):
        plan_one("Qwen/Qwen3-8B", engine=unknown)
    made = plan_one("Qwen/Qwen3-8B", Options(quantizations=("int8", "bf16")), engine=unknown)
    assert [variant.scheme for variant in made.variants] == ["int8", "bf16"]
    assert "it assumes int8" in texts(made, fatal=False)


def test_int8_experts_do_nothing_for_a_dense_model() -> None:
    """vLLM takes the key, and so does the plan, which says what it is worth."""
    weight_only = {"quantization": "int8_per_channel_weight_only"}
    dense, plain = (plan_one("Qwen/Qwen3-8B", engine=engine) for engine in (weight_only, {}))
    assert "all stays in 16 bit" in texts(dense, fatal=False)
    assert dense.variants[0].memory == plain.variants[0].memory
    mixture = plan_one("Qwen/Qwen3-30B-A3B", engine=weight_only, accelerator_type="H100")
    assert mixture.variants[0].memory.weights_bytes < 35 * GIB


def test_weights_packed_online_are_read_in_16_bit() -> None:
    """FP8 out of a 16-bit checkpoint is small on the GPU, not on the disk."""
    made = plan_one(
        B72, Options(quantizations=("fp8", "fp8-file")), engine={"tensor_parallel_size": 4}
    )
    bf16, online, file = (variant.cost for variant in made.variants if variant.cost)
    assert bf16.load_s == online.load_s == pytest.approx(72.7, abs=0.1)
    assert file.load_s == pytest.approx(37.6, abs=0.1)
    weights = [variant.memory.weights_bytes for variant in made.variants]
    assert weights[1] == weights[2] < weights[0]


@pytest.mark.parametrize("model", list_models())
def test_every_shipped_model_can_be_planned(model: str) -> None:
    """On eight B300 in 16 bit or as it is published, and on sizes from one GPU on."""
    options = Options(cards={"": read_card_table()["B300"]}, tensor_parallels=(1, 2, 4, 8))
    made = plan_one(model, options, engine={"max_model_len": 8192})
    able = [variant for variant in made.compared if variant.ok]
    assert able
    for variant in able:
        assert variant.speed is not None
        assert 0 < variant.speed.ttft_s < 2
        assert variant.memory.calls(8192) >= 1


def test_gpt_oss_is_not_told_to_change_its_kind() -> None:
    """It comes in MXFP4 alone: more GPUs or a shorter context help where it does not fit."""
    made = plan_one("openai/gpt-oss-120b", accelerator_type="L40S")
    assert "tensor_parallel_size: 2" in texts(made)
    assert "quantization" not in texts(made)


@pytest.mark.parametrize("model", ["Qwen/Qwen3-Next-80B-A3B-Instruct", "openai/gpt-oss-20b"])
def test_stages_of_a_hybrid_are_refused(model: str) -> None:
    """Which kinds of layers a stage has is not known here; without stages it can be planned."""
    with pytest.raises(PlanningFailed, match=r"pipeline_parallel_size: .* take 1"):
        plan_one(model, engine={"pipeline_parallel_size": 2})
    assert plan_one(model, engine={"tensor_parallel_size": 4}).variants[0].ok


def test_images_take_memory() -> None:
    """The tower's weights, and what vLLM keeps free for the largest image."""
    made = plan_one("Qwen/Qwen3-VL-8B-Instruct", engine={"max_model_len": 32768}).variants[0]
    text = plan_one("Qwen/Qwen3-8B", engine={"max_model_len": 32768}).variants[0]
    more = made.memory.weights_bytes - text.memory.weights_bytes
    assert more == 2 * facts("Qwen3-VL-8B").vision
    assert made.memory.activation_bytes > text.memory.activation_bytes + 1e9


def test_a_margin_smaller_than_the_memory_of_images_is_a_warning() -> None:
    """No log confirms that memory, so all of it may be wrong."""
    engine = {"max_model_len": 32768, "gpu_memory_utilization": 0.34}
    made = plan_one("Qwen/Qwen3-VL-8B-Instruct", engine=engine)
    assert made.variants[0].ok
    assert "may be wrong by" in texts(made, fatal=False)


def test_calls_in_flight_are_bounded_by_the_tightest() -> None:
    """The target of autoscaling, max_num_seqs or the cache, whichever is least."""
    replicas = {"target_ongoing_calls": 64}

    def limit(load: Workload, **arguments: Any) -> tuple[float, str]:
        made = plan_one("Qwen/Qwen3-8B", Options(load=load), replicas=replicas, engine=arguments)
        return made.variants[0].calls, made.variants[0].limited_by

    assert limit(Workload()) == (64, "target_ongoing_calls")
    assert limit(Workload(), max_num_seqs=8) == (8, "max_num_seqs")
    calls, limited_by = limit(Workload(30000, 1000))
    assert (0 < calls < 20, limited_by) == (True, "KV cache")


def test_cards_come_from_the_option_first() -> None:
    """For one tier, for all, or from accelerator_type; none is an error."""
    cards = read_card_table()
    strong = tier(name="strong")
    both = Options(cards={"": cards["L4"], "strong": cards["H200"]})
    plans = [plan_tier(one, both).card for one in (tier(), strong)]
    assert plans == [cards["L4"], cards["H200"]]
    with pytest.raises(PlanningFailed, match="accelerator_type names no GPU"):
        plan_tier(tier(accelerator_type=None), Options())
    with pytest.raises(PlanningFailed, match=r"accelerator_type: card 'A1' is ambiguous"):
        plan_tier(tier(accelerator_type="A1"), Options())
    with pytest.raises(PlanningFailed, match="no tier 'slow', only fast"):
        make_plan([tier()], Options(cards={"slow": cards["L4"]}))


@pytest.mark.parametrize(
    ("accelerator_type", "card", "words"),
    [
        (
            "A100",
            "A100-40G",
            "Ray gives A100-40G and A100-80G this name; A100-40G, the smallest, is assumed",
        ),
        ("A100-80G", "A100-80G", "Ray names this card A100: no node has the name A100-80G"),
        ("H100-NVL", "H100-NVL", "accelerator_type: H100, and --card H100-NVL for the plan"),
    ],
)
def test_names_that_ray_and_the_plan_do_not_share(
    accelerator_type: str, card: str, words: str
) -> None:
    """A card is planned with, and what is to be written is said."""
    made = plan_one("Qwen/Qwen3-0.6B", accelerator_type=accelerator_type)
    assert made.card is not None
    assert (made.card.name, words in texts(made, fatal=False)) == (card, True)
    assert texts(made) == ""


@pytest.mark.parametrize("name", ["A10", "L20", "GH200"])
def test_names_that_ray_serve_llm_does_not_take(name: str) -> None:
    """They are an error in the config; the card itself is planned with by --card."""
    assert f"ray.serve.llm does not take {name}" in texts(
        plan_one("Qwen/Qwen3-0.6B", accelerator_type=name)
    )
    options = Options(cards={"": read_card_table()[name]})
    assert plan_one("Qwen/Qwen3-0.6B", options, accelerator_type=None).variants[0].ok


def test_a_card_by_option_settles_which_it_is() -> None:
    """`A100` in the config and `--card A100-80G` is how a plan for bare metal is made."""
    options = Options(cards={"": read_card_table()["A100-80G"]})
    made = plan_one("Qwen/Qwen3-0.6B", options, accelerator_type="A100")
    assert made.card == read_card_table()["A100-80G"]
    assert texts(made, fatal=False) == ""


def plan_two(nodes: int) -> Plan:
    fast = tier(replicas={"min": 2, "max": 8})
    strong = tier(
        B72, name="strong", engine={"tensor_parallel_size": 4}, replicas={"min": 1, "max": 4}
    )
    return make_plan([fast, strong], Options(nodes=nodes, gpus_per_node=4))


def test_nodes_are_for_all_tiers_together() -> None:
    """One node of four is too little for the fewest replicas, two are not; six hold the most."""
    one, two, six = (plan_two(nodes) for nodes in (1, 2, 6))
    assert [plan.ok for plan in (one, two, six)] == [False, True, True]
    assert "--nodes 2" in str(one.findings[-1])
    assert "--nodes 6" in str(two.findings[0])
    assert [finding.what for finding in six.findings] == [
        "one lost node takes all replicas of fast, at the fewest"
    ]


def test_nodes_are_as_large_as_each_tier_says() -> None:
    """Without the option: one node of two GPUs for one tier, one of eight for the other."""
    fast = tier(placement={"gpus_per_node": 2}, replicas={"min": 2, "max": 2})
    strong = tier(
        B72,
        name="strong",
        engine={"tensor_parallel_size": 4},
        placement={"gpus_per_node": 8},
    )
    pools = make_plan([fast, strong], Options(nodes=1, own_nodes=True)).pools
    assert [(pool.gpus_per_node, pool.nodes_for_max) for pool in pools] == [(2, 1), (8, 1)]


def test_slots_may_be_what_is_missing() -> None:
    """There are GPUs for two replicas, but a node holds one; it says so."""
    placement = {"gpus_per_node": 8, "resources_per_replica": {"slot": 1}}
    slotted = tier(placement=placement, replicas={"min": 2, "max": 2})
    [finding] = make_plan([slotted], Options(nodes=1)).findings
    assert finding.fatal
    assert "need 2 GPUs, and labels, slots or the size of replicas" in finding.what
    assert finding.mend.startswith("--nodes 2")


def test_routers_that_share_no_node_need_as_many() -> None:
    """A warning, for they may be on nodes without GPUs."""
    router = RouterConfig.model_validate(
        {"replicas": {"min": 2, "max": 2}, "max_replicas_per_node": 1}
    )
    one, two = (make_plan([tier()], Options(nodes=nodes, router=router)) for nodes in (1, 2))
    assert "2 Routers, 1 a node, and 1 with GPUs" in str(one.findings[-1])
    assert (one.ok, two.findings) == (True, [])


def test_each_kind_of_gpu_has_nodes_of_its_own() -> None:
    """A mixed cluster is two pools."""
    fast = tier(accelerator_type="L4", engine={"max_model_len": 8192})
    strong = tier(B72, name="strong", engine={"tensor_parallel_size": 4})
    pools = make_plan([fast, strong], Options(nodes=1)).pools
    assert [(pool.card, pool.gpus_min) for pool in pools] == [("L4", 1), ("H100", 4)]


def test_a_tier_on_cpu_gets_what_makes_sense() -> None:
    """Weights and cache; no speed, no cost, no GPUs."""
    demo = tier(
        "demo-fast",
        model_source="demo:fast",
        accelerator="cpu",
        accelerator_type=None,
        engine={"max_model_len": 8192, "num_gpu_blocks_override": 1024},
    )
    plan = make_plan([demo], Options(nodes=1))
    [variant] = plan.tiers[0].variants
    assert (variant.memory.kv_tokens, variant.speed, plan.pools) == (131072, None, [])
    assert plan.ok
    short = demo.model_copy(
        update={"engine": {"max_model_len": 8192, "num_gpu_blocks_override": 9}}
    )
    [finding] = make_plan([short], Options()).findings
    assert finding.mend.startswith("set max_model_len to 1152")


def test_an_engine_of_unknown_kind_is_named_with_its_tier() -> None:
    """In a config of several tiers one must know which."""
    with pytest.raises(PlanningFailed, match=r"tiers\.fast: engine\.kv_cache_dtype"):
        plan_tier(tier(engine={"kv_cache_dtype": "nvfp4"}), Options())
    assert engine().quantization is None
