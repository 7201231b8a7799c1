"""The request headers that this service reads."""

from __future__ import annotations

import hashlib
import re
import uuid

from starlette.types import Scope

from serve_app.core.call import NO_LIMITS, TierLimits
from serve_app.core.errors import InvalidField, UnsupportedMediaType
from serve_app.core.headers import (
    CONSENT_HEADER,
    DEADLINE_HEADER,
    NEVER_ABOVE_HEADER,
    NEVER_BELOW_HEADER,
    OBJECTIVE_HEADER,
    POLICY_HEADER,
    REQUEST_ID_HEADER,
    SESSION_HEADER,
    TIER_HEADER,
    TRACEPARENT_HEADER,
)

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
DEADLINE_MS = re.compile(rb"[1-9][0-9]{0,7}")
CONSENTS = {b"yes": True, b"no": False}
SESSION_ID = re.compile(rb"[!-~]{1,256}")
LENGTH_DIGITS_MAX = 20
"""The most digits of a length in bytes; Python fails at numbers of some thousand digits."""
CONTROLS = frozenset(
    (
        TIER_HEADER,
        NEVER_BELOW_HEADER,
        NEVER_ABOVE_HEADER,
        POLICY_HEADER,
        OBJECTIVE_HEADER,
        SESSION_HEADER,
        DEADLINE_HEADER,
        CONSENT_HEADER,
    )
)
"""The headers by which a client chooses; the edge rejects a call that has one of them twice."""


class RequestHeaders:
    """The few request headers that this service reads, in one pass.

    If a header is there twice, the first value counts, so that a later header cannot override the
    header of a proxy in front.
    """

    __slots__ = (
        "_consent",
        "_deadline_ms",
        "_never_above",
        "_never_below",
        "_session_id",
        "content_encoding",
        "content_length",
        "content_type",
        "objective",
        "policy",
        "request_id",
        "tier",
        "traceparent",
    )

    def __init__(self, scope: Scope) -> None:
        self.content_type = self.content_encoding = b""
        self.content_length: int | None = None
        self.request_id = ""
        self.tier: str | None = None
        self._never_below: str | None = None
        self._never_above: str | None = None
        self._session_id: bytes | None = None
        self._deadline_ms: bytes | None = None
        self._consent: bytes | None = None
        self.policy: str | None = None
        self.objective: str | None = None
        self.traceparent: bytes | None = None
        """None also where it is there twice, as the W3C's rules ask for."""
        traceparents = 0
        for name, value in reversed(scope["headers"]):
            if name == b"content-type":
                self.content_type = value
            elif name == b"content-length":
                self.content_length = _read_length(value)
            elif name == b"content-encoding":
                self.content_encoding = value
            elif name == REQUEST_ID_HEADER and REQUEST_ID.fullmatch(value):
                self.request_id = value.decode()
            elif name == TIER_HEADER:
                self.tier = value.decode("latin-1").strip()
            elif name == NEVER_BELOW_HEADER:
                self._never_below = value.decode("latin-1").strip()
            elif name == NEVER_ABOVE_HEADER:
                self._never_above = value.decode("latin-1").strip()
            elif name == SESSION_HEADER:
                self._session_id = value
            elif name == POLICY_HEADER:
                self.policy = value.decode("latin-1").strip()
            elif name == OBJECTIVE_HEADER:
                self.objective = value.decode("latin-1").strip()
            elif name == DEADLINE_HEADER:
                self._deadline_ms = value.strip()
            elif name == CONSENT_HEADER:
                self._consent = value.strip().lower()
            elif name == TRACEPARENT_HEADER:
                traceparents += 1
                self.traceparent = value.strip() if traceparents == 1 else None
        self.request_id = self.request_id or uuid.uuid4().hex

    @property
    def limits(self) -> TierLimits:
        """The tiers between which the router may choose for this call."""
        if self._never_below is None and self._never_above is None:
            return NO_LIMITS
        return TierLimits(self._never_below, self._never_above)

    @property
    def session(self) -> str | None:
        """The hash of the conversation's id; the id itself is not passed on.

        Raises:
            InvalidField: the id is empty, too long or not plain text.
        """
        if self._session_id is None:
            return None
        if not SESSION_ID.fullmatch(self._session_id):
            raise InvalidField(SESSION_HEADER.decode(), "1 to 256 visible ASCII characters")
        return hashlib.blake2b(self._session_id, digest_size=16).hexdigest()

    @property
    def deadline_s(self) -> float | None:
        """The client's deadline of the first token; None where the client sets none.

        Raises:
            InvalidField: the header is no whole number of milliseconds.
        """
        if self._deadline_ms is None:
            return None
        if not DEADLINE_MS.fullmatch(self._deadline_ms):
            raise InvalidField(DEADLINE_HEADER.decode(), "a whole number from 1 to 99999999")
        return int(self._deadline_ms) / 1000

    @property
    def consent(self) -> bool | None:
        """Whether the client lets the call be kept for learning; None where it does not say.

        Raises:
            InvalidField: the header has another value.
        """
        if self._consent is None:
            return None
        if self._consent not in CONSENTS:
            raise InvalidField(CONSENT_HEADER.decode(), "yes or no")
        return CONSENTS[self._consent]

    def check_media_type(self) -> None:
        """Raise UnsupportedMediaType unless the body is plain JSON."""
        media_type = self.content_type.partition(b";")[0].strip().lower()
        encoded = self.content_encoding not in (b"", b"identity")
        if media_type != b"application/json" or encoded:
            raise UnsupportedMediaType


def _read_length(value: bytes) -> int | None:
    """The length that the client announces, None if it is no number; the body is counted anyway."""
    digits = value.lstrip(b"0") or b"0"
    return int(digits) if value.isdigit() and len(digits) <= LENGTH_DIGITS_MAX else None
