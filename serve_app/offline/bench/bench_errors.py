"""The errors that stop a bench.

BenchFailed
├── ServerEnded         a server ended while it was needed
├── ServerNotReady      a server did not answer in time after its start
├── PeerUnavailable     the package of a peer is not installed and could not be
├── RequestsFailed      a server did not answer every request
├── NothingMeasured     no answer ended within the window
├── CallFailed          a call of a measurement was not answered in full
├── WindowTooShort      no call began within the window of a measurement
├── PromptsTakeAll      answers are too short to be separated from their prompts
├── ReplicasChanged     a tier did not have the same replicas all the time
└── GeneratorFailed     the load generator broke
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class BenchFailed(RuntimeError):
    """The run has no usable result."""


class ServerEnded(BenchFailed):
    """A server ended while it was needed."""

    def __init__(self, server: str, log_tail: str) -> None:
        super().__init__(f"{server} ended; the end of its log:\n{log_tail}")


class ServerNotReady(BenchFailed):
    """A server did not answer in time after its start."""

    def __init__(self, server: str, waited_s: float, log_tail: str) -> None:
        super().__init__(
            f"{server} did not answer within {waited_s:g} s; the end of its log:\n{log_tail}"
        )


class PeerUnavailable(BenchFailed):
    """The package of a peer is not installed and could not be."""

    def __init__(self, requirement: str, venv: Path, reason: str) -> None:
        super().__init__(
            f"{requirement} could not be installed into {venv}; the other targets need it not. "
            f"The end of the output:\n{reason}"
        )


class RequestsFailed(BenchFailed):
    """A server did not answer every request."""

    def __init__(self, server: str, phase: str, errors: Mapping[str, int], log_tail: str) -> None:
        counted = "\n".join(f"  {count} x {text}" for text, count in errors.items())
        super().__init__(
            f"{server}, {phase}: failed requests\n{counted}\nthe end of its log:\n{log_tail}"
        )


class NothingMeasured(BenchFailed):
    """No answer ended within the window."""

    def __init__(self, server: str, phase: str, window_s: float) -> None:
        super().__init__(f"{server}, {phase}: no answer ended within {window_s:.1f} s")


class CallFailed(BenchFailed):
    """A call of a measurement was not answered in full."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"a call of {path} failed: {reason}")


class WindowTooShort(BenchFailed):
    """No call began within the window of a measurement."""

    def __init__(self, window_s: float) -> None:
        super().__init__(f"no call began within {window_s:.1f} s: give more --seconds")


class PromptsTakeAll(BenchFailed):
    """Answers are too short to be separated from their prompts."""

    def __init__(self, share: float) -> None:
        super().__init__(
            f"prompts take {share:.0%} of the time of the typical calls: give more --output-tokens "
            "or fewer --prompt-tokens"
        )


class ReplicasChanged(BenchFailed):
    """A tier did not have the same replicas all the time."""

    def __init__(self, tier: str, before: int, after: int) -> None:
        super().__init__(
            f"tier {tier} had {before} running replicas at the start and {after} at the end: "
            "measure again with replicas.min and replicas.max equal"
        )


class GeneratorFailed(BenchFailed):
    """The load generator broke."""
