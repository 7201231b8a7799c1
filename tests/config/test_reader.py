"""Reading a Serve config file: what is wrong is said by key, with what to write instead."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from datetime import date
from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

from serve_app.config.app import (
    AppConfig,
    RouterConfig,
    RouterReplicasConfig,
    check_runtime,
    complete_runtime,
)
from serve_app.config.docs import render_config_docs
from serve_app.config.reader import ConfigError, read_serve_config
from serve_app.config.runtime import RoutingConfig, RuntimeConfig
from serve_app.config.serve_file import APPLICATION_KEYS, DEPLOYMENT_KEYS, FILE_KEYS
from serve_app.config.tiers import TierConfig

DOCS = Path(__file__).parents[2] / "docs/config.md"
FAST = {"name": "fast", "model_id": "m"}
PIPELINE = {"pipeline_parallel_size": 2}
GROUP = {"data_parallel_size": 2}
FP8 = {"quantization": "fp8"}
VALID: dict[str, Any] = {
    "http_options": {"host": "0.0.0.0", "port": 9000},
    "applications": [
        {
            "name": "llm",
            "import_path": "serve_app.app:build",
            "args": {"tiers": [FAST]},
            "deployments": [{"name": "Router", "user_config": {"limits": {"calls_max": 7}}}],
        }
    ],
}

Load = Callable[[object], Any]


def valid_with(path: str, value: object) -> dict[str, Any]:
    """The valid document, with one key set; `path` starts within the application."""
    document = copy.deepcopy(VALID)
    *parents, last = path.split(".")
    place: Any = document["applications"][0]
    for part in parents:
        place = place[int(part)] if part.isdigit() else place.setdefault(part, {})
    place[last] = value
    return document


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a document by way of a file; text and bytes are written as they are."""

    def load(document: object) -> Any:
        path = tmp_path / "serve.yaml"
        if isinstance(document, bytes):
            path.write_bytes(document)
        else:
            path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        return read_serve_config(path)

    return load


def test_a_valid_file(load: Load) -> None:
    """Topology, run time and public address all come from the one file."""
    config = load(VALID)
    assert [tier.name for tier in config.app.tiers] == ["fast"]
    assert config.runtime.limits.calls_max == 7
    assert config.base_url == "http://127.0.0.1:9000"
    assert config.with_port(9001).base_url == "http://127.0.0.1:9001"
    assert config.document == VALID


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"host": "::1"}, "http://[::1]:8000"),
        ({"host": "fd00::7", "port": 9000}, "http://[fd00::7]:9000"),
        ({"host": "::"}, "http://127.0.0.1:8000"),
        ({"host": "gateway.example"}, "http://gateway.example:8000"),
        ({}, "http://127.0.0.1:8000"),
    ],
)
def test_base_url(load: Load, options: dict[str, Any], url: str) -> None:
    """An IPv6 address is in brackets, and an address that means all is reached on this machine."""
    assert load({**VALID, "http_options": options}).base_url == url


