"""The tiers: models, engines, placement and replicas. Changing these restarts deployments."""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, JsonValue, field_validator, model_validator

from serve_app.autoscaling.schedule import parse_days
from serve_app.config.base import Config
from serve_app.model_files.sums import check_sums_mapping

NAME_PATTERN = r"^[a-z][a-z0-9_-]{0,31}$"
RESERVED_NAMES = frozenset({"auto"})
DEMO_PREFIX = "demo:"
"""Before the name of a checkpoint that comes with the package, as a source."""
DEPLOYMENT_PREFIX = "tier-"
"""Before a tier's name, in the name of its deployment."""

LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,250}")
LABEL_SELECTOR = re.compile(
    r"!?(?:in\([A-Za-z0-9._-]+(?:,\s*[A-Za-z0-9._-]+)*\)|[A-Za-z0-9][A-Za-z0-9._-]{0,62})"
)
ResourceAmount = Annotated[float, Field(ge=0, le=1e6)]

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


RAY_RESOURCES = frozenset({"CPU", "GPU", "memory", "object_store_memory"})


class PlacementConfig(Config):
    """Where the workers of one replica go, as one Ray placement group."""

    strategy: Literal["auto", "PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] = Field(
        "auto",
        description="Ray's placement strategy for the workers of one replica. auto: STRICT_PACK, "
        "all on one node, where `gpus_per_node` are enough for them; PACK otherwise, and a replica "
        "then starts only if each of its tensor-parallel groups came to lie within one node.",
    )
    gpus_per_node: int = Field(
        8,
        ge=1,
        le=1024,
        description="GPUs of the nodes that this tier is for. A tensor-parallel group must fit: "
        "its all-reduce traffic needs the links within a node.",
    )
    node_labels: dict[str, str] = Field(
        default_factory=dict,
        description="Labels that a node must have to get a replica (`ray start --labels`), for "
        "example `{pool: strong}`. A value may be Ray's `!value`, `in(a,b)` or `!in(a,b)`.",
    )
    gpus_per_worker: float = Field(
        1.0,
        gt=0,
        le=1,
        description="GPUs that Ray sets aside for each engine worker. Below 1 engines share a GPU; "
        "each then needs `engine.kv_cache_memory_bytes`, because they start at the same time and "
        "vLLM would take what a neighbour loads for its own. Ray counts shares and limits nothing: "
        "the sum of the engines' memory is yours to check ([gpu-check.md](gpu-check.md)).",
    )
    cpus_per_worker: float = Field(
        1.0, ge=0, le=1024, description="CPUs that Ray sets aside for each engine worker."
    )
    cpus_per_server: float = Field(
        1.0,
        ge=0,
        le=1024,
        description="CPUs that Ray sets aside for the replica's API server process.",
    )
    resources_per_worker: dict[str, ResourceAmount] = Field(
        default_factory=dict,
        description="Custom Ray resources of each worker, for example `{fast_pool: 0.001}`.",
    )
    resources_per_replica: dict[str, ResourceAmount] = Field(
        default_factory=dict,
        description="Custom Ray resources of the whole replica, taken where its first worker is. "
        "Nodes that were started with `--resources '{\"strong_slot\": 1}'` hold at most one "
        "replica that takes `{strong_slot: 1}`.",
    )

    @field_validator("resources_per_worker", "resources_per_replica")
    @classmethod
    def _custom(cls, resources: dict[str, float]) -> dict[str, float]:
        for name in resources:
            if name in RAY_RESOURCES or name.startswith("accelerator_type:"):
                raise ValueError(
                    f"'{name}' is Ray's own, and set from `cpus_per_worker`, `cpus_per_server` and "
                    "`accelerator_type`; only names of yours go here"
                )
        return resources

    @field_validator("node_labels")
    @classmethod
    def _selectors(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            if not LABEL_KEY.fullmatch(key) or not LABEL_SELECTOR.fullmatch(value):
                raise ValueError(
                    f"'{key}: {value}' is no label selector; write a label's name and a value, "
                    "`!value`, `in(a,b)` or `!in(a,b)`"
                )
        return labels


class ReplicasConfig(Config):
    """How many replicas a deployment has, and when that changes."""

    min: int = Field(1, ge=1, le=1024, description="Replicas that are always there.")
    max: int = Field(1, ge=1, le=1024, description="Replicas at most.")
    target_ongoing_calls: float = Field(
        16.0, gt=0, le=65536, description="Calls in flight per replica that autoscaling aims at."
    )
    upscale_delay_s: float = Field(
        10.0,
        ge=0,
        le=DAY_S,
        description="How long demand must exceed supply before replicas are added.",
    )
    downscale_delay_s: float = Field(
        600.0,
        ge=0,
        le=DAY_S,
        description="How long supply must exceed demand before replicas are removed.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> ReplicasConfig:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is smaller than min ({self.min})")
        return self


class FloorConfig(Config):
    """Replicas that are there at some hours of the week."""

    days: tuple[str, ...] = Field(
        ("mon-sun",),
        min_length=1,
        max_length=7,
        description="Weekdays, or ranges of them: `[mon-fri]`, `[sat, sun]`.",
    )
    begin: str = Field(
        alias="from", description="When they are ready, by the clock on the wall: `08:00`."
    )
    end: str = Field(
        alias="to",
        description="Until when they are kept. At or before `from`: on the next day.",
    )
    timezone: str = Field(
        "UTC", description="Whose clock, as an IANA name such as `Europe/Berlin`."
    )
    min: int = Field(ge=1, le=1024, description="Replicas that are there in these hours.")

    @field_validator("days")
    @classmethod
    def _weekdays(cls, days: tuple[str, ...]) -> tuple[str, ...]:
        for day in days:
            parse_days(day)
        return days

    @field_validator("begin", "end")
    @classmethod
    def _times(cls, text: str) -> str:
        try:
            parsed = time.fromisoformat(text)
        except ValueError:
            parsed = None
        if parsed is None or parsed.tzinfo is not None:
            raise ValueError(f"'{text}' is no time of day; write it in quotes, as \"08:00\"")
        return text

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"'{name}' is no time zone of this machine; write one such as Europe/Berlin"
            ) from None
        return name


