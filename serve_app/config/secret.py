"""Where a secret is kept; a secret itself never stands in a config."""

from __future__ import annotations

from pydantic import Field, model_validator

from serve_app.config.base import Config


class SecretConfig(Config):
    """A file or an environment variable that holds a secret."""

    file: str | None = Field(
        None,
        min_length=1,
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
