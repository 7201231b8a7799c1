"""The values that one request is made of, from parsing to audit."""

from __future__ import annotations

import time
from asyncio import Future
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Literal, Protocol

from serve_app.core.caller import ANONYMOUS, Caller
from serve_app.core.content import Content
from serve_app.core.headers import Headers
from serve_app.core.images import ImagePart
from serve_app.core.load import BreakerState
from serve_app.core.prefix import PrefixKeys
from serve_app.core.trace import Trace

AUTO = "auto"
"""The model name with which a client leaves the choice of the tier to the router."""


Task = Literal["generate", "embed", "score"]
"""What a model can do: write text, turn texts into vectors, or score pairs of texts."""


class Endpoint(StrEnum):
    """The paths that are forwarded to an engine. The value is the path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    RESPONSES = "/v1/responses"
    INPUT_TOKENS = "/v1/responses/input_tokens"
    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"
    EMBEDDINGS = "/v1/embeddings"
    RERANK = "/v1/rerank"
    SCORE = "/v1/score"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"

    @property
    def generates(self) -> bool:
        """Whether the model generates text for a call to this path, so that its tier matters."""
        return self in GENERATION_ENDPOINTS

    @property
    def pools(self) -> bool:
        """Whether the model reads texts for a call to this path and writes none: it answers with
        vectors or scores."""
        return self in POOLING_ENDPOINTS

    @property
    def task(self) -> Task | None:
        """The task that the model must be able to do; None where its tokenizer is enough."""
        if self is Endpoint.EMBEDDINGS:
            return "embed"
        if self.pools:
            return "score"
        return None if self in TOKENIZER_ENDPOINTS else "generate"

    @property
    def anthropic(self) -> bool:
        """Whether the path uses Anthropic's dialect, also for its errors."""
        return self in (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS)


GENERATION_ENDPOINTS = frozenset(
    {Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES, Endpoint.MESSAGES}
)
POOLING_ENDPOINTS = frozenset({Endpoint.EMBEDDINGS, Endpoint.RERANK, Endpoint.SCORE})
TOKENIZER_ENDPOINTS = frozenset({Endpoint.TOKENIZE, Endpoint.DETOKENIZE})


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation, with the parts that routing looks at."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """The content of a call in any wire format: the input of every scorer.

    `turns` holds system, user, assistant and tool messages in order. `output_tokens_max` is None
    when the client set no limit. `token_ids` counts the token ids that a client sends instead of
    text. `rendered_bytes` is the size of the JSON that the template writes into the prompt beside
    the turns: the tools, and the arguments of the model's own tool calls. `answers` counts the
    answers that the call asks for, each of which may have `output_tokens_max`. `images` counts the
    images, and `image_parts` says which they are where a body was read. `repeated_tokens` estimates
    what the engine reads again: a query once for each further document.
    """

    turns: tuple[Turn, ...] = ()
    tools: int = 0
    schema: bool = False
    images: int = 0
    reasoning: bool = False
    output_tokens_max: int | None = None
    token_ids: int = 0
    rendered_bytes: int = 0
    answers: int = 1
    image_parts: tuple[ImagePart, ...] = ()
    repeated_tokens: int = 0


class Payload(Protocol):
    """The body as the client sent it, ready to be forwarded."""

    @property
    def deterministic(self) -> bool:
        """Whether the client asks for an answer that the same body always gets."""
        ...

    def for_model(self, model_id: str, tier: str) -> bytes:
        """The JSON body, addressed to the model of the tier that will answer."""
        ...

    def for_label(self, model_id: str) -> bytes | None:
        """The body that asks another model the same question, for an answer in one piece. None
        where the two answers could not be compared."""
        ...

    def prefix_keys(self) -> PrefixKeys:
        """The keys of the prompt's beginnings, before they are made those of a model."""
        ...

    def ranked(self, priority: int, tiers: Set[str]) -> Payload:
        """The body that tells the engines of these tiers the priority of the call."""
        ...

    def capped(self, call: Call, tokens_max: int, contexts: Mapping[str, int]) -> Payload:
        """The body of the call with a limit of the answer's tokens. `contexts` holds the context
        lengths of tiers in tokens, as far as they are known.

        Raises:
            InvalidField: the body asks for more.
        """
        ...


class Policy(StrEnum):
    """The rule that chooses the tier where no other rule does."""

    COMPLEXITY = "complexity"
    CASCADE = "cascade"


