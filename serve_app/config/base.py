"""The base of every config model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen model that rejects unknown keys and infinite numbers.

    A typing error must not silently become a default, and no limit may be infinite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
