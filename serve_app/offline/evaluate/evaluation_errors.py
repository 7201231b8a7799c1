"""The errors that stop an evaluation.

EvaluationFailed
├── InvalidDataset      a line of the data set cannot be used
├── OtherEvaluation     the directory holds the answers of another data set or of other settings
├── EndpointDown        no server answers at the address
└── CallRefused         no such call can succeed: the key, the model or the path is wrong
"""

from __future__ import annotations

from pathlib import Path


class EvaluationFailed(Exception):
    """The evaluation has no result to report."""


class InvalidDataset(EvaluationFailed):
    """A line of the data set cannot be used; the message names the line, the key and the expected
    value."""

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        where = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {problem}")


class OtherEvaluation(EvaluationFailed):
    """The directory holds the answers of another data set or of other settings."""

    def __init__(self, directory: Path, differences: str) -> None:
        super().__init__(f"{directory} holds another evaluation: {differences}. Use another --out.")


class EndpointDown(EvaluationFailed):
    """No server answers at the address."""

    def __init__(self, base_url: str) -> None:
        super().__init__(f"No server answers at {base_url}. Is the service running there?")


class CallRefused(EvaluationFailed):
    """No such call can succeed: the key, the model or the path is wrong."""

    def __init__(self, model: str, base_url: str, reason: str) -> None:
        super().__init__(f"{base_url} rejects calls to the model '{model}': {reason}")
