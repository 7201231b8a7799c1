"""The tiers: models, engines, placement and replicas. Changing these restarts deployments."""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, JsonValue, field_validator, model_validator

from serve_app.autoscaling.schedule import parse_days
from serve_app.config.base import Config
from serve_app.config.media import MediaConfig
from serve_app.core.call import Task
from serve_app.core.images import GRIDS, ImagePart, Patches, PatchGrid
from serve_app.model_files.sums import check_sums_mapping

NAME_PATTERN = r"^[a-z][a-z0-9_-]{0,31}$"
RESERVED_NAMES = frozenset({"auto"})
DEMO_PREFIX = "demo:"
"""The prefix of a source that names a checkpoint of this package."""
DEPLOYMENT_PREFIX = "tier-"
"""The prefix of a deployment's name; the tier's name follows it."""

LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,250}")
LABEL_SELECTOR = re.compile(
    r"!?(?:in\([A-Za-z0-9._-]+(?:,\s*[A-Za-z0-9._-]+)*\)|[A-Za-z0-9][A-Za-z0-9._-]{0,62})"
)
ResourceAmount = Annotated[float, Field(ge=0, le=1e6)]

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


RAY_RESOURCES = frozenset({"CPU", "GPU", "memory", "object_store_memory"})


class PlacementConfig(Config):
    """Which nodes the workers of one replica run on, as one Ray placement group."""

    strategy: Literal["auto", "PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] = Field(
        "auto",
        description="Ray's placement strategy for the workers of one replica. auto: STRICT_PACK "
        "(all workers on one node) if `gpus_per_node` is large enough for all workers. Otherwise "
        "PACK: the replica then starts only if each of its tensor-parallel groups lies within one "
        "node.",
    )
    gpus_per_node: int = Field(
        8,
        ge=1,
        le=1024,
        description="GPUs of one node of this tier. A tensor-parallel group must fit on one node: "
        "its all-reduce traffic needs the links within a node.",
    )
    node_labels: dict[str, str] = Field(
        default_factory=dict,
        description="Labels that a node must have to run a replica (`ray start --labels`), for "
        "example `{pool: strong}`. A value may be Ray's `!value`, `in(a,b)` or `!in(a,b)`.",
    )
    gpus_per_worker: float = Field(
        1.0,
        gt=0,
        le=1,
        description="GPUs that Ray reserves for each engine worker. Below 1, engines share a GPU. "
        "Each such engine needs `engine.kv_cache_memory_bytes`: the engines start at the same "
        "time, and vLLM would count the memory that another engine allocates as its own. Ray only "
        "counts the shares and limits no memory: check yourself that the engines fit on the GPU "
        "together ([gpu-check.md](gpu-check.md)).",
    )
    cpus_per_worker: float = Field(
        1.0, ge=0, le=1024, description="CPUs that Ray reserves for each engine worker."
    )
    cpus_per_server: float = Field(
        1.0,
        ge=0,
        le=1024,
        description="CPUs that Ray reserves for the replica's API server process.",
    )
    resources_per_worker: dict[str, ResourceAmount] = Field(
        default_factory=dict,
        description="Custom Ray resources of each worker, for example `{fast_pool: 0.001}`.",
    )
    resources_per_replica: dict[str, ResourceAmount] = Field(
        default_factory=dict,
        description="Custom Ray resources of the whole replica, taken from the node of its first "
        "worker. A node that was started with `--resources '{\"strong_slot\": 1}'` holds at most "
        "one replica that takes `{strong_slot: 1}`.",
    )

    @field_validator("resources_per_worker", "resources_per_replica")
    @classmethod
    def _custom(cls, resources: dict[str, float]) -> dict[str, float]:
        for name in resources:
            if name in RAY_RESOURCES or name.startswith("accelerator_type:"):
                raise ValueError(
                    f"'{name}' is a resource of Ray's own; set it with `cpus_per_worker`, "
                    "`cpus_per_server` and `accelerator_type`. Only custom resources go here"
                )
        return resources

    @field_validator("node_labels")
    @classmethod
    def _selectors(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            if not LABEL_KEY.fullmatch(key) or not LABEL_SELECTOR.fullmatch(value):
                raise ValueError(
                    f"'{key}: {value}' is not a label selector; write a label's name and a value, "
                    "`!value`, `in(a,b)` or `!in(a,b)`"
                )
        return labels


class ReplicasConfig(Config):
    """How many replicas a deployment has, and when the number changes."""

    min: int = Field(1, ge=1, le=1024, description="Replicas that always run.")
    max: int = Field(1, ge=1, le=1024, description="The most replicas that may run.")
    target_ongoing_calls: float = Field(
        16.0, gt=0, le=65536, description="Calls in flight per replica: the target of autoscaling."
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
    """The fewest replicas at some hours of the week."""

    days: tuple[str, ...] = Field(
        ("mon-sun",),
        min_length=1,
        max_length=7,
        description="Weekdays, or ranges of them: `[mon-fri]`, `[sat, sun]`.",
    )
    begin: str = Field(
        alias="from",
        description="Time of day when the replicas must be ready, for example `08:00`.",
    )
    end: str = Field(
        alias="to",
        description="Time of day until which the replicas are kept. A time at or before `from` is "
        "on the next day.",
    )
    timezone: str = Field(
        "UTC", description="Time zone of `from` and `to`, as an IANA name such as `Europe/Berlin`."
    )
    min: int = Field(ge=1, le=1024, description="Replicas that run in these hours.")

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
            raise ValueError(f"'{text}' is not a time of day; write it in quotes, as \"08:00\"")
        return text

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"'{name}' is not a time zone that this machine knows; write, for example, "
                "Europe/Berlin"
            ) from None
        return name


class EngineWatchConfig(Config):
    """When a replica takes its engine for stuck, although the engine's processes live."""

    stuck_s: float | None = Field(
        60.0,
        ge=1,
        le=HOUR_S,
        description="An engine that makes no step and answers no ping of its replica for this long "
        "is killed, and its replica is replaced. Longer than the longest step of a slow but "
        "working engine, for example the reading of a long prompt on a CPU. None: never.",
    )
    idle_probe_s: float | None = Field(
        300.0,
        ge=1,
        le=HOUR_S,
        description="An engine without calls for this long generates one token, to show that it "
        "can. None: never.",
    )


class TierReplicasConfig(ReplicasConfig):
    """How many replicas a tier has; its replicas take minutes to start."""

    min: int = Field(
        1,
        ge=0,
        le=1024,
        description="Replicas that always run. 0 is possible only with `idle_s`.",
    )
    policy: Literal["ongoing_calls", "llm"] = Field(
        "ongoing_calls",
        description="The autoscaling policy. ongoing_calls: Ray's own policy, from "
        "`target_ongoing_calls` and the delays. llm: from the work that arrives; it starts "
        "replicas ahead of the need. llm ignores `upscale_delay_s`, and uses "
        "`target_ongoing_calls` only if the two rates are not set "
        "([autoscaling.md](autoscaling.md)).",
    )
    start_s: float = Field(
        300.0,
        ge=0,
        le=HOUR_S,
        description="llm: the time that a replica takes to start. The policy plans this far ahead.",
    )
    first_token_target_s: float = Field(
        5.0,
        gt=0,
        le=HOUR_S,
        description="llm: the target time to a call's first token.",
    )
    kv_used_ratio_max: float = Field(
        0.9,
        gt=0,
        le=1,
        description="llm: the largest part of a replica's KV cache that the policy plans to use.",
    )
    prompt_tokens_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="llm: prompt tokens that a replica reads per second if it does nothing else.",
    )
    output_tokens_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="llm: answer tokens that a replica writes per second while it holds as many "
        "calls as it can. Without both rates, the policy counts concurrent calls instead of work.",
    )
    busy_ratio: float = Field(
        0.9,
        gt=0,
        le=1,
        description="llm: the share of the two rates that the policy plans with. The rest is a "
        "reserve for random peaks.",
    )
    floors: tuple[FloorConfig, ...] = Field(
        (),
        max_length=32,
        description="llm: more replicas at some hours of the week. If several entries apply, the "
        "largest number counts.",
    )
    batch_floors: tuple[FloorConfig, ...] = Field(
        (),
        max_length=32,
        description="llm: more replicas at some hours of the week while lines of batches run on "
        "the tier, and never without lines ([batches.md](batches.md#spare-capacity)).",
    )
    idle_s: float | None = Field(
        None,
        gt=0,
        le=DAY_S,
        description="llm: the last replica is removed after this time without a call. None: never.",
    )

    @model_validator(mode="after")
    def _llm_only(self) -> TierReplicasConfig:
        if self.policy != "llm":
            ours = set(TierReplicasConfig.model_fields) - set(ReplicasConfig.model_fields)
            for key in sorted((ours - {"policy"}) & self.model_fields_set):
                raise ValueError(f"{key} has no effect without `policy: llm`")
        if (self.prompt_tokens_per_s is None) != (self.output_tokens_per_s is None):
            raise ValueError("prompt_tokens_per_s and output_tokens_per_s must be set together")
        if self.min == 0 and self.idle_s is None:
            raise ValueError(
                "min is 0, but no key removes the last replica: set `policy: llm` and `idle_s`, "
                "or set min to 1"
            )
        if self.idle_s is not None and self.min > 0:
            raise ValueError(
                f"idle_s removes the last replica, but min is {self.min}: set min to 0"
            )
        for key, windows in (("floors", self.floors), ("batch_floors", self.batch_floors)):
            for window in windows:
                if window.min > self.max:
                    raise ValueError(
                        f"{key}: min ({window.min}) is above replicas.max ({self.max})"
                    )
        return self


