"""How an HAProxy that has been replaced passes its clients' next requests on; pure.

A reload leaves the old HAProxy to its open connections, and with them to the Routers of its own
configuration. A client may send its next request on such a connection when those Routers have gone.
The old HAProxy therefore hands each new request to the HAProxy that answers now, by a socket whose
path every HAProxy of Ray's takes over from the one before it.
"""

from __future__ import annotations

import re

SUCCESSOR = "serve_app_successor"
DOOR = "serve_app_door"
STOPPING = "{ stopping }"
FRONTEND = r"(?m)^frontend http_frontend\n    bind \S+\n((?:(?:    .*)?\n)*)"
ROUTE = r"(?m)^(?=    (?:use_backend|default_backend) )"
PASS_ON = f"    http-request allow if {STOPPING}\n"
"""No rule of the old configuration answers in place of the new one."""


def render_door(text: str, path: str) -> str:
    """The frontend and the backend that take requests over, from Ray's own frontend.

    The public frontend's limits and headers are the old HAProxy's part, so the door has Ray's lines
    alone. Only this user may use the socket.
    """
    found = re.search(FRONTEND, text)
    rules = "" if found is None else found[1]
    return (
        f"frontend {DOOR}\n    bind unix@{path} mode 600\n{PASS_ON}{route_stopping(rules)}"
        # A kept connection would lead to an HAProxy that has been replaced meanwhile.
        f"backend {SUCCESSOR}\n    http-reuse never\n    server successor unix@{path}\n"
    )


def route_stopping(rules: str) -> str:
    """The rules of a frontend, of which the successor's is the first to choose a backend."""
    return re.sub(ROUTE, f"    use_backend {SUCCESSOR} if {STOPPING}\n", rules, count=1)
