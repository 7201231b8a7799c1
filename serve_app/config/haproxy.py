"""The amendments to the HAProxy configuration that Ray Serve writes; pure.

Ray's template has no time limit for a request's head and no limit for the connections of one
address, and it passes on requests for another protocol. It shows metrics and statistics on all
interfaces, and its errors are plain text. Ray offers no way to add lines to the template. This
module therefore amends the text line by known line; a line that differs from the expected line is
an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from serve_app.config.haproxy_successor import FRONTEND, PASS_ON, render_door, route_stopping
from serve_app.config.tls import TlsListener
from serve_app.core.headers import CERTIFICATE_HEADER
from serve_app.core.peer_watch import PROBE_S, SILENT_S_MAX

FILES_SPARE = 512
"""Files that HAProxy needs besides the files for connections."""
FILES_PER_CONNECTION = 2.5
"""Client, server, and for each fourth connection a pipe with two ends: Ray enables splicing."""
RESERVED = 64
"""Connections that the public port leaves for metrics and statistics."""
ADDRESS_PART_MAX = 16
"""One address has at most a sixteenth of the public port's connections. HAProxy waits `head_s` for
the first request of a connection, so a few addresses could fill a port with fewer places."""
MAXCONN = r"(?m)^    maxconn (\d+)$"
RETRIES_MAX = 3
"""HAProxy's default."""
APPLICATION = r"(?m)^    use_backend "
SERVER = r"(?m)^    server \S+ \S+ check"
ROUTER = r"(?m)^    server (\S+) \S+ check(?!.* backup$)"
ROUTER_LINE = rf"{ROUTER}.*"
BACKEND = r"(?m)^(backend \S+\n)((?:(?:    .*)?\n)*)"
SERVER_LINE = r"(?m)^(    server .*)$"
HEALTHY = "    http-check expect status 200\n"
HEALTHY_OR_DRAINING = "    http-check expect rstring (success|DRAINING)\n"
ADMIN_SOCKET = r"(?m)^    stats socket (\S+) mode 666 (level admin .*)$"


class TemplateChanged(Exception):
    """Ray's configuration for HAProxy differs from the configuration that this release amends."""


@dataclass(frozen=True)
class HAProxyLimits:
    """The limits of clients in HAProxy, and the address of its metrics."""

    connections_per_address_max: int = 2000
    unlimited_addresses: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    head_s: int = 10
    body_s: int = 30
    metrics_host: str = "127.0.0.1"
    proxy_protocol_from: tuple[str, ...] = ()


CONNECTIONS_PER_ADDRESS_MAX = "SERVE_APP_HAPROXY_CONNECTIONS_PER_ADDRESS_MAX"
UNLIMITED_ADDRESSES = "SERVE_APP_HAPROXY_UNLIMITED_ADDRESSES"
HEAD_S = "SERVE_APP_HAPROXY_HEAD_S"
BODY_S = "SERVE_APP_HAPROXY_BODY_S"
METRICS_HOST = "SERVE_APP_HAPROXY_METRICS_HOST"
PROXY_PROTOCOL_FROM = "SERVE_APP_HAPROXY_PROXY_PROTOCOL_FROM"


def read_limits(environment: Mapping[str, str]) -> HAProxyLimits:
    """The limits from the environment, with defaults for the others.

    Raises:
        ValueError: a value is not a number above zero, an address or a network.
    """
    default = HAProxyLimits()
    host = environment.get(METRICS_HOST, default.metrics_host)
    return HAProxyLimits(
        _read_number(environment, CONNECTIONS_PER_ADDRESS_MAX, default.connections_per_address_max),
        _read_networks(environment, UNLIMITED_ADDRESSES, default.unlimited_addresses),
        _read_number(environment, HEAD_S, default.head_s),
        _read_number(environment, BODY_S, default.body_s),
        str(ip_address(host)),
        _read_networks(environment, PROXY_PROTOCOL_FROM, default.proxy_protocol_from),
    )


def _read_networks(
    environment: Mapping[str, str], name: str, default: tuple[str, ...]
) -> tuple[str, ...]:
    text = environment.get(name, ",".join(default))
    return tuple(str(ip_network(address.strip())) for address in text.split(",") if address)


def _read_number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{name} is {text!r}, not a number above zero")
    return int(text)


@dataclass(frozen=True)
class ProxyError:
    """An error answer that HAProxy itself sends.

    HAProxy 2.8 answers with a built-in page if it cannot parse a request or a head comes too late.
    """

    status: int
    type: str
    code: str
    message: str
    retry_after_s: int | None = None

    @property
    def body(self) -> str:
        """The error as JSON in OpenAI's form; HAProxy does not know the endpoint's dialect."""
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        return json.dumps({"error": error}, separators=(",", ":"))

    def render(self) -> str:
        """The answer as HAProxy's arguments; single quotes make HAProxy take the text literally."""
        assert "'" not in self.body
        after = f" hdr retry-after {self.retry_after_s}" if self.retry_after_s else ""
        return f"status {self.status} content-type application/json string '{self.body}'{after}"


