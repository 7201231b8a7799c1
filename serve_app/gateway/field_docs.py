"""The tables of docs/fields.md, generated from the gateway's own tables."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.core.call import Endpoint
from serve_app.gateway.fields import FIELDS, FieldRule, Ruling

HEADINGS = {
    Ruling.REFUSE: "Refused",
    Ruling.OPT_IN: "Refused unless `bodies.allowed_fields` names them",
    Ruling.DROP: "Dropped",
    Ruling.FORWARD: "Forwarded",
}
SHORT_NAMES = {
    Endpoint.CHAT: "chat",
    Endpoint.COMPLETIONS: "completions",
    Endpoint.RESPONSES: "responses",
    Endpoint.INPUT_TOKENS: "input_tokens",
    Endpoint.MESSAGES: "messages",
    Endpoint.COUNT_TOKENS: "count_tokens",
    Endpoint.EMBEDDINGS: "embeddings",
    Endpoint.RERANK: "rerank",
    Endpoint.SCORE: "score",
    Endpoint.TOKENIZE: "tokenize",
    Endpoint.DETOKENIZE: "detokenize",
}


def render_field_tables() -> str:
    """Every field with its ruling, as Markdown."""
    return "\n".join(line for ruling in HEADINGS for line in _section(ruling))


def _section(ruling: Ruling) -> Iterator[str]:
    yield f"### {HEADINGS[ruling]}\n"
    yield "| field | endpoints | in vLLM's models | why, or within what |\n|---|---|---|---|"
    for (name, rule), endpoints in sorted(_places(ruling).items(), key=lambda item: item[0][0]):
        known = "yes" if rule.engine else "no"
        yield f"| `{name}` | {', '.join(endpoints)} | {known} | {rule.why or '-'} |"
    yield ""


def _places(ruling: Ruling) -> dict[tuple[str, FieldRule], list[str]]:
    found: dict[tuple[str, FieldRule], list[str]] = {}
    for endpoint, table in FIELDS.items():
        for name, rule in table.items():
            if rule.ruling is ruling:
                found.setdefault((name, rule), []).append(SHORT_NAMES[endpoint])
    return found
