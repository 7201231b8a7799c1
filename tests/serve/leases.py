"""A lease without a Router: what a test may send to a replica's door."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
from ray import serve

from serve_app.leases.signature import LeaseSigner, new_secret


class HeldLease:
    """A place on a replica, and the address of the engine that it opens."""

    def __init__(self, engine: str, signer: LeaseSigner) -> None:
        self.engine = engine
        self._signer = signer

    def _headers(self, path: str, body: bytes) -> dict[str, str]:
        signed = self._signer.sign(path.encode(), b"", len(body)).decode()
        return {"x-lease-id": signed, "content-type": "application/json"}

    def post(self, path: str, body: bytes = b"") -> httpx.Response:
        """One exchange under the lease."""
        headers = self._headers(path, body)
        return httpx.post(f"{self.engine}{path}", content=body, headers=headers, timeout=30)

    def stream(self, body: bytes, *, read_s: float) -> AbstractContextManager[httpx.Response]:
        """A chat under the lease; leaving the block closes its connection."""
        path = "/v1/chat/completions"
        headers, limits = self._headers(path, body), httpx.Timeout(30, read=read_s)
        return httpx.stream(
            "POST", f"{self.engine}{path}", content=body, headers=headers, timeout=limits
        )


@contextmanager
def leased(deployment: str) -> Iterator[HeldLease]:
    """A place on a tier."""
    lease_id, secret = secrets.token_hex(8), new_secret()
    handle = serve.get_deployment_handle(deployment, "llm")
    stream = handle.options(stream=True).lease.remote(lease_id, secret)
    try:
        host, port = next(iter(stream))
        yield HeldLease(f"http://{host}:{port}", LeaseSigner(lease_id, secret))
    finally:
        # Its threads would go on after this cluster, and start another one to report to.
        handle.shutdown()


def refused(lease: HeldLease) -> str | None:
    """Why the door of the replica rejects the lease, None if it does not."""
    return lease.post("/serve-app/load").headers.get("x-lease-refused")