@pytest.mark.parametrize(("prefix", "path"), [("/", ""), ("/llm", "/llm"), (None, "")])
def test_base_url_holds_the_route_prefix(load: Load, prefix: str | None, path: str) -> None:
    """`serve-app up` looks for `/ready` below it."""
    loaded = load(valid_with("route_prefix", prefix))
    assert loaded.base_url == f"http://127.0.0.1:9000{path}"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("args.teirs", [], ["teirs", "did you mean 'tiers'"]),
        ("args.tiers.0.modelid", "m", ["tiers.0.modelid", "did you mean 'model_id'"]),
        ("args.tiers.0.replicas.mim", 1, ["replicas.mim", "did you mean 'min'"]),
        ("args.tiers.0.zzz", 1, ["tiers.0.zzz: unknown key"]),
        ("args.router.cpu", 1, ["router.cpu", "did you mean 'cpus'"]),
        ("args.tiers", [], ["tiers", "at least 1"]),
        ("args.tiers.0.name", "Fast!", ["tiers.0.name", "pattern"]),
        ("args.tiers.0.name", "auto", ["tiers.0.name", "reserved"]),
        ("args.tiers.0.model_id", "auto", ["tiers.0.model_id", "reserved"]),
        ("args", 5, ["applications.0.args: expected a map, not 5"]),
        ("args.tiers.0.env", {"A": 1}, ["env.A: expected text (in quotes), not 1"]),
        ("args.tiers.0.engine", {"revision": date(2026, 1, 2)}, ["engine.revision: expected text"]),
        ("args.tiers.0.replicas.max", 5000, ["replicas.max", "1024"]),
        ("args.tiers.0.placement.cpus_per_worker", inf, ["cpus_per_worker", "finite"]),
        ("args.router.replicas.min", 5, ["router.replicas", "max (4)", "min (5)"]),
        ("args.tiers.0.accelerator", "tpu", ["tiers.0.accelerator", "'cpu' or 'gpu'"]),
        ("args.tiers.0.max_ongoing_calls", 5000, ["max_ongoing_calls", "4096"]),
        ("args.tiers.0.max_ongoing_calls", 8, ["max_ongoing_calls (8)", "target_ongoing_calls"]),
        ("args.tiers.0.max_queued_calls", 1e9, ["max_queued_calls", "65536"]),
        ("args.tiers.0.drain_timeout_s", 0, ["drain_timeout_s", "greater than 0"]),
        ("args.tiers.0.replicas", {"min": 3, "max": 2}, ["max (2)", "min (3)"]),
        ("args.router.max_ongoing_calls", 0, ["router.max_ongoing_calls", "1"]),
        ("args.runtime.routing.default_tier", "huge", ["routing.default_tier", "'huge'", "fast"]),
        ("args.tiers.0.sha256sums", "SHA256SUMS", ["sha256sums", "absolute directory, not 'm'"]),
        ("args.tiers.0.sha256sums", {}, ["tiers.0.sha256sums", "empty"]),
        ("args.tiers.0.sha256sums", {"a": "12"}, ["tiers.0.sha256sums", "64 hexadecimal"]),
        ("args.tiers.0.sha256sums", {"../a": "0" * 64}, ["tiers.0.sha256sums", "'../a'"]),
        ("args.tiers.0.sha256sums", ["a"], ["tiers.0.sha256sums"]),
        ("args.tiers.0.drain_timeout_s", inf, ["drain_timeout_s", "finite"]),
        ("args.router.drain_timeout_s", 1e6, ["router.drain_timeout_s", "86400"]),
        (
            "args.tiers",
            [{"name": "a", "model_id": "m"}, {"name": "b", "model_id": "m"}],
            ["'m' names more than one tier"],
        ),
        (
            "args.tiers",
            [{"name": "a", "model_id": "m", "accelerator": "cpu", "accelerator_type": "H100"}],
            ["tiers.0", "accelerator_type"],
        ),
        (
            "args.tiers",
            [{"name": "a", "model_id": "m", "accelerator": "cpu", "engine": PIPELINE}],
            ["tiers.0", "engine.pipeline_parallel_size", "tensor_parallel_size"],
        ),
        (
            "args.tiers",
            [{"name": "a", "model_id": "m", "accelerator": "cpu", "engine": FP8}],
            ["tiers.0", "engine.quantization", "int8_per_channel_weight_only"],
        ),
        (
            "args.tiers",
            [{"name": "a", "model_id": "m", "engine": GROUP, "replicas": {"policy": "llm"}}],
            ["replicas.policy: llm", "data_parallel_size", "ongoing_calls"],
        ),
        (
            "args.tiers",
            [
                {
                    "name": "a",
                    "model_id": "m",
                    "engine": GROUP,
                    "placement": {"strategy": "STRICT_PACK"},
                }
            ],
            ["placement.strategy: STRICT_PACK", "data_parallel_size", "`auto`"],
        ),
        (
            "args.tiers",
            [
                {
                    "name": "a",
                    "model_id": "m",
                    "engine": GROUP,
                    "placement": {"resources_per_replica": {"slot": 1}},
                }
            ],
            ["resources_per_replica", "data_parallel_size", "resources_per_worker"],
        ),
        (
            "args.tiers",
            [{"name": "a", "model_id": "m", "adapters": {"legal": "legal"}}],
            ["legal: 'legal' is not an absolute directory"],
        ),
        (
            "args.tiers",
            [{"name": "a", "model_id": "m", "adapters": {"auto": "/x"}}],
            ["'auto' cannot name an adapter"],
        ),
        (
            "args.tiers",
            [{"name": "a", "model_id": "m", "adapters": {"m": "/x"}}],
            ["'m' names more than one tier"],
        ),
        (
            "args.tiers",
            [{"name": "a", "model_id": "m", "engine": {"tensor_parallel_size": 16}}],
            ["tensor_parallel_size (16)", "gpus_per_node (8)", "pipeline_parallel_size"],
        ),
        (
            "args.tiers",
            [
                {
                    "name": "a",
                    "model_id": "m",
                    "engine": {"tensor_parallel_size": 2},
                    "placement": {"strategy": "SPREAD"},
                }
            ],
            ["SPREAD would spread the 2 GPUs"],
        ),
        (
            "args.tiers",
            [{"name": "a", "model_id": "m", "placement": {"gpus_per_worker": 0.5}}],
            ["engines that share a GPU start at the same time", "kv_cache_memory_bytes"],
        ),
        (
            "args.tiers",
            [
                {
                    "name": "a",
                    "model_id": "m",
                    "engine": {"tensor_parallel_size": 2, "kv_cache_memory_bytes": 1},
                    "placement": {"gpus_per_worker": 0.5},
                }
            ],
            ["only engines of one worker can share a GPU"],
        ),
        (
            "args.tiers",
            [{"name": "a", "model_id": "m", "placement": {"node_labels": {"pool": "in(a"}}}],
            ["'pool: in(a' is not a label selector", "`in(a,b)`"],
        ),
        (
            "args.tiers.0.placement",
            {"resources_per_worker": {"GPU": 2}},
            ["'GPU' is a resource of Ray's own"],
        ),
        (
            "args.tiers.0.placement",
            {"resources_per_replica": {"accelerator_type:H100": 1}},
            ["'accelerator_type:H100' is a resource of Ray's own", "`accelerator_type`"],
        ),
        (
            "args.tiers.0.replicas",
            {"policy": "llm", "floors": [{"frm": "08:00"}]},
            ["floors.0.frm: unknown key; did you mean 'from'"],
        ),
    ],
)
def test_a_wrong_topology(load: Load, path: str, value: object, words: list[str]) -> None:
    """The message names the key, and its bound or its nearest valid neighbour."""
    with pytest.raises(ConfigError) as caught:
        load(valid_with(path, value))
    assert "applications" in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("routing.strong_score", 0.5, ["routing.strong_score", "'strong_score_min'"]),
        ("routing.strong_score_min", 1.5, ["routing.strong_score_min", "less than or equal to 1"]),
        ("routing.default_tier", "huge", ["routing.default_tier", "'huge'", "fast"]),
        ("routing.strong_ratio_target", 30, ["routing.strong_ratio_target", "or equal to 1"]),
        ("routing.strong_score_min_bounds", [0.7, 0.3], ["strong_score_min_bounds", "0.7", "0.3"]),
        ("routing.strong_score_min_bounds", [0.7], ["routing.strong_score_min_bounds"]),
        ("routing.strong_score_min_bounds", [0, 2], ["routing.strong_score_min_bounds", "1"]),
        ("routing.never_below", "huge", ["routing.never_below", "'huge'", "fast"]),
        ("routing.never_above", "huge", ["routing.never_above", "'huge'", "fast"]),
        ("routing.load.first_token_target", 1, ["'first_token_target_s'"]),
        ("limits.calls_max", 0, ["limits.calls_max", "greater than 0"]),
        ("deadlines.gap_s", "soon", ["deadlines.gap_s", "number"]),
        ("deadlines.gap_s", inf, ["deadlines.gap_s", "finite"]),
        ("deadlines.total_s", 1e6, ["deadlines.total_s", "86400"]),
        ("limits.calls_max", 1e6, ["limits.calls_max", "65536"]),
        ("limits.body_bytes_max", 2**31, ["limits.body_bytes_max", "1073741824"]),
        ("leases.reuse_s", 5, ["leases.reuse_s", "0.9"]),
    ],
)
def test_a_wrong_user_config(load: Load, path: str, value: object, words: list[str]) -> None:
    """What changes at run time is checked as strictly, tier names included."""
    with pytest.raises(ConfigError) as caught:
        load(valid_with(f"deployments.0.user_config.{path}", value))
    assert "Router.user_config" in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("applications: [", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("a: {b: 1, c: 2, b: 3}", "the key 'b' is there twice"),
        ("name: café".encode("latin-1"), "not UTF-8 from byte 9 on; save it as UTF-8"),
        ("", "the whole config: expected a map, not null"),
        ("just text", "the whole config: expected a map, not 'just text'"),
        ({"applications": 5}, "applications: expected a list, not 5"),
        ({"applications": []}, "none with import_path serve_app.app:build"),
        ({"applications": [{"import_path": "other:app"}]}, "none with import_path"),
        ({"applications": ["serve_app.app:build"]}, "applications.0: expected a map, not 'serve_"),
        ({"applications": [{"import_path": "serve_app.app:build"}]}, "tiers: required, but miss"),
        ({**VALID, "http_options": 5}, "http_options: expected a map, not 5"),
        ({**VALID, "http_options": {"port": "x"}}, "http_options.port: expected a valid integer"),
        (valid_with("deployments", 5), "applications.0.deployments: expected a list, not 5"),
        (valid_with("deployments", [5]), "applications.0.deployments.0: expected a map, not 5"),
        (valid_with("deployments.0.user_config", 5), "user_config: expected a map, not 5"),
    ],
)
def test_a_file_that_is_no_config(load: Load, document: object, words: str) -> None:
    """Whatever the file holds instead, the error says so in one message."""
    with pytest.raises(ConfigError, match=words):
        load(document)