class Objective(StrEnum):
    """What the Router seeks where every tier's chance to answer well is known."""

    QUALITY = "quality"
    """The best answers that a budget pays for."""
    COST = "cost"
    """The cheapest answers that keep a floor of quality."""
    WEIGHTED = "weighted"
    """The best sum of quality, money and time."""


@dataclass(frozen=True, slots=True)
class TierLimits:
    """The tiers between which the router may choose, by name or model id; None: no limit.

    A call brings its own limits, and the config has defaults. The narrowest limits apply.
    """

    never_below: str | None = None
    never_above: str | None = None


NO_LIMITS = TierLimits()


class CacheUse(Enum):
    """What a client lets the cache of answers do for its call."""

    DEFAULT = "default"
    """A deterministic call may be answered by the cache."""
    WANTED = "wanted"
    """Any call may be answered by the cache."""
    REFRESH = "refresh"
    """The cache keeps the answer, but does not give one."""
    NONE = "none"
    """The cache neither keeps an answer nor gives one."""


@dataclass(frozen=True, slots=True)
class Call:
    """One parsed API request.

    `model` is the model that the client asked for: `auto`, a tier's name or a model id. `tier` is
    the override by header, `limits` restrict the router's choice. `adds_usage` says that the
    forwarded body asks for a usage event which the client did not ask for and must not see.
    `session` is the hash of the conversation's id, where the client gave one. `policy` and
    `objective` are overrides by header. `draftable` is false where the first tokens say nothing
    about the quality of the answer. `output_tokens_cap` is the caller's limit, which may be
    narrower than the limit in `prompt`.
    """

    request_id: str
    endpoint: Endpoint
    model: str
    payload: Payload
    prompt: Prompt
    stream: bool = False
    adds_usage: bool = False
    tier: str | None = None
    limits: TierLimits = NO_LIMITS
    session: str | None = None
    policy: Policy | None = None
    objective: Objective | None = None
    draftable: bool = True
    cache_use: CacheUse = CacheUse.DEFAULT
    output_tokens_cap: int | None = None

    @property
    def output_tokens_max(self) -> int | None:
        """The most tokens that an answer may have, None without a limit."""
        asked, cap = self.prompt.output_tokens_max, self.output_tokens_cap
        return asked if cap is None else cap if asked is None else min(asked, cap)


class Reason(StrEnum):
    """Why a call went to its tier; a closed set, so that a reason can label metrics."""

    MODEL = "model"
    HEADER = "header"
    SIMPLE = "simple"
    COMPLEX = "complex"
    PROMPT_TOO_LONG = "prompt_too_long"
    ONLY_TIER = "only_tier"
    POLICY = "policy"
    NO_GENERATION = "no_generation"
    STRONG_BUSY = "strong_busy"
    STRONG_IDLE = "strong_idle"
    WARM = "warm"
    QUALITY = "quality"
    COST = "cost"
    WEIGHTED = "weighted"
    NEVER_BELOW = "never_below"
    NEVER_ABOVE = "never_above"
    FALLBACK = "fallback"
    DRAFT = "draft"
    CONFIDENT = "confident"
    ESCALATED = "escalated"
    DRAFT_FAILED = "draft_failed"


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is expected of a tier for one call.

    `right` is its P(right), `cost` the price of the call in units of the currency, `time_s` the
    time until the answer is complete. What its caches hold of the prompt is in the two already:
    `saved_cost` and `saved_s` say how much; `saved_gpu_s` are the seconds of GPUs.
    """

    tier: str
    right: float
    cost: float
    time_s: float
    saved_cost: float = 0.0
    saved_s: float = 0.0
    saved_gpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Which tier answers, and why.

    `score` is the complexity in 0..1, None where nothing was scored. `threshold` is the value that
    the score was compared with. `weighed` is the score that was compared instead, moved by what the
    tiers have cached; None: the score itself. `prospects` are those of the tiers between which
    `objective` has chosen.
    """

    tier: str
    model_id: str
    reason: Reason
    score: float | None = None
    threshold: float | None = None
    weighed: float | None = None
    objective: Objective | None = None
    prospects: tuple[Prospect, ...] = ()

    @property
    def prospect(self) -> Prospect | None:
        """What is expected of the tier, None where no objective has chosen."""
        return next((p for p in self.prospects if p.tier == self.tier), None)


