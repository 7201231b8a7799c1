"""A replica's HTTP server before an app that does nothing but answer, for `bench transport`.

`python -m serve_app.offline.bench.engine_server plain|tls` prints its address as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

from serve_app.offline.bench.simulated import Counts, SimulatedEngine
from serve_app.replica.engine_http import EngineHTTPServer

HOST = "127.0.0.1"


async def serve(*, tls: bool) -> None:
    """Serve on a free port until this process is ended."""
    server = EngineHTTPServer(SimulatedEngine(0.0, Counts()), HOST, tls=tls)
    await server.wait_started()
    host, port, *pin = server.address
    print(json.dumps([host, port, *(digest.hex() for digest in pin)]), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(tls=sys.argv[1] == "tls"))
