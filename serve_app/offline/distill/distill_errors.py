"""The errors that stop a distillation.

DistillFailed
├── InvalidLog          a line of the feedback log cannot be used
├── InvalidTrainingSet  a line of the training set cannot be used
├── NothingToTeach      no answer of the log may be taught
├── UnknownBase         the base model is not there, or is none that can be trained
├── TrainingDiverged    the loss is not a number any more
└── CannotCompare       the answers do not say how right both models are
"""

from __future__ import annotations

from pathlib import Path


class DistillFailed(Exception):
    """No training set, no adapter or no comparison was written."""


class InvalidLog(DistillFailed):
    """A line of the feedback log cannot be used; the message names the line, the key and the
    expected value."""

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        super().__init__(f"{_where(path, line)}: {problem}")


class InvalidTrainingSet(DistillFailed):
    """A line of the training set cannot be used; the message names the line, the key and the
    expected value."""

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        super().__init__(f"{_where(path, line)}: {problem}")


class NothingToTeach(DistillFailed):
    """No answer of the log may be taught; the message counts why."""


class UnknownBase(DistillFailed):
    """The base model is not there, or is none that can be trained."""

    def __init__(self, base: str, problem: str) -> None:
        super().__init__(
            f"--base {base}: {problem}; expected `demo:fast`, or a directory with config.json, "
            "safetensors and a tokenizer with a chat template"
        )


class TrainingDiverged(DistillFailed):
    """The loss is not a number any more."""

    def __init__(self, step: int) -> None:
        super().__init__(
            f"The loss of step {step} is not a number; nothing was written. Lower --learning-rate."
        )


class CannotCompare(DistillFailed):
    """The answers do not say how right both models are."""


def _where(path: Path, line: int | None) -> str:
    return f"{path}" if line is None else f"{path}, line {line}"
