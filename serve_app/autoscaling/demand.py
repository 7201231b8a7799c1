"""The known facts about one tier when its number of replicas is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EngineSignals:
    """The latest report of one replica about its engine.

    `running` and `queued` are the calls that the engine works on and the calls that wait in it.
    `kv_used_ratio` is the used part of its KV cache. The other fields count since the engine
    started: calls that have got their first token, and the seconds that these calls waited for it
    in the engine; calls that have ended, and the tokens of their prompts and answers.
    """

    running: float
    queued: float
    kv_used_ratio: float
    first_tokens: float
    first_token_waits_s: float
    finished: float
    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class TierSignals:
    """One tier at one moment. `now_s` is Unix time, which schedules need.

    `calls` counts all calls that hold or wait for a place, `waiting` counts the calls that wait.
    Neither counts lines of batches that shall add no replicas: `spare` are the places of these
    lines, which calls that wait get first.
    `engines` holds the replicas that have reported, by their id; any replica may be missing.
    `wanted` counts the calls that were meant for the tier since each Router started, by the
    Router's id, whichever tier answered; empty where no engine has reported.
    """

    now_s: float
    ready: int
    target: int
    calls: float
    waiting: float
    engines: Mapping[str, EngineSignals] = field(default_factory=dict)
    wanted: Mapping[str, float] = field(default_factory=dict)
    spare: float = 0.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """The work that one replica does while its calls get their first token in time.

    The replica reads this many prompt tokens a second if it does nothing else, or writes this many
    answer tokens with its full number of calls at a time. `busy_ratio` is the part of these rates
    that is planned with. Without both rates, only the number of `calls` at a time is known.
    """

    calls: float
    first_token_target_s: float
    kv_used_ratio: float
    busy_ratio: float
    prompt_tokens_per_s: float | None
    output_tokens_per_s: float | None

    def work_s(self, prompt_tokens: float, output_tokens: float) -> float | None:
        """Seconds of one replica that a call takes, None where the rates are unknown."""
        if self.prompt_tokens_per_s is None or self.output_tokens_per_s is None:
            return None
        return prompt_tokens / self.prompt_tokens_per_s + output_tokens / self.output_tokens_per_s


def measure_kv(signals: TierSignals, capacity: Capacity) -> float:
    """Replicas that hold the calls' keys and values within the wanted part of the KV cache."""
    return sum(engine.kv_used_ratio for engine in signals.engines.values()) / capacity.kv_used_ratio
