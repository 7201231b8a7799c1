"""The base of every config model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen, and closed to unknown keys: a typing error must not silently become a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)
