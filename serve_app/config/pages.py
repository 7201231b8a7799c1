"""The pages for people: part of the Router's `user_config`."""

from __future__ import annotations

from pydantic import Field

from serve_app.config.base import Config


class PagesConfig(Config):
    """Which pages for browsers the service has."""

    playground: bool = Field(
        False,
        description="Whether `/playground` exists, where people ask questions and see how each "
        "call is routed. `/` then sends browsers there.",
    )
    dashboard: bool = Field(
        False,
        description="Whether `/dashboard` exists, which shows the live numbers of all Routers. "
        "With `access`, only roles with `dashboard` or `admin` see them.",
    )