@dataclass(frozen=True, slots=True)
class Route:
    """Every decision that a call may need, made once and in the order of preference.

    A cascade begins with `draft`. `decision` answers the call, or takes it over from a draft.
    `others` may answer instead where the tier of `decision` takes no call.
    """

    decision: Decision
    draft: Decision | None = None
    others: tuple[Decision, ...] = ()

    @property
    def first(self) -> Decision:
        """The decision that the call begins with."""
        return self.draft or self.decision

    def other(self, avoid: Set[str]) -> Decision | None:
        """The first of the others whose tier is not in `avoid`, None if there is none."""
        return next((other for other in self.others if other.tier not in avoid), None)


@dataclass(slots=True)
class Usage:
    """The tokens of one call as its engine counted them; None until the engine reports them.

    `cached_tokens` are the tokens of the prompt that the engine's prefix cache held.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(slots=True)
class Draft:
    """What the weakest tier had generated for a call when its confidence was judged.

    `confidence` is the draft's P(right), 0 to 1, computed from the two probabilities. All three are
    None until the draft has reached its checkpoint. `usage` counts the tokens up to the checkpoint.
    It leaves out the tokens that an engine generates before it notices that the draft was stopped.
    `discarded` says that another tier answered.
    """

    tier: str
    discarded: bool = False
    confidence: float | None = None
    mean_probability: float | None = None
    min_probability: float | None = None
    usage: Usage = field(default_factory=Usage)
    model_id: str = ""
    cost: int | None = None
    """The cost of a discarded draft in nanos, which is a part of the call's cost."""


class Outcome(StrEnum):
    """How a call ended; a closed set, so that an outcome can label metrics."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    SERVER_ERROR = "server_error"
    DISCONNECTED = "disconnected"
    BROKEN_STREAM = "broken_stream"


class CacheResult(StrEnum):
    """What the cache of answers did for a call; a closed set, so that it can label metrics."""

    HIT = "hit"
    MISS = "miss"
    SHARED = "shared"
    BYPASS = "bypass"

    @property
    def free(self) -> bool:
        """Whether no engine worked for the call."""
        return self in (CacheResult.HIT, CacheResult.SHARED)


class Reservation(Protocol):
    """What was reserved of a caller's limits for one call."""

    def settle(self, record: Record) -> None:
        """Charge what the call has used, and give the rest back; must neither block nor raise."""
        ...


@dataclass(slots=True)
class Record:
    """The facts about one ended call: the source of metrics and the access log.

    `arrived_at` is Unix time in seconds; the other times are seconds since then. `code` is the
    error code from `core/errors.py`, if any. `usage` belongs to the answer that the client got,
    `draft` to the draft that a cascade began with. `reservation`, `cache`, `cost`,
    `content` and `trace` are None without limits, a cache, prices, an audit log that keeps texts
    and traces. `cost` is
    in nanos (`core/money.py`) and is known once the call is settled. `strong_cost` is what the call
    would have cost without routing; it equals `cost` where the Router had no choice.
    """

    request_id: str
    endpoint: Endpoint
    stream: bool
    arrived_at: float = field(default_factory=time.time)
    decision: Decision | None = None
    status: int = 0
    code: str | None = None
    outcome: Outcome = Outcome.OK
    first_byte_s: float | None = None
    total_s: float = 0.0
    usage: Usage = field(default_factory=Usage)
    draft: Draft | None = None
    caller: Caller = ANONYMOUS
    reservation: Reservation | None = None
    cache: CacheResult | None = None
    variant: str | None = None
    """The variant of the tier that answered, None for the tier's own engine."""
    cost: int | None = None
    strong_cost: int | None = None
    content: Content | None = None
    trace: Trace | None = None
    headers: Headers = field(default_factory=list)
    """Headers that steps add to the answer, whether it succeeds or fails."""
    late_tiers: list[str] = field(default_factory=list)
    """The tiers that would have begun the answer after the call's deadline, in the order of asking.
    """
    settling: list[Future[None]] = field(default_factory=list)
    """Done when the engines of stopped answers have reported the tokens of `usage` and of the
    draft."""


@dataclass(frozen=True, slots=True)
class TierState:
    """One tier as `/ready` shows it; `replicas` counts the replicas that can answer.

    `message` says why other replicas cannot answer, None where no reason is known.
    """

    name: str
    model_id: str
    ready: bool
    replicas: int
    status: str
    message: str | None = None
    breaker: BreakerState = BreakerState.CLOSED
    """As the Router that answers sees it."""