class TierConfig(Config):
    """One model with its replicas."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)] = Field(
        description="Name of the tier for callers, in headers and in metrics, for example `fast`."
    )
    model_id: str = Field(
        min_length=1,
        max_length=200,
        description="The model id that API clients see and may ask for.",
    )
    model_source: str | None = Field(
        None,
        description="Source of the weights: a local directory, a Hugging Face id, an `s3://`, "
        "`gs://` or `azure://` address, or `demo:fast`, `demo:strong`, `demo:embed` or "
        "`demo:rerank`. Defaults to `model_id`.",
    )
    sha256sums: str | dict[str, str] | None = Field(
        None,
        description="SHA-256 sums of the model's files. A replica does not start if a file "
        "differs, is missing or is not listed. Either a map from file name to sum, or the path of "
        "a `SHA256SUMS` file that every node has; a relative path starts at the model's "
        "directory. `model_source` must then be an absolute directory or `demo:`. None: no file "
        "is checked.",
    )
    tasks: tuple[Task, ...] = Field(
        ("generate",),
        min_length=1,
        description="Tasks that the model can do. generate: chat and all other endpoints that "
        "write text. embed: `/v1/embeddings`. score: `/v1/rerank` and `/v1/score`. An engine "
        "either generates or reads, so generate stands alone; an embedding model may have both "
        "other tasks, and then scores by the cosine of vectors ([embeddings.md](embeddings.md)).",
    )
    accelerator: Literal["cpu", "gpu"] = Field(
        "gpu", description="Hardware that the engine computes on."
    )
    accelerator_type: str | None = Field(
        None,
        description="Ray's name of the GPU that a replica must run on, for example `H100`, or "
        "`A100` for 40 and 80 GB (docs/planning.md lists the names). None: any GPU.",
    )
    engine: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Engine arguments, named as in vLLM's `AsyncEngineArgs` and server arguments. "
        "`serve-app check` compares each key and value with the pinned vLLM.",
    )
    modalities: tuple[Literal["text", "image"], ...] = Field(
        ("text",),
        description="What the model reads. A call with images goes only to tiers with `image`, and "
        "vLLM must know the model as a vision-language model ([images.md](images.md)).",
    )
    media: MediaConfig = Field(
        default_factory=MediaConfig,
        description="The images that the tier takes; only with `image` in `modalities`.",
    )
    adapters: dict[str, str] = Field(
        default_factory=dict,
        description="LoRA adapters that are loaded with the model: a map from the `model` that "
        "callers request to the adapter's directory, which every node needs. A call gets an "
        "adapter only by its name, never by `auto`. `engine` may limit the adapters (`max_loras`, "
        "`max_lora_rank`).",
    )
    env: dict[str, str] = Field(
        default_factory=dict,
        description="Environment variables of the replica and its engine workers.",
    )
    placement: PlacementConfig = Field(default_factory=PlacementConfig)
    replicas: TierReplicasConfig = Field(default_factory=TierReplicasConfig)
    max_ongoing_calls: int = Field(
        64, ge=1, le=4096, description="Concurrent calls that one replica holds."
    )
    max_queued_calls: int = Field(
        256,
        ge=0,
        le=65536,
        description="Calls of one Router replica that may wait for a full tier; further calls get "
        "503.",
    )
    replica_choice: Literal["balanced", "session", "prefix"] = Field(
        "balanced",
        description="How Ray chooses a replica. balanced: the less loaded of two replicas. "
        "session: calls with the same `x-session-id` go to the same replica, by a hash of the id. "
        "Calls without the header are spread evenly, regardless of the load (Ray's experimental "
        "ConsistentHashRouter). prefix: the replica that is expected to begin its answer first, by "
        "what it has cached of the prompt and by its load "
        "([placement.md](placement.md#by-what-a-replica-has-cached)).",
    )
    drain_timeout_s: float = Field(
        3600.0,
        gt=0,
        le=DAY_S,
        description="Time that a replica which is being removed has to finish its streams. At "
        "least `deadlines.total_s`.",
    )
    tls: bool = Field(
        False,
        description="Prompts and answers pass between Routers and replicas by TLS 1.3. Each "
        "replica makes its own certificate, and a lease carries its digest: no authority and no "
        "file are needed ([tls.md](tls.md#between-routers-and-engines)). Needs the extra `access`.",
    )
    stream_join_ms: float = Field(
        50.0,
        ge=0,
        le=1000,
        description="While a replica's event loop lags, tokens of a stream wait for each other for "
        "at most this long and then travel as one event. The first text and the end never wait, "
        "and without a lag each token is an event of its own. 0: never.",
    )
    engine_watch: EngineWatchConfig = Field(
        default_factory=EngineWatchConfig,
        description="How a replica watches its engine "
        "([guarantees.md](guarantees.md#engines-that-die-or-hang)).",
    )
    health_check_period_s: float = Field(
        10.0,
        gt=0,
        le=HOUR_S,
        description="Interval of Ray's health checks of a replica. A check waits at the replica "
        "for up to 1.5 times as long, so that Ray learns at once of an engine that fails.",
    )
    health_check_timeout_s: float = Field(
        30.0,
        gt=0,
        le=HOUR_S,
        description="A replica that has not answered a health check for this long is replaced.",
    )

    @field_validator("name", "model_id")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(
                f"'{name}' is reserved: the name requests that the router chooses a tier"
            )
        return name

    @field_validator("modalities")
    @classmethod
    def _with_text(cls, modalities: tuple[str, ...]) -> tuple[str, ...]:
        if "text" not in modalities:
            raise ValueError("a model that reads no text answers no call; write [text, image]")
        return modalities

    @field_validator("adapters")
    @classmethod
    def _usable(cls, adapters: dict[str, str]) -> dict[str, str]:
        for name, path in adapters.items():
            if not name or len(name) > 200 or name in RESERVED_NAMES:
                raise ValueError(
                    f"'{name}' cannot name an adapter: use 1 to 200 characters, not `auto`"
                )
            if not path.startswith("/"):
                raise ValueError(f"{name}: '{path}' is not an absolute directory")
        return adapters

    @field_validator("sha256sums")
    @classmethod
    def _complete(cls, sums: str | dict[str, str] | None) -> str | dict[str, str] | None:
        if sums is not None and not sums:
            raise ValueError("the list is empty; leave the key out to check no files")
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
        self._check_media()
        self._check_tasks()
        if self.max_ongoing_calls < self.replicas.target_ongoing_calls:
            raise ValueError(
                f"max_ongoing_calls ({self.max_ongoing_calls}) is below "
                f"replicas.target_ongoing_calls ({self.replicas.target_ongoing_calls:g}): "
                "autoscaling would never fire"
            )
        return self

    def _check_media(self) -> None:
        """Check that the keys about images say the same as `modalities`."""
        if self.takes_images:
            return
        if "media" in self.model_fields_set:
            raise ValueError("media has no effect without `modalities: [text, image]`")
        limits = self.engine.get("limit_mm_per_prompt")
        if isinstance(limits, dict) and limits.get("image"):
            raise ValueError(
                "engine.limit_mm_per_prompt lets images in, but the tier takes none; write "
                "`modalities: [text, image]`, or leave the key out"
            )

    def _check_tasks(self) -> None:
        """Reject tasks that one engine cannot have together, or that contradict its arguments."""
        generates, runner = "generate" in self.tasks, self.engine.get("runner", "auto")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: {', '.join(self.tasks)} names a task twice")
        if generates and len(self.tasks) > 1:
            raise ValueError(
                "tasks: an engine of vLLM either generates or reads, so `generate` stands alone; "
                "use a further tier for the other tasks"
            )
        wrong = "pooling" if generates else "generate"
        if runner == wrong:
            raise ValueError(f"engine.runner: {wrong} contradicts tasks ({', '.join(self.tasks)})")
        if self.adapters and not generates:
            raise ValueError("adapters need a model whose tasks include `generate`")

    def _check_cpu(self) -> None:
        """Reject arguments that vLLM's CPU engine accepts, but that make it fail later."""
        for key in ("pipeline_parallel_size", "data_parallel_size"):
            if self._engine_size(key) > 1:
                raise ValueError(
                    f"engine.{key}: vLLM's CPU engine does not support it; use "
                    "tensor_parallel_size, or more replicas"
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
        """Check that the order in which engines on one GPU start does not matter."""
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
    def gpus(self) -> float:
        """The GPUs that one replica reserves."""
        return self.workers * self.placement.gpus_per_worker

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
            return "PACK"  # ray.serve.llm supports no other strategy for data parallelism.
        fits = self.accelerator == "cpu" or self.workers <= self.placement.gpus_per_node
        return "STRICT_PACK" if fits else "PACK"

    def _engine_size(self, key: str) -> int:
        value = self.engine.get(key)
        return value if isinstance(value, int) and value > 0 else 1

    @property
    def takes_images(self) -> bool:
        """Whether calls with images may go to this tier."""
        return "image" in self.modalities

    @property
    def patch_grid(self) -> PatchGrid:
        """How the tier's model divides an image into tokens."""
        named = Patches.QWEN3_VL if "qwen3" in self.source.lower() else Patches.QWEN2_5_VL
        grid = GRIDS[self.media.patches or named]
        asked = self.engine.get("mm_processor_kwargs")
        sizes = asked if isinstance(asked, dict) else {}
        edges = sizes.get("size")
        edges = edges if isinstance(edges, dict) else {}
        return grid.bounded(
            _whole(sizes.get("min_pixels")) or _whole(edges.get("shortest_edge")),
            _whole(sizes.get("max_pixels")) or _whole(edges.get("longest_edge")),
        )

    def image_problem(self, image: ImagePart) -> str | None:
        """What an image would have to be for this tier, None if the tier takes it."""
        media = self.media
        if not self.takes_images:
            return "text only"
        if image.host is not None and image.host not in media.allowed_hosts:
            hosts = ", ".join(media.allowed_hosts[:8])
            return "a base64 'data:' URL" + (f" or a URL of {hosts}" if hosts else "")
        if image.size_bytes > media.image_bytes_max:
            return f"an image of at most {media.image_bytes_max} bytes"
        if image.pixels > media.image_pixels_max:
            return f"an image of at most {media.image_pixels_max} pixels"
        return None

    @property
    def model_ids(self) -> tuple[str, ...]:
        """Model ids that callers may request besides the tier's name; the model itself is first."""
        return (self.model_id, *self.adapters)

    def find_model(self, name: str) -> str | None:
        """The model id behind a name of this tier, or None if the name is not of this tier."""
        if name == self.name:
            return self.model_id
        return name if name in self.model_ids else None

    @property
    def source(self) -> str:
        """The source of the weights, as written in the config."""
        return self.model_source or self.model_id

    @property
    def max_model_len(self) -> int | None:
        """The context length in tokens, or None if the engine determines it (vLLM's -1, too)."""
        value = self.engine.get("max_model_len")
        return value if isinstance(value, int) and value > 0 else None


def _whole(value: JsonValue) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
