"""An OpenAI-compatible address before several self-hosted models, as one Ray Serve application.

The way of a request:

1. `gateway/app.py` finds the handler of the path; `gateway/handlers.py` reads the body once.
2. `gateway/wire.py` parses it into a `Call`.
3. `pipeline.py` runs the steps in order and owns everything they open.
4. `routing/choose.py` decides: a tier, and why.
5. `leases/client.py` leases a place on a replica, through `leases/pool.py` and Ray.
6. `leases/http1.py` sends the call to that replica's engine app, which `replica/server.py` serves.
7. The engine's bytes pass through `gateway/stream_tap.py` to the client.
8. `observe/` takes the record: metrics and the access log; `feedback/` a sampled call's answer.
"""

__version__ = "0.1.0"
