"""Asking Ray Serve for a place on a replica: the one call per lease that goes through Ray."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import cast

from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from serve_app.core.errors import TierOverloaded, TierUnavailable
from serve_app.tiers.http1 import Address
from serve_app.tiers.lease_pool import Opener

logger = logging.getLogger("ray.serve")


class RayGrant:
    """A streaming Serve call that has yielded its replica's address and stays open."""

    def __init__(
        self, lease_id: str, address: Address, stream: DeploymentResponseGenerator[Address]
    ) -> None:
        self.lease_id = lease_id
        self.address = address
        self._stream = stream

    def cancel(self) -> None:
        """End the call; no longer iterating the stream would leave it open."""
        self._stream.cancel()


def build_opener(handle: DeploymentHandle[object]) -> Opener:
    """What opens leases on the tier behind `handle`."""
    method = handle.options(stream=True).lease

    async def open_lease() -> RayGrant:
        lease_id = secrets.token_hex(16)
        # With stream=True the handle returns a generator; its types cannot say so.
        stream = cast("DeploymentResponseGenerator[Address]", method.remote(lease_id))
        try:
            host, port = await anext(stream)
        except asyncio.CancelledError:
            stream.cancel()
            raise
        except BackPressureError:
            raise TierOverloaded(retry_after_s=5) from None
        except Exception as error:
            # Ray's message is a traceback with addresses: for the log, never for the client.
            logger.warning("no lease: %s", type(error).__name__, exc_info=error)
            raise TierUnavailable(retry_after_s=2) from None
        return RayGrant(lease_id, (host, port), stream)

    return open_lease
