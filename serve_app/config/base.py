"""The base of every config model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen, closed to unknown keys and to endless numbers.

    A typing error must not silently become a default, nor a limit be none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