def test_only_the_deepest_fault_is_told(load: Load) -> None:
    """A list whose one element is wrong is not called too short as well."""
    with pytest.raises(ConfigError) as caught:
        load(valid_with("args.tiers.0.modelid", "m"))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Ruoter", "no deployment 'Ruoter'; did you mean 'Router'"),
        ("teir-fast", "did you mean 'tier-fast'"),
        ("zzz", "there are Router, tier-fast"),
    ],
)
def test_a_misspelt_deployment(load: Load, name: str, words: str) -> None:
    """What is meant for a deployment that does not exist is refused, not dropped."""
    with pytest.raises(ConfigError, match=words):
        load(valid_with("deployments.0.name", name))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({**VALID, "http_option": {}}, "http_option: unknown key; did you mean 'http_options'"),
        (valid_with("deploymnets", []), "deploymnets: unknown key; did you mean 'deployments'"),
        (
            valid_with("deployments.0.user_confg", {}),
            r"deployments.Router.user_confg: unknown key; did you mean 'user_config'",
        ),
        (
            valid_with("deployments", [{"name": "Router"}, {"name": "Router"}]),
            "'Router' is there twice",
        ),
    ],
)
def test_a_slip_in_serves_own_keys(load: Load, document: object, words: str) -> None:
    """Serve would drop it without a word, and with it the config below."""
    with pytest.raises(ConfigError, match=words):
        load(document)


