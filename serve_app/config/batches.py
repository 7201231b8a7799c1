"""The config of `serve_app/batches`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from serve_app.config.base import Config
from serve_app.config.tiers import DAY_S, HOUR_S
from serve_app.config.webhooks import DeliveryConfig, WebhookConfig

MEGABYTE = 1_000_000


class BatchesConfig(Config):
    """Files and batches of calls that are answered within a day, in the capacity that is left."""

    directory: str = Field(
        min_length=1,
        description="Directory of files and of the ledger: an absolute path on each Router's node. "
        "All Routers must see the same directory, or share `files` and `database`.",
    )
    files: str | None = Field(
        None,
        min_length=1,
        description="Where the bytes of files are kept: an address that fsspec knows, for example "
        "`s3://bucket/batches`. None: `directory`.",
    )
    database: str | None = Field(
        None,
        min_length=1,
        description="The ledger's database, an address of SQLAlchemy: "
        "`postgresql+psycopg://user@host/name`. The password belongs into `~/.pgpass` or "
        "`PGPASSWORD`. None: a SQLite file in `directory`, for Routers of one node.",
    )
    file_bytes_max: int = Field(
        200 * MEGABYTE, ge=1024, le=10_000 * MEGABYTE, description="Longest file."
    )
    lines_max: int = Field(50_000, ge=1, le=1_000_000, description="Most lines of one batch.")
    tenant_bytes_max: int = Field(
        10_000 * MEGABYTE,
        ge=1024,
        le=1_000_000_000 * MEGABYTE,
        description="Bytes of all files of one tenant; further uploads are rejected.",
    )
    retention_days: int = Field(
        30, ge=1, le=36_500, description="Files and ended batches are deleted after this time."
    )
    concurrency: int = Field(
        16,
        ge=1,
        le=4096,
        description="Most lines that one Router answers at a time. While calls wait for a place, "
        "the Router begins fewer.",
    )
    add_replicas: bool = Field(
        False,
        description="Whether autoscaling counts lines as load. false: lines run on the replicas "
        "that are there for clients, and wait while a tier has none.",
    )
    rising_ratio: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Last part of a batch's time in which its lines rise, in four steps, to the "
        "priority of clients' calls. 0: never.",
    )
    shard_lines: int = Field(
        32, ge=1, le=10_000, description="Lines that a Router claims together."
    )
    lease_s: float = Field(
        60.0,
        ge=0.1,
        le=HOUR_S,
        description="Time after which the lines of a Router that is gone go to another Router.",
    )
    tries_max: int = Field(
        5,
        ge=1,
        le=100,
        description="Attempts at a line that fails in an engine. A line that finds a tier full or "
        "a limit reached is tried again until its batch expires.",
    )
    window_s: float = Field(
        float(DAY_S),
        ge=1,
        le=DAY_S,
        description="Time after which a batch expires; its `completion_window` is `24h` always.",
    )
    webhooks: tuple[WebhookConfig, ...] = Field(
        (),
        max_length=32,
        description="Receivers of an event for each batch and each background response that has "
        "ended ([batches.md](batches.md#webhooks)).",
    )
    delivery: DeliveryConfig = Field(
        DeliveryConfig(), description="How long a receiver that fails is tried again."
    )

    @field_validator("webhooks")
    @classmethod
    def _distinct(cls, webhooks: tuple[WebhookConfig, ...]) -> tuple[WebhookConfig, ...]:
        names = [hook.name for hook in webhooks]
        if len(set(names)) < len(names):
            raise ValueError("two webhooks have the same name")
        return webhooks

    @field_validator("directory")
    @classmethod
    def _absolute(cls, directory: str) -> str:
        if not Path(directory).is_absolute():
            raise ValueError(
                f"'{directory}' is relative, but Ray chooses a Router's working directory; "
                "write an absolute path"
            )
        return directory
