"""The config of `serve_app/audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from serve_app.config.base import Config
from serve_app.config.feedback import BUILT_INS, MIB, check_patterns
from serve_app.config.tiers import DAY_S, HOUR_S

Content = Literal["prompts", "answers"]


class AuditConfig(Config):
    """The audit log: one record a call, in chained and signed files."""

    directory: str = Field(
        min_length=1,
        description="Directory of the audit log: an absolute path on each Router's node.",
    )
    key_file: str = Field(
        min_length=1,
        description="File with the signing key, which `serve-app audit keygen` makes: an absolute "
        "path outside `directory`. Only the Router's user may read it.",
    )
    state_directory: str | None = Field(
        None,
        min_length=1,
        description="Directory of the newest seal of each chain, outside `directory`; a cut end of "
        "the log is found by it. None: the directory of `key_file`.",
    )
    content: tuple[Content, ...] = Field(
        (),
        description="Which texts are kept: `prompts`, `answers`. Each is redacted by `redact`.",
    )
    redact: tuple[str, ...] = Field(
        BUILT_INS,
        max_length=64,
        description="Patterns that are removed from kept texts, as in `feedback.redact`.",
    )
    text_chars_max: int = Field(
        16_000,
        ge=1,
        le=1_000_000,
        description="Longest prompt and longest answer that are kept, in characters; of a longer "
        "text the record says only that it was too long.",
    )
    on_full: Literal["refuse", "continue"] = Field(
        "refuse",
        description="What happens while records cannot be written, because the disk is full, "
        "faulty or too slow. refuse: new calls get 503. continue: calls are answered, records "
        "beyond `waiting_max` are lost and counted, and a metric and the log say so.",
    )
    waiting_max: int = Field(
        10_000,
        ge=100,
        le=1_000_000,
        description="Records of one Router replica that may wait for the disk.",
    )
    fsync_s: float = Field(
        1.0,
        ge=0.01,
        le=60,
        description="Time after which ended calls are on disk. A Router that is killed loses the "
        "records of at most this time.",
    )
    seal_s: float = Field(
        10.0,
        ge=0,
        le=HOUR_S,
        description="Time after which new records are covered by a signature. 0: at each fsync.",
    )
    file_bytes_max: int = Field(
        64 * MIB, ge=64 * 1024, le=16 * 1024 * MIB, description="A longer file is closed."
    )
    rotate_s: float = Field(
        float(DAY_S), ge=1, le=366 * DAY_S, description="An older file is closed."
    )
    compress: Literal["gzip", "none"] = Field(
        "gzip",
        description="How closed files are compressed. The newest closed file stays as it is, so "
        "that a log shipper can finish reading it.",
    )
    retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="Closed files are deleted after this time, and a signed record says so. "
        "None: no file is deleted.",
    )

    @field_validator("directory", "key_file", "state_directory")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        if path is not None and not Path(path).is_absolute():
            raise ValueError(
                f"'{path}' is relative, but Ray chooses a Router's working directory; "
                "write an absolute path"
            )
        return path

    @field_validator("redact")
    @classmethod
    def _usable(cls, redact: tuple[str, ...]) -> tuple[str, ...]:
        return check_patterns(redact)

    @model_validator(mode="after")
    def _apart(self) -> AuditConfig:
        """Whoever may write the log must not also hold what proves it."""
        for key, path in (("key_file", self.key_file), ("state_directory", self.state)):
            if Path(path).resolve().is_relative_to(Path(self.directory).resolve()):
                raise ValueError(f"{key}: '{path}' is inside directory, '{self.directory}'")
        return self

    @property
    def state(self) -> str:
        """The directory of the newest seals."""
        return self.state_directory or str(Path(self.key_file).parent)