class TierReplicasConfig(ReplicasConfig):
    """How many replicas a tier has; its replicas take minutes to start."""

    min: int = Field(
        1,
        ge=0,
        le=1024,
        description="Replicas that are always there. 0 only with `idle_s`.",
    )
    policy: Literal["ongoing_calls", "llm"] = Field(
        "ongoing_calls",
        description="What decides how many replicas there are. ongoing_calls: Ray's own policy, by "
        "`target_ongoing_calls` and the delays. llm: by the work that comes, with a start ahead; "
        "`upscale_delay_s` does not count then, and `target_ongoing_calls` only where the rates "
        "are not told ([autoscaling.md](autoscaling.md)).",
    )
    start_s: float = Field(
        300.0,
        ge=0,
        le=HOUR_S,
        description="llm: how long a replica takes to start. So far ahead it looks.",
    )
    first_token_target_s: float = Field(
        5.0,
        gt=0,
        le=HOUR_S,
        description="llm: within what time calls should get their first token.",
    )
    kv_used_ratio_max: float = Field(
        0.9, gt=0, le=1, description="llm: up to where a replica's KV cache may be used."
    )
    prompt_tokens_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="llm: prompt tokens that a replica reads in a second if it does nothing else.",
    )
    output_tokens_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="llm: answer tokens that a replica writes in a second with as many calls at a "
        "time as it takes. Without both rates demand is counted in calls at a time.",
    )
    busy_ratio: float = Field(
        0.9,
        gt=0,
        le=1,
        description="llm: the part of these rates that is planned with; the rest is for chance.",
    )
    floors: tuple[FloorConfig, ...] = Field(
        (),
        max_length=32,
        description="llm: more replicas at some hours of the week; the most that holds counts.",
    )
    idle_s: float | None = Field(
        None,
        gt=0,
        le=DAY_S,
        description="llm: after how long without any call the last replica goes. None: never.",
    )

    @model_validator(mode="after")
    def _llm_only(self) -> TierReplicasConfig:
        if self.policy != "llm":
            ours = set(TierReplicasConfig.model_fields) - set(ReplicasConfig.model_fields)
            for key in sorted((ours - {"policy"}) & self.model_fields_set):
                raise ValueError(f"{key} has no effect without `policy: llm`")
        if (self.prompt_tokens_per_s is None) != (self.output_tokens_per_s is None):
            raise ValueError("prompt_tokens_per_s and output_tokens_per_s only tell together")
        if self.min == 0 and self.idle_s is None:
            raise ValueError(
                "min is 0, but nothing lets the last replica go: set `policy: llm` and `idle_s`, "
                "or min to 1"
            )
        if self.idle_s is not None and self.min > 0:
            raise ValueError(f"idle_s lets the last replica go, but min is {self.min}: set it to 0")
        for window in self.floors:
            if window.min > self.max:
                raise ValueError(f"floors: min ({window.min}) is above replicas.max ({self.max})")
        return self


