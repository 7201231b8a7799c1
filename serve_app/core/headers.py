"""The names of the service's own headers, in lower case as ASGI has them."""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]
"""Names and values in the order of the wire."""

REQUEST_ID_HEADER = b"x-request-id"

# The headers by which a client chooses.
TIER_HEADER = b"x-route-tier"
NEVER_BELOW_HEADER = b"x-route-never-below"
NEVER_ABOVE_HEADER = b"x-route-never-above"
POLICY_HEADER = b"x-route-policy"
OBJECTIVE_HEADER = b"x-route-objective"
SESSION_HEADER = b"x-session-id"
DEADLINE_HEADER = b"x-deadline-ms"
"""Milliseconds within which the answer must begin; it can only shorten the deadline of the config.
"""
CONSENT_HEADER = b"x-feedback-consent"

SPARE_HEADER = b"x-serve-app-spare"
"""From a Router to a replica: the call is a line of a batch and shall add no replicas."""

TRACEPARENT_HEADER = b"traceparent"
"""Of W3C Trace Context: from a client, and to an engine."""

# The headers that show who asks.
AUTHORIZATION_HEADER = b"authorization"
API_KEY_HEADER = b"x-api-key"
FORWARDED_FOR_HEADER = b"x-forwarded-for"
CERTIFICATE_HEADER = b"x-serve-app-client-certificate"

CACHE_HEADER = b"x-cache"
"""`use` in a request; the result in an answer."""
CACHE_CONTROL_HEADER = b"cache-control"

# These headers of an answer, with TIER_HEADER, say what was chosen.
MODEL_HEADER = b"x-route-model"
REASON_HEADER = b"x-route-reason"
SCORE_HEADER = b"x-route-score"
ESCALATED_HEADER = b"x-route-escalated"
CONFIDENCE_HEADER = b"x-route-confidence"
VARIANT_HEADER = b"x-route-variant"
DISCARDED_TOKENS_HEADER = b"x-route-draft-tokens"
"""The tokens of a discarded draft."""
