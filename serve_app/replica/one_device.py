"""A worker whose process groups share one device of Gloo, and so one thread that polls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch.distributed import distributed_c10d
from vllm.v1.executor.uniproc_executor import UniProcExecutor

_CLASS = "ProcessGroupGloo"


class OneDeviceExecutor(UniProcExecutor):  # type: ignore[misc]  # vLLM has no types here
    """vLLM's executor of one worker, with one thread of Gloo instead of a dozen."""

    def _init_executor(self) -> None:
        with sharing_one_device():
            super()._init_executor()


@contextmanager
def sharing_one_device() -> Iterator[None]:
    """Let every Gloo group that is made meanwhile use the same device.

    vLLM makes a dozen groups, also for a single worker. Each group would have a device with a
    thread that wakes a hundred times a second, which takes 1.3 % of a core from an idle engine.
    Neither vLLM nor torch has a setting for it. Where torch has no such class any more, nothing is
    changed.
    """
    original = getattr(distributed_c10d, _CLASS, None)
    if original is None or not hasattr(original, "_Options"):
        yield
        return
    setattr(distributed_c10d, _CLASS, _build_sharing(original))
    try:
        yield
    finally:
        setattr(distributed_c10d, _CLASS, original)


def _build_sharing(original: Any) -> type[Any]:
    device = original.create_default_device()

    class SharingGloo(original):  # type: ignore[misc]  # torch checks groups by `isinstance`
        def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
            options = original._Options()
            options._devices, options._timeout = [device], timeout
            super().__init__(store, rank, size, options)

    return SharingGloo