def test_serves_own_keys_are_what_ray_has() -> None:
    """Another Ray may have others."""
    assert set(ServeDeploySchema.model_fields) == FILE_KEYS
    assert set(ServeApplicationSchema.model_fields) == APPLICATION_KEYS
    assert set(DeploymentSchema.model_fields) == DEPLOYMENT_KEYS


def test_a_tier_may_be_named_among_the_deployments(load: Load) -> None:
    """A deployment of ours that is not the Router changes nothing of the Router's config."""
    document = valid_with("deployments.0.name", "tier-fast")
    assert load(document).runtime == RuntimeConfig()


def test_a_missing_file(tmp_path: Path) -> None:
    """A path that leads nowhere is a config error like any other."""
    with pytest.raises(ConfigError, match="No such file"):
        read_serve_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="directory"):
        read_serve_config(tmp_path)


@pytest.mark.parametrize("source", ["/models/m", "demo:fast"])
@pytest.mark.parametrize("sums", ["SHA256SUMS", "/etc/sums", {"sub/a": "0" * 64}])
def test_weights_of_a_directory_can_be_pinned(load: Load, source: str, sums: object) -> None:
    """By a list that is on every node, or by one in the config itself."""
    tier = {"name": "fast", "model_id": "m", "model_source": source, "sha256sums": sums}
    assert load(valid_with("args.tiers", [tier])).app.tiers[0].sha256sums == sums


LOCAL_PLAYGROUND = {"pages": {"playground": True}}


