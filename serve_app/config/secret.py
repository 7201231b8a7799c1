"""Where a secret is kept; a secret itself never stands in a config."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from serve_app.config.base import Config


def _check_absolute(path: str) -> str:
    if not PurePosixPath(path).is_absolute():
        raise ValueError(
            "a Router's working directory is a session directory of Ray; write an absolute path"
        )
    return path


AbsolutePath = Annotated[str, AfterValidator(_check_absolute)]


class SecretConfig(Config):
    """A file or an environment variable that holds a secret."""

    file: AbsolutePath | None = Field(
        None,
        description="File that holds the secret; line ends at its end do not count.",
    )
    variable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable that holds the secret, in place of `file`.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> SecretConfig:
        if (self.file is None) == (self.variable is None):
            raise ValueError("set either file or variable")
        return self