class TierConfig(Config):
    """One model with its replicas."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)] = Field(
        description="How callers, headers and metrics name the tier, for example `fast`."
    )
    model_id: str = Field(
        min_length=1,
        max_length=200,
        description="The model id that API clients see and may ask for.",
    )
    model_source: str | None = Field(
        None,
        description="Where the weights are: a local directory, a Hugging Face id, an `s3://`, "
        "`gs://` or `azure://` address, or `demo:fast` / `demo:strong`. Defaults to `model_id`.",
    )
    sha256sums: str | dict[str, str] | None = Field(
        None,
        description="The files of the model by their SHA-256; a replica does not start if one "
        "differs, is missing or is not listed. A map from file name to sum, or the path of a "
        "`SHA256SUMS` file on every node, from the model's directory if it is relative. Needs a "
        "`model_source` that is an absolute directory or `demo:`. None: nothing is checked.",
    )
    tasks: tuple[Literal["generate", "embed"], ...] = Field(
        ("generate",), min_length=1, description="What the model can do."
    )
    accelerator: Literal["cpu", "gpu"] = Field("gpu", description="What the engine computes on.")
    accelerator_type: str | None = Field(
        None,
        description="Ray's name of the GPU a replica must be placed on, for example `H100`, or "
        "`A100` for 40 and 80 GB (docs/planning.md lists the names). None: any.",
    )
    engine: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Engine arguments, by the names of vLLM's `AsyncEngineArgs` and server "
        "arguments; each key and value is checked against the pinned vLLM.",
    )
    adapters: dict[str, str] = Field(
        default_factory=dict,
        description="LoRA adapters that are loaded with the model: the `model` that callers ask "
        "for, and its directory on every node. They are chosen by name only, never by `auto`. "
        "`engine` may bound them (`max_loras`, `max_lora_rank`).",
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment of the replica and its engine workers."
    )
    placement: PlacementConfig = Field(default_factory=PlacementConfig)
    replicas: TierReplicasConfig = Field(default_factory=TierReplicasConfig)
    max_ongoing_calls: int = Field(
        64, ge=1, le=4096, description="Calls that one replica holds at a time."
    )
    max_queued_calls: int = Field(
        256,
        ge=0,
        le=65536,
        description="Calls of one Router replica that may wait for a full tier; more get 503.",
    )
    replica_choice: Literal["balanced", "session"] = Field(
        "balanced",
        description="How Ray chooses a replica. balanced: the less loaded of two. session: calls "
        "with the same `x-session-id` go to the same replica, by a hash of it; the others are "
        "spread evenly, whatever the load (Ray's experimental ConsistentHashRouter).",
    )
    drain_timeout_s: float = Field(
        3600.0,
        gt=0,
        le=DAY_S,
        description="How long a replica that is being removed may finish its streams. At least "
        "`deadlines.total_s`.",
    )
    health_check_period_s: float = Field(
        10.0, gt=0, le=HOUR_S, description="How often Ray asks a replica."
    )
    health_check_timeout_s: float = Field(
        30.0,
        gt=0,
        le=HOUR_S,
        description="After how long without an answer a replica is replaced.",
    )

    @field_validator("name", "model_id")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(f"'{name}' is reserved; it means that the router chooses")
        return name

    @field_validator("adapters")
    @classmethod
    def _usable(cls, adapters: dict[str, str]) -> dict[str, str]:
        for name, path in adapters.items():
            if not name or len(name) > 200 or name in RESERVED_NAMES:
                raise ValueError(f"'{name}' is no name for an adapter: 1 to 200 characters")
            if not path.startswith("/"):
                raise ValueError(f"{name}: '{path}' is no absolute directory")
        return adapters

    @field_validator("sha256sums")
    @classmethod
    def _complete(cls, sums: str | dict[str, str] | None) -> str | dict[str, str] | None:
        if sums is not None and not sums:
            raise ValueError("it is empty; leave the key out to check nothing")
        return check_sums_mapping(sums) if isinstance(sums, dict) else sums

    @model_validator(mode="after")
    def _consistent(self) -> TierConfig:
        if self.sha256sums is not None and not self.source.startswith(("/", DEMO_PREFIX)):
            raise ValueError(
                f"sha256sums needs model_source to be an absolute directory, not '{self.source}': "
                "download the model first"
            )
        if self.accelerator == "cpu" and self.accelerator_type is not None:
            raise ValueError("accelerator_type names a GPU, but accelerator is cpu")
        if self.accelerator == "cpu":
            self._check_cpu()
        else:
            self._check_placement()
        if self.placement.gpus_per_worker < 1:
            self._check_shared_gpu()
        if self.data_parallel_size > 1:
            self._check_data_parallel()
        if self.adapters and "generate" not in self.tasks:
            raise ValueError("adapters are for models that generate; see tasks")
        if self.max_ongoing_calls < self.replicas.target_ongoing_calls:
            raise ValueError(
                f"max_ongoing_calls ({self.max_ongoing_calls}) is below "
                f"replicas.target_ongoing_calls ({self.replicas.target_ongoing_calls:g}): "
                "autoscaling would never fire"
            )
        return self

    def _check_cpu(self) -> None:
        """What vLLM would accept, and then fail over with its first call or its first weight."""
        for key in ("pipeline_parallel_size", "data_parallel_size"):
            if self._engine_size(key) > 1:
                raise ValueError(
                    f"engine.{key}: vLLM's CPU engine has none; use tensor_parallel_size, or more "
                    "replicas"
                )
        if self.engine.get("quantization") == "fp8":
            raise ValueError(
                "engine.quantization: vLLM's CPU engine cannot convert to fp8; use "
                "int8_per_channel_weight_only"
            )

    def _check_placement(self) -> None:
        tensor, strategy = self.tensor_parallel_size, self.placement.strategy
        if tensor > self.placement.gpus_per_node:
            raise ValueError(
                f"engine.tensor_parallel_size ({tensor}) is above placement.gpus_per_node "
                f"({self.placement.gpus_per_node}), so its groups would span nodes: use "
                "pipeline_parallel_size for the part that does not fit, or correct gpus_per_node"
            )
        if tensor > 1 and strategy in ("SPREAD", "STRICT_SPREAD"):
            raise ValueError(
                f"placement.strategy: {strategy} would spread the {tensor} GPUs of a "
                "tensor-parallel group over nodes; leave it at `auto`"
            )

    def _check_shared_gpu(self) -> None:
        """What engines on one GPU need, so that it does not matter which of them starts first."""
        if self.workers > 1 or self.data_parallel_size > 1:
            raise ValueError(
                "placement.gpus_per_worker: only engines of one worker can share a GPU; leave it "
                "at 1 with parallel sizes above 1"
            )
        if self.engine.get("kv_cache_memory_bytes") is None:
            raise ValueError(
                "placement.gpus_per_worker: engines that share a GPU start at the same time, and "
                "each would measure the other's memory; set engine.kv_cache_memory_bytes"
            )

    def _check_data_parallel(self) -> None:
        if self.replicas.policy != "ongoing_calls":
            raise ValueError(
                f"replicas.policy: {self.replicas.policy} does not know groups of "
                "engine.data_parallel_size engines; use ongoing_calls"
            )
        if self.placement.strategy not in ("auto", "PACK"):
            raise ValueError(
                f"placement.strategy: {self.placement.strategy} is not possible with "
                "engine.data_parallel_size, whose engines Ray packs; leave it at `auto`"
            )
        if self.placement.resources_per_replica:
            raise ValueError(
                "placement.resources_per_replica is not possible with engine.data_parallel_size; "
                "use resources_per_worker"
            )

    @property
    def data_parallel_size(self) -> int:
        """Engines that share the experts of a mixture, and start and end together."""
        return self._engine_size("data_parallel_size")

    @property
    def tensor_parallel_size(self) -> int:
        """GPUs (or CPU workers) that share each layer."""
        return self._engine_size("tensor_parallel_size")

    @property
    def workers(self) -> int:
        """Workers of one engine: tensor times pipeline parallel size."""
        return self.tensor_parallel_size * self._engine_size("pipeline_parallel_size")

    @property
    def placement_strategy(self) -> str:
        """Ray's placement strategy for the workers of one replica."""
        strategy = self.placement.strategy
        if strategy != "auto":
            return strategy
        if self.data_parallel_size > 1:
            return "PACK"  # ray.serve.llm knows no other for them.
        fits = self.accelerator == "cpu" or self.workers <= self.placement.gpus_per_node
        return "STRICT_PACK" if fits else "PACK"

    def _engine_size(self, key: str) -> int:
        value = self.engine.get(key)
        return value if isinstance(value, int) and value > 0 else 1

    @property
    def model_ids(self) -> tuple[str, ...]:
        """What callers may ask for here besides the tier's name, the model itself first."""
        return (self.model_id, *self.adapters)

    def find_model(self, name: str) -> str | None:
        """The model id that answers for a name of this tier, None if it is none."""
        if name == self.name:
            return self.model_id
        return name if name in self.model_ids else None

    @property
    def source(self) -> str:
        """Where the weights are, as the config says it."""
        return self.model_source or self.model_id

    @property
    def max_model_len(self) -> int | None:
        """The context length in tokens, None where the engine finds it (vLLM's -1 included)."""
        value = self.engine.get("max_model_len")
        return value if isinstance(value, int) and value > 0 else None