def thumbs_of(load: Load, user_config: dict[str, Any], host: str = "127.0.0.1") -> Any:
    """The section `feedback` of the document that `serve-app up` would run."""
    document = valid_with("deployments.0.user_config", user_config)
    document["http_options"]["host"] = host
    names = ("fast", "strong")
    tiers = [{"name": name, "model_id": name} for name in names]
    document["applications"][0]["args"]["tiers"] = tiers
    config = load(document).with_thumbs(Path("/run/feedback"))
    assert (
        config.runtime.feedback
        == RuntimeConfig.model_validate(
            config.document["applications"][0]["deployments"][0]["user_config"]
        ).feedback
    )
    return config.document["applications"][0]["deployments"][0]["user_config"].get("feedback")


def test_a_local_playground_takes_thumbs(load: Load) -> None:
    """They have a directory, and nobody's call is drawn as a sample."""
    assert thumbs_of(load, LOCAL_PLAYGROUND) == {"directory": "/run/feedback", "sample_ratio": 0.0}


def test_no_other_config_is_given_a_directory(load: Load) -> None:
    """No playground, a `feedback` of its own, or clients on other machines."""
    own = {"feedback": {"sample_ratio": 0.5}}
    assert thumbs_of(load, {}) is None
    assert thumbs_of(load, {**LOCAL_PLAYGROUND, **own}) == own["feedback"]
    assert thumbs_of(load, LOCAL_PLAYGROUND, host="0.0.0.0") is None


def test_a_single_tier_is_given_no_directory(load: Load) -> None:
    """Labels compare two tiers: a Router with one tier rejects the directory and never starts."""
    document = valid_with("deployments.0.user_config", LOCAL_PLAYGROUND)
    document["http_options"]["host"] = "127.0.0.1"
    args = document["applications"][0]["args"]
    args["tiers"] = args["tiers"][:1]
    config = load(document)
    assert config.with_thumbs(Path("/run/feedback")) is config


def test_a_local_playground_takes_batches(load: Load) -> None:
    """They have a directory, unless the config has a section of its own or clients elsewhere."""

    def batches_of(user_config: dict[str, Any], host: str = "127.0.0.1") -> Any:
        document = valid_with("deployments.0.user_config", user_config)
        document["http_options"]["host"] = host
        config = load(document).with_batches(Path("/run/batches"))
        return config.document["applications"][0]["deployments"][0]["user_config"].get("batches")

    assert batches_of(LOCAL_PLAYGROUND) == {"directory": "/run/batches"}
    own = {"directory": "/data/batches", "lines_max": 7}
    assert batches_of({**LOCAL_PLAYGROUND, "batches": own}) == own
    assert batches_of({}) is None
    assert batches_of(LOCAL_PLAYGROUND, host="0.0.0.0") is None


def test_the_runtime_of_args_holds_without_a_user_config(load: Load) -> None:
    """`args.runtime` is what the Router starts with where the file has no `user_config`."""
    document = valid_with("args.runtime.limits.calls_max", 5)
    del document["applications"][0]["deployments"]
    assert load(document).runtime.limits.calls_max == 5


def test_runtime_defaults_are_bounded() -> None:
    """Without a word of config every limit and deadline is there, and none is endless."""
    runtime = RuntimeConfig()
    assert (runtime.routing.strong_score_min, runtime.routing.default_tier) == (0.5, None)
    assert runtime.deadlines.lease_s < runtime.deadlines.first_byte_s < runtime.deadlines.total_s
    assert 0 < runtime.deadlines.total_s < 1e6
    assert 0 < runtime.limits.calls_max < 1e6
    assert 0 < runtime.limits.body_bytes_max < 1e9


@pytest.mark.parametrize("default", [None, "fast"])
def test_check_runtime_takes_known_tiers(default: str | None) -> None:
    """No default tier, or one that exists, is fine."""
    tiers = AppConfig.model_validate(VALID["applications"][0]["args"]).tiers
    check_runtime(RuntimeConfig(routing=RoutingConfig(default_tier=default)), tiers)


@pytest.mark.parametrize("default", ["huge", "index"])
def test_check_runtime_refuses_what_cannot_generate(default: str) -> None:
    """A default tier that does not exist or only embeds is refused with the names of the others."""
    tiers = (
        TierConfig(name="fast", model_id="m"),
        TierConfig(name="index", model_id="e", tasks=("embed",)),
    )
    with pytest.raises(ValueError, match=f"'{default}' is none of the tiers that generate: fast$"):
        check_runtime(RuntimeConfig(routing=RoutingConfig(default_tier=default)), tiers)


