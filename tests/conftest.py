"""What holds for every test."""

from __future__ import annotations

import logging

from hypothesis import HealthCheck, settings

# A busy machine makes any example slow; no test here is about time.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", untimed, max_examples=20)
settings.register_profile("thorough", untimed, max_examples=100)
# `make test` asks for the thorough one: pytest --hypothesis-profile=thorough.
settings.load_profile("quick")


def pytest_collection_finish() -> None:
    """Let PyTorch's loggers propagate; pytest attaches itself to every other one, in each test."""
    for name, logger in logging.getLogger().manager.loggerDict.items():
        if name.startswith("torch.") and isinstance(logger, logging.Logger):
            logger.propagate = True