UNAVAILABLE = ProxyError(
    503,
    "overloaded_error",
    "service_unavailable",
    "The service is not available at the moment. Try again shortly.",
    retry_after_s=5,
)
ERRORS = (
    ProxyError(400, "invalid_request_error", "bad_request", "The request is not valid HTTP."),
    ProxyError(408, "invalid_request_error", "request_timeout", "The request came too slowly."),
    ProxyError(500, "server_error", "internal_error", "The proxy had an error."),
    ProxyError(
        502, "server_error", "upstream_failed", "The router broke off before it had answered."
    ),
    UNAVAILABLE,
    ProxyError(504, "timeout_error", "deadline_exceeded", "The router did not answer in time."),
)
NOT_FOUND = ProxyError(404, "invalid_request_error", "unknown_url", "Unknown request URL.")
ROUTES = f"    http-request return {NOT_FOUND.render()} if routes"


def amend(
    text: str,
    limits: HAProxyLimits,
    files_max: int,
    tls: TlsListener | None = None,
    *,
    admin_socket: str | None = None,
    door: str | None = None,
) -> str:
    """Amend Ray's configuration with this service's limits and errors, for `files_max` open files.

    `tls` None: the public port speaks plain HTTP. `admin_socket` None: HAProxy is controlled at the
    path that Ray chose. `door`: the path at which each HAProxy takes the requests of those that it
    has replaced; None: they answer by their own configuration.

    Raises:
        TemplateChanged: a line to amend does not occur exactly once.
    """
    possible = int((files_max - FILES_SPARE) / FILES_PER_CONNECTION)
    connections_max = min(_read_maxconn(text), max(RESERVED * 2, possible))
    # Ray starts HAProxy before it knows the application.
    elsewhere = NOT_FOUND if re.search(APPLICATION, text) else UNAVAILABLE
    text = _replace(r"(?m)^    http-request return .* if routes$", _literal(ROUTES), text)
    taken_over = "" if door is None else render_door(text, door)
    for pattern, lines in _amendments(limits, connections_max, elsewhere, tls, admin_socket):
        text = _replace(pattern, lines, text)
    if door is not None:
        text = re.sub(FRONTEND, lambda frontend: route_stopping(frontend[0]), text) + taken_over
    text = re.sub(BACKEND, _amend_backend, text)
    # HAProxy ignores this one in `default-server`. There may be no Router yet, and so no line.
    return re.sub(SERVER_LINE, rf"\1 tcp-ut {SILENT_S_MAX}s", text)


def _replace(pattern: str, lines: str, text: str) -> str:
    text, found = re.subn(pattern, lines, text)
    if found != 1:
        raise TemplateChanged(f"{found} matches of {pattern!r}, expected one")
    return text


def find_routers(text: str) -> dict[str, list[str]]:
    """The lines of the Routers in Ray's configuration, by backend; empty where Ray names none."""
    found = {}
    for head, lines in re.findall(BACKEND, text):
        if re.search(SERVER, lines):
            found[head.split()[1]] = [match[0] for match in re.finditer(ROUTER_LINE, lines)]
    return found


def keep_routers(text: str, known: Mapping[str, Sequence[str]]) -> str:
    """Ray's configuration, with the last known Routers where it names none.

    While all Routers take a new `user_config`, Ray names none of them for about a second, although
    they serve on. Whether a Router is there is for HAProxy's own health check to say.
    """

    def keep(backend: re.Match[str]) -> str:
        head, lines = backend.groups()
        kept = known.get(head.split()[1], ())
        if not kept or re.search(ROUTER, lines):
            return backend[0]
        first = re.search(SERVER, lines)
        at = len(lines) if first is None else first.start()
        return "".join((head, lines[:at], *(line + "\n" for line in kept), lines[at:]))

    return re.sub(BACKEND, keep, text)


def _amend_backend(backend: re.Match[str]) -> str:
    """A backend that lets no call wait for a Router.

    A retry at the same Router would wait for a second, so there is one retry for each further
    Router. Ray's fallback, a proxy on the head, would hold calls until a Router runs, without a
    limit. The fallback stays a server, so that Ray's health check counts it.

    A Router that drains still answers calls, until Ray has taken it out of the configuration, and
    its health says 503 at once. HAProxy may know no other Router by then.
    """
    head, lines = backend.groups()
    routers = re.findall(ROUTER, lines)
    if not re.search(SERVER, lines):
        return backend[0]
    name = head.split()[1]
    down = "".join(f" !{{ srv_is_up({name}/{router}) }}" for router in routers)
    refused = f"    http-request return {UNAVAILABLE.render()}{' if' if down else ''}{down}\n"
    retries = max(0, min(RETRIES_MAX, len(routers) - 1))
    lines = lines.replace(HEALTHY, HEALTHY_OR_DRAINING)
    return f"{head}    retries {retries}\n{refused}{lines}"