def test_limits_must_leave_a_tier() -> None:
    """A floor above the ceiling is refused with both names."""
    tiers = (TierConfig(name="fast", model_id="m"), TierConfig(name="strong", model_id="n"))
    routing = RoutingConfig(never_below="strong", never_above="fast")
    with pytest.raises(ValueError, match="'strong' is stronger than never_above, 'fast'"):
        check_runtime(RuntimeConfig(routing=routing), tiers)


def test_a_thinking_budget_needs_an_engine_that_knows_thoughts() -> None:
    """vLLM refuses the budget otherwise, with every call; a tier must exist, too."""
    tiers = (
        TierConfig(name="fast", model_id="m"),
        TierConfig(name="strong", model_id="n", engine={"reasoning_parser": "qwen3"}),
    )
    for name, words in (("fast", "has no reasoning_parser"), ("huge", "none of the tiers fast")):
        with pytest.raises(ValueError, match=words):
            check_runtime(RuntimeConfig.model_validate(thinking(name)), tiers)
    check_runtime(RuntimeConfig.model_validate(thinking("strong")), tiers)


def thinking(tier: str) -> dict[str, Any]:
    return {"bodies": {"thinking_tokens_max": {tier: 1024}}}


@pytest.mark.parametrize("value", [-1, None, "auto"])
def test_a_context_length_that_vllm_finds(value: object) -> None:
    """Only a number of tokens is one; what leaves the choice to vLLM bounds no prompt."""
    engine = {"max_model_len": value}
    assert TierConfig.model_validate({**FAST, "engine": engine}).max_model_len is None
    engine = {"max_model_len": 4096}
    assert TierConfig.model_validate({**FAST, "engine": engine}).max_model_len == 4096


def test_a_partial_section_keeps_the_other_defaults() -> None:
    """The Router's replicas have the defaults of the config page, whichever of them are set."""
    replicas = RouterConfig.model_validate({"replicas": {"min": 2}}).replicas
    assert replicas == RouterReplicasConfig(min=2)
    assert (replicas.max, replicas.target_ongoing_calls) == (4, 128.0)


def test_the_config_page_is_a_table() -> None:
    """Each row has four cells, so a bar within one is escaped once."""
    rows = [line for line in render_config_docs().splitlines() if line.startswith("| `")]
    assert [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) != 5] == []
    assert any(r"`cpu` \| `gpu`" in row for row in rows)


def test_the_config_page_is_true() -> None:
    """docs/config.md says what the models say."""
    page = DOCS.read_text() if DOCS.exists() else ""
    command = ".venv/bin/serve-app config-docs > docs/config.md"
    assert page == render_config_docs(), f"docs/config.md is out of date; run: {command}"


@pytest.mark.parametrize("where", ["args.router", "args.tiers.0"])
def test_a_drain_must_last_as_long_as_a_call(load: Load, where: str) -> None:
    """Otherwise each update would cut streams; the error names both keys."""
    with pytest.raises(ConfigError, match=r"drain_timeout_s: 3599 is less than .*total_s, 3600"):
        load(valid_with(f"{where}.drain_timeout_s", 3599))


@pytest.mark.parametrize(
    ("engines", "given", "bytes_max"),
    [
        ([{"max_model_len": 8192}, {"max_model_len": 32768}], None, 327_680 + 262_144),
        ([{"max_model_len": 8192}, {}], None, 8 * 1024**2),
        ([{"max_model_len": 8192}], 1000, 1000),
    ],
)
def test_a_body_may_be_as_long_as_a_context_holds(
    engines: list[dict[str, Any]], given: int | None, bytes_max: int
) -> None:
    """The longest context counts; what is given holds."""
    tier = AppConfig.model_validate(VALID["applications"][0]["args"]).tiers[0]
    tiers = tuple(tier.model_copy(update={"engine": engine}) for engine in engines)
    runtime = RuntimeConfig.model_validate({"limits": {"body_bytes_max": given}})
    assert complete_runtime(runtime, tiers).limits.body_bytes_max == bytes_max


def test_bodies_have_room_for_images_where_a_tier_takes_some() -> None:
    """20 MiB more than for text alone."""
    tier = AppConfig.model_validate(VALID["applications"][0]["args"]).tiers[0]
    seeing = tier.model_copy(update={"modalities": ("text", "image")})
    without, with_images = (
        complete_runtime(RuntimeConfig(), tiers).limits.body_bytes_max
        for tiers in ((tier,), (tier, seeing))
    )
    assert with_images - without == 20 * 1024**2
