"""Asks Ray Serve for a place on a replica: the one call per lease that goes through Ray."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from serve_app.core.errors import TierOverloaded, TierUnavailable
from serve_app.leases.http1 import Address
from serve_app.leases.ranking import handed_over
from serve_app.leases.signature import LeaseSigner, new_secret

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class RayGrant:
    """A place on a replica, held by a streaming Serve call that has yielded the replica's address.

    The call is never cancelled: the replica ends it when the Router asks for the end, or when the
    place has been idle for long. Cancelling a Serve response is best effort. In ray 2.60 a response
    that is cancelled while its assignment completes is not cancelled at all if router and caller
    share a loop (`_DeploymentResponseBase.cancel`). A leaked place would keep its replica from ever
    draining.
    """

    lease_id: str
    address: Address
    signer: LeaseSigner

    def sign(self, path: bytes, draft_tokens: bytes, body_bytes: int) -> bytes:
        """The lease header of one request."""
        return self.signer.sign(path, draft_tokens, body_bytes)


class RayLeases:
    """Opens leases on the tier behind a handle, and listens until each one has ended."""

    def __init__(self, handle: DeploymentHandle[object]) -> None:
        self._handle = handle
        self._method = handle.options(stream=True).lease
        self._listening: set[asyncio.Task[None]] = set()

    async def open_ranked(self, ranking: tuple[str, ...]) -> RayGrant:
        """A place on the first replica of the ranking that has one; see `ray_router.PrefixRouter`.

        Raises:
            TierOverloaded: too many calls wait already.
            TierUnavailable: no replica can be asked.
        """
        return await self.open(ranking=ranking)

    async def open(self, session: str | None = None, *, ranking: tuple[str, ...] = ()) -> RayGrant:
        """A place on a replica of Ray's choice.

        Ray's request router sees the session and the ranking. The tier's config (`replica_choice`)
        says whether Ray chooses by one of them.

        Raises:
            TierOverloaded: too many calls wait already.
            TierUnavailable: no replica can be asked.
        """
        lease_id, secret = secrets.token_hex(16), new_secret()
        method = self._method
        if session is not None:
            method = self._handle.options(stream=True, session_id=session).lease
        # With stream=True the handle returns a generator, which its types do not express.
        stream = cast("DeploymentResponseGenerator[Address]", method.remote(lease_id, secret))
        try:
            with handed_over(lease_id, ranking):
                address = await anext(stream)
        except BackPressureError:
            raise TierOverloaded(retry_after_s=5) from None
        except Exception as error:
            # Ray's message is a traceback with addresses: only the log may hold it, not the answer.
            logger.warning("no lease: %s", type(error).__name__, exc_info=error)
            raise TierUnavailable(retry_after_s=2) from None
        listener = asyncio.create_task(_listen(stream))
        self._listening.add(listener)
        listener.add_done_callback(self._listening.discard)
        return RayGrant(lease_id, address, LeaseSigner(lease_id, secret))


async def _listen(stream: DeploymentResponseGenerator[Address]) -> None:
    """Read the stream to its end, because Ray counts the call as ongoing until it has been read."""
    with suppress(Exception):
        async for _ in stream:
            pass