def _read_maxconn(text: str) -> int:
    found = re.search(MAXCONN, text)
    if found is None:
        raise TemplateChanged("no maxconn line")
    return int(found[1])


def find_admin_socket(text: str) -> str:
    """The path of the socket that controls HAProxy, in Ray's configuration."""
    found = re.search(ADMIN_SOCKET, text)
    if found is None:
        raise TemplateChanged("no admin socket")
    return found[1]


def _amendments(
    limits: HAProxyLimits,
    connections_max: int,
    elsewhere: ProxyError,
    tls: TlsListener | None,
    admin_socket: str | None,
) -> Iterator[tuple[str, str]]:
    """Patterns of Ray's lines, and their replacements."""
    # The socket's commands replace certificates and servers; Ray opens it to every user.
    path = r"\1" if admin_socket is None else _literal(admin_socket)
    yield (
        ADMIN_SOCKET,
        "\n".join((rf"    stats socket {path} mode 600 \2", *(tls.globals() if tls else ()))),
    )
    yield MAXCONN, f"    maxconn {connections_max}"
    yield (
        r"(?m)^defaults\n    mode http$",
        _literal("defaults", "    mode http", *_defaults(limits)),
    )
    yield r"(?m)^(?:    errorfile 50[234] \S+\n){3}", ""
    yield r"(?m)^    bind :(\d+)$", rf"    bind {_host(limits.metrics_host)}:\1"
    yield r"(?m)^  bind \*:(\d+)$", r"  bind 127.0.0.1:\1"
    yield (
        r"(?m)^(frontend http_frontend\n    bind \S+)$",
        "\\1" + _literal(tls.bind() if tls else "", *_public(limits, connections_max, tls)),
    )
    yield (
        r"(?m)^(backend default_backend\n)    http-request return status 404 .*$",
        r"\1" + _literal(f"    http-request return {elsewhere.render()}"),
    )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _literal(*lines: str) -> str:
    return "\n".join(lines).replace("\\", r"\\")


def _defaults(limits: HAProxyLimits) -> Iterator[str]:
    yield f"    timeout http-request {limits.head_s}s"
    # The machine of a Router may go without closing a connection, and Ray sets no `timeout server`.
    yield "    option srvtcpka"
    yield f"    srvtcpka-idle {PROBE_S}s"
    yield f"    srvtcpka-intvl {PROBE_S}s"
    yield f"    srvtcpka-cnt {SILENT_S_MAX // PROBE_S - 1}"
    yield from (f"    http-error {error.render()}" for error in ERRORS)


def _public(limits: HAProxyLimits, connections_max: int, tls: TlsListener | None) -> Iterator[str]:
    yield f"    maxconn {connections_max - RESERVED}"
    yield "    stick-table type ipv6 size 100k expire 1m store conn_cur"
    unlimited = ""
    if limits.unlimited_addresses:
        yield f"    acl unlimited_address src {' '.join(limits.unlimited_addresses)}"
        unlimited = " !unlimited_address"
    begun = "connection"
    if limits.proxy_protocol_from:
        sources = " ".join(limits.proxy_protocol_from)
        yield f"    tcp-request connection expect-proxy layer4 if {{ src {sources} }}"
        # The client's address is known only after the balancer's header.
        begun = "session"
    # One household or machine has a whole /64 of IPv6 addresses.
    yield f"    tcp-request {begun} track-sc0 src,ipmask(32,64)"
    most = min(limits.connections_per_address_max, (connections_max - RESERVED) // ADDRESS_PART_MAX)
    yield f"    tcp-request {begun} reject if {{ sc0_conn_cur gt {most} }}{unlimited}"
    # HAProxy adds its line of x-forwarded-for after the lines of the client. The Routers read them
    # from the end, so a client cannot hide its address.
    yield "    option forwardfor"
    # No endpoint offers another protocol, and a server may ignore the request to upgrade.
    yield "    http-request del-header upgrade"
    # Only this proxy says which certificate a client has.
    yield f"    http-request del-header {CERTIFICATE_HEADER.decode()}"
    if tls is not None:
        yield from tls.requests()
    # No Router gets the request before its body is complete or fills HAProxy's buffer.
    yield f"    http-request wait-for-body time {limits.body_s}s if METH_POST"
    yield PASS_ON.rstrip("\n")
