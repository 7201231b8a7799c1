"""What is known of one tier when its number of replicas is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EngineSignals:
    """What one replica said last of its engine.

    `running` and `queued` are calls that it works on and that wait in it; `kv_used_ratio` is the
    used part of its KV cache. The rest counts since the engine started: calls that have got their
    first token and the seconds that these waited for it in the engine; calls that have ended, the
    tokens of their prompts and of their answers.
    """

    running: float
    queued: float
    kv_used_ratio: float
    first_tokens: float = 0.0
    first_token_waits_s: float = 0.0
    finished: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class TierSignals:
    """One tier at one moment. `now_s` is Unix time, which schedules need.

    `calls` are all that hold or wait for a place, `waiting` those of them that wait. `engines` are
    those replicas that have told, by their id; it may lack any of them. `wanted` counts the calls
    that were meant for the tier since each Router started, by the Router's id, wherever they went;
    empty where no engine has reported.
    """

    now_s: float
    ready: int
    target: int
    calls: float
    waiting: float
    engines: Mapping[str, EngineSignals] = field(default_factory=dict)
    wanted: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica does while its calls get their first token in time.

    It reads so many prompt tokens a second if it does nothing else, or writes so many answer tokens
    with as many calls at a time as it takes. `busy_ratio` is the part of that which is planned
    with. Without both rates, `calls` at a time are all that is known.
    """

    calls: float
    first_token_target_s: float
    kv_used_ratio: float = 0.9
    busy_ratio: float = 0.8
    prompt_tokens_per_s: float | None = None
    output_tokens_per_s: float | None = None

    def work_s(self, prompt_tokens: float, output_tokens: float) -> float | None:
        """Seconds of one replica that a call takes, None where that is not known."""
        if self.prompt_tokens_per_s is None or self.output_tokens_per_s is None:
            return None
        return prompt_tokens / self.prompt_tokens_per_s + output_tokens / self.output_tokens_per_s


def measure_kv(signals: TierSignals, capacity: Capacity) -> float:
    """Replicas that would hold the keys and values of the calls within the wanted part."""
    return sum(engine.kv_used_ratio for engine in signals.engines.values()) / capacity.kv_used_ratio
