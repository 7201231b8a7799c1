"""A process's heap, once the process has loaded what it keeps."""

from __future__ import annotations

import gc

NEW_OBJECTS = 20_000
"""How many new objects bring a collection; Python's default is 700, which a few calls reach. By
py-spy a Router spent 5 to 8 % of its time in collections with 700, and 0 to 2 % with 20,000."""


def settle_heap() -> None:
    """Let no later collection visit the objects that now exist, and let collections be rarer.

    Torch, transformers and vLLM leave more than half a million objects in a replica, and the
    libraries of a Router 160,000, which live as long as the process. A full collection that visits
    them stops every stream for up to a second in a replica, and for 90 ms in a Router. Python
    starts one when enough new objects have survived, and Ray starts one in each worker from time to
    time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
