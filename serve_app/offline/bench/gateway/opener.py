"""Places on the engine without Ray: granted at once, or asked for at the door."""

from __future__ import annotations

import asyncio
import secrets

from serve_app.leases.http1 import Address
from serve_app.leases.signature import LeaseSigner, new_secret
from serve_app.offline.bench.lease_trials import LocalGrant


class DoorOpener:
    """Grants places on one engine; with a `control` port the engine's door learns of each."""

    def __init__(self, address: Address, control: int | None) -> None:
        self._address = address
        self._control = control
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __call__(self, session: str | None = None) -> LocalGrant:
        lease_id, secret = secrets.token_hex(16), new_secret()
        if self._control is not None:
            await self._ask(self._control, lease_id, secret)
        else:
            await asyncio.sleep(0)
        return LocalGrant(lease_id, self._address, LeaseSigner(lease_id, secret))

    async def _ask(self, control: int, lease_id: str, secret: bytes) -> None:
        async with self._lock:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._address[0], control)
            reader, writer = self._streams
            writer.write(f"{lease_id} {secret.hex()}\n".encode())
            await reader.readline()
