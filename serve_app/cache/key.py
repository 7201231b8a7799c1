"""The key of an answer: the digest of everything that shapes it, for one tenant."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import orjson

from serve_app.config.cascade import CascadeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Route

KEY_BYTES = 24

MODEL_KEYS = {"model_id", "model_source", "sha256sums", "accelerator", "engine", "adapters"}
"""The keys of a tier that shape its answers; the others decide where and how often it runs."""


class KeyMaker:
    """Makes the keys of one Router's config."""

    def __init__(self, tiers: Sequence[TierConfig], cascade: CascadeConfig) -> None:
        self._models: Mapping[str, bytes] = {tier.name: fingerprint(tier) for tier in tiers}
        self._cascade = cascade.model_dump_json().encode()

    def make(self, call: Call, tenant: str, route: Route) -> bytes:
        """The key of the answer of a call on its route."""
        digest = hashlib.blake2b(digest_size=KEY_BYTES)
        for part in self._parts(call, tenant, route):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        return digest.digest()

    def _parts(self, call: Call, tenant: str, route: Route) -> list[bytes]:
        decision = route.decision
        body = call.payload.for_model(decision.model_id, decision.tier)
        parts = [tenant.encode(), call.endpoint.value.encode(), canonical(body)]
        parts += [decision.tier.encode(), self._models[decision.tier]]
        if route.draft is not None:
            draft = route.draft
            parts += [draft.model_id.encode(), self._models[draft.tier], self._cascade]
        return parts


def fingerprint(tier: TierConfig) -> bytes:
    """The digest of what a tier answers with: its model's source, sums and engine arguments."""
    document = tier.model_dump(mode="json", include=MODEL_KEYS)
    return hashlib.blake2b(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).digest()


def canonical(body: bytes) -> bytes:
    """The same JSON for the same values, in whatever order and layout they were sent."""
    return orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
