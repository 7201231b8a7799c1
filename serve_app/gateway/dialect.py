"""Translates a call for an engine, and the engine's answer back into the client's dialect."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.core.call import Call, Endpoint, Usage
from serve_app.core.errors import GatewayError
from serve_app.gateway.engine_errors import translate_refusal
from serve_app.gateway.stored_responses import check_nothing_stored
from serve_app.gateway.stream_tap import StreamTap
from serve_app.gateway.token_count import render_count, render_tokenize
from serve_app.gateway.tool_choice import forces_tool, mend_stop_reason
from serve_app.gateway.wire import parse_json


@dataclass(frozen=True, slots=True)
class Translation:
    """One call in the client's form and in the engine's form.

    The client called `endpoint`; the engine gets `body` on `engine_endpoint`.
    """

    endpoint: Endpoint
    engine_endpoint: Endpoint
    body: bytes
    forces_tool: bool = False

    def whole(self, body: bytes) -> bytes:
        """Translate the engine's answer in one piece for the client.

        Raises:
            UpstreamFailed: the answer does not have the form of this endpoint's answers.
        """
        if self.endpoint is Endpoint.INPUT_TOKENS:
            return render_count(body)
        return mend_stop_reason(body) if self.forces_tool else body

    def refusal(self, status: int, body: bytes) -> GatewayError:
        """Translate the engine's 4xx for the client."""
        return translate_refusal(self.endpoint, status, body)

    def tap(self, call: Call, usage: Usage) -> StreamTap:
        """The tap that the engine's stream passes through on its way to the client."""
        return StreamTap(self.endpoint, usage, hide=call.adds_usage, forces_tool=self.forces_tool)


def translate(endpoint: Endpoint, body: bytes) -> Translation:
    """Prepare the body of a call for the engine.

    Raises:
        BadRequest: the body asks for something that no engine can answer; names the field.
    """
    if endpoint is Endpoint.INPUT_TOKENS:
        document = parse_json(body)
        check_nothing_stored(document)
        return Translation(endpoint, Endpoint.TOKENIZE, render_tokenize(document))
    return Translation(endpoint, endpoint, body, forces_tool(endpoint, body))
