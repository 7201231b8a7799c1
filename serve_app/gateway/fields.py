"""Every top-level field of every body that is forwarded, and its ruling.

The tables are written by hand from vLLM's request models. A test walks those models and fails where
a model has a field that is missing here, so an upgrade of vLLM cannot add a field unnoticed. `why`
is for the reader of docs/fields.md and, where the field is refused, for the client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from serve_app.config.bodies import BodiesConfig
from serve_app.core.call import Endpoint
from serve_app.core.errors import RefusedField, UnknownField

Json = dict[str, Any]


class Ruling(StrEnum):
    """What the gateway does with a field."""

    FORWARD = "forward"
    """The engine sees it."""
    DROP = "drop"
    """It is taken out of the body, because nothing here obeys it."""
    REFUSE = "refuse"
    """400, unless its value is null."""
    OPT_IN = "opt_in"
    """400 unless `bodies.allowed_fields` names it."""


@dataclass(frozen=True, slots=True)
class FieldRule:
    """The ruling on one field, and its reason.

    `engine` says that vLLM's request model has the field. Other fields belong to the official APIs
    or to older versions of vLLM.
    """

    ruling: Ruling
    why: str = ""
    engine: bool = True


FieldTable = Mapping[str, FieldRule]


def _forward(*names: str) -> dict[str, FieldRule]:
    return dict.fromkeys(names, FieldRule(Ruling.FORWARD))


def _ignored(*names: str) -> dict[str, FieldRule]:
    rule = FieldRule(Ruling.DROP, "vLLM knows no such field; official clients send it", False)
    return dict.fromkeys(names, rule)


def _foreign(why: str, *names: str) -> dict[str, FieldRule]:
    return dict.fromkeys(names, FieldRule(Ruling.REFUSE, why, engine=False))


def _refuse(why: str, *names: str) -> dict[str, FieldRule]:
    return dict.fromkeys(names, FieldRule(Ruling.REFUSE, why))


def _opt_in(why: str, *names: str) -> dict[str, FieldRule]:
    return dict.fromkeys(names, FieldRule(Ruling.OPT_IN, why))


def _drop(why: str, *names: str) -> dict[str, FieldRule]:
    return dict.fromkeys(names, FieldRule(Ruling.DROP, why))


def _pick(names: Iterable[str], table: FieldTable) -> dict[str, FieldRule]:
    return {name: table[name] for name in names}


SPECIAL: FieldTable = {
    **_refuse("the template comes from the model, never from a caller", "chat_template"),
    **_refuse(
        "it names the host that an engine fetches a prompt's cache from",
        "kv_transfer_params",
        "ec_transfer_params",
    ),
    **_opt_in(
        "it sets arguments of the model's image processor, whose memory they decide",
        "mm_processor_kwargs",
    ),
    **_opt_in(
        "it sets how images, videos and sounds are read, frames and size included",
        "media_io_kwargs",
    ),
    **_opt_in("with priority scheduling it overtakes other callers", "priority"),
    **_opt_in(
        "it reaches the sampler and extensions of the engine unchecked",
        "vllm_xargs",
    ),
    **_opt_in("it is a serialized tensor that the engine unpickles", "prompt_embeds"),
    **_drop("the id of a call is its header `x-request-id`", "request_id"),
    **_drop("the session of a call is its header `x-session-id`", "session_id"),
    **_drop(
        "vLLM obeys it on endpoints that are not forwarded",
        "return_token_offsets",
        "return_assistant_tokens_mask",
    ),
}  # fmt: skip

CHECKED: FieldTable = {
    "chat_template_kwargs": FieldRule(
        Ruling.FORWARD, "only the keys of `bodies.template_variables`, with plain values"
    ),
    "repetition_detection": FieldRule(
        Ruling.FORWARD, "looked for after every token: within `bodies.counts.repetition_max`"
    ),
    "cache_salt": FieldRule(
        Ruling.FORWARD, "it parts the prefix cache of its caller from that of others"
    ),
    "documents": FieldRule(
        Ruling.FORWARD, "text for the template; vLLM fetches nothing for it"
    ),
    "structured_outputs": FieldRule(
        Ruling.FORWARD, "within `bodies.grammars`"
    ),
    "response_format": FieldRule(Ruling.FORWARD, "within `bodies.grammars`"),
    "n": FieldRule(
        Ruling.FORWARD,
        "within `bodies.counts.choices_max`, and with all prompts within "
        "`bodies.counts.answers_max`",
    ),
    "use_beam_search": FieldRule(
        Ruling.FORWARD, "`n` is its width, within `bodies.counts.choices_max`"
    ),
    "prompt_logprobs": FieldRule(
        Ruling.FORWARD,
        "computed for every token of the prompt; within `bodies.counts.logprobs_max`",
    ),
}  # fmt: skip

NO_PROCESSORS = _foreign(
    "it names Python code of the engine; vLLM has dropped it", "logits_processors"
)
NO_GUIDED = _foreign(
    "vLLM ignores it since 0.12, so the answer would follow no schema; use `structured_outputs`",
    "guided_choice",
    "guided_decoding_backend",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "guided_whitespace_pattern",
)

SAMPLING = (
    "frequency_penalty", "logit_bias", "presence_penalty", "seed", "stop", "stream",
    "temperature", "top_p", "top_k", "skip_special_tokens", "include_stop_str_in_output",
    "ignore_eos", "repetition_penalty", "user", "model",
)  # fmt: skip
"""The fields that the three generating OpenAI endpoints share."""

LEGACY_SAMPLING = (
    "stream_options", "min_p", "length_penalty", "stop_token_ids", "min_tokens",
    "spaces_between_special_tokens", "truncate_prompt_tokens", "truncation_side",
    "logprob_token_ids", "allowed_token_ids", "bad_words", "thinking_token_budget",
    "stream_interval", "return_tokens_as_token_ids", "return_token_ids",
    "routed_experts_prompt_start", "logprobs", "echo", "add_special_tokens", "max_tokens",
)  # fmt: skip
"""The fields of chat and completions that Responses does not have."""

TRANSFERS = ("kv_transfer_params", "ec_transfer_params")

CHAT: FieldTable = {
    **_forward(*SAMPLING, *LEGACY_SAMPLING),
    **_forward(
        "messages", "top_logprobs", "max_completion_tokens", "tools", "tool_choice",
        "reasoning_effort", "include_reasoning", "parallel_tool_calls",
        "add_generation_prompt", "continue_final_message", "return_prompt_text",
    ),
    **CHECKED,
    **_pick(
        (
            "chat_template", *TRANSFERS, "mm_processor_kwargs", "media_io_kwargs", "priority",
            "vllm_xargs", "request_id", "session_id", "return_token_offsets",
            "return_assistant_tokens_mask",
        ),
        SPECIAL,
    ),
    **NO_PROCESSORS,
    **NO_GUIDED,
    **_foreign("it is replaced by `tools` and `tool_choice`", "functions", "function_call"),
    **_foreign("this service searches no web", "web_search_options"),
    **_ignored(
        "audio", "best_of", "metadata", "modalities", "moderation", "prediction",
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
        "safety_identifier", "service_tier", "store", "verbosity",
    ),
}  # fmt: skip

COMPLETIONS: FieldTable = {
    **_forward(*SAMPLING, *LEGACY_SAMPLING, "prompt", "suffix"),
    **_pick(
        (
            "structured_outputs", "response_format", "repetition_detection", "cache_salt", "n",
            "use_beam_search", "prompt_logprobs",
        ),
        CHECKED,
    ),
    **_pick(
        (
            *TRANSFERS, "priority", "vllm_xargs", "prompt_embeds", "request_id", "session_id",
            "return_token_offsets",
        ),
        SPECIAL,
    ),
    **NO_PROCESSORS,
    **NO_GUIDED,
    **_ignored("best_of"),
}  # fmt: skip

RESPONSES: FieldTable = {
    **_forward(*SAMPLING),
    **_forward(
        "background", "include", "input", "instructions", "max_output_tokens",
        "max_tool_calls", "metadata", "parallel_tool_calls", "previous_response_id",
        "reasoning", "include_reasoning", "service_tier", "store", "text", "tool_choice",
        "top_logprobs", "truncation", "prompt_cache_key", "enable_response_messages",
    ),
    "tools": FieldRule(
        Ruling.FORWARD, "tools that the engine would run itself only with `server_tools`"
    ),
    **_pick(("chat_template_kwargs", "structured_outputs", "cache_salt"), CHECKED),
    **_pick(
        (
            *TRANSFERS, "mm_processor_kwargs", "media_io_kwargs", "priority", "vllm_xargs",
            "request_id", "session_id",
        ),
        SPECIAL,
    ),
    **_refuse("vLLM keeps no prompt templates", "prompt"),
    **_refuse("it puts raw tokens before the prompt", "previous_input_messages"),
    **NO_PROCESSORS,
    **NO_GUIDED,
    **_foreign("the template comes from the model, never from a caller", "chat_template"),
    **_foreign(
        "vLLM knows no stored conversations; use `previous_response_id`", "conversation"
    ),
    **_ignored(
        "client_metadata", "context_management", "moderation", "prompt_cache_options",
        "prompt_cache_retention", "safety_identifier", "stream_options",
    ),
}  # fmt: skip

COUNT_TOKENS: FieldTable = {
    **_forward("model", "messages", "system", "tool_choice", "tools"),
    **_pick(("chat_template_kwargs",), CHECKED),
    **_foreign("the template comes from the model, never from a caller", "chat_template"),
    **_foreign("this service calls no MCP servers", "mcp_servers"),
    **_ignored(
        "anthropic_beta", "anthropic_version", "betas", "cache_control", "container",
        "context_management", "inference_geo", "max_tokens", "metadata", "output_config",
        "output_format", "service_tier", "speed", "stop_sequences", "stream", "temperature",
        "thinking", "top_k", "top_p", "user_profile_id",
    ),
}  # fmt: skip

MESSAGES: FieldTable = {
    **COUNT_TOKENS,
    **_forward(
        "max_tokens", "metadata", "stop_sequences", "stream", "temperature", "top_k", "top_p"
    ),
    "output_config": FieldRule(Ruling.FORWARD, "within `bodies.grammars`"),
    **_pick(("cache_salt",), CHECKED),
    **_pick((*TRANSFERS, "vllm_xargs"), SPECIAL),
    **_foreign(
        "vLLM ignores it, so the answer would follow no schema; use `output_config.format`",
        "output_format",
    ),
}

PADDING = _refuse("it makes each text as long, and as dear, as the model's context", "padding")

EMBEDDINGS: FieldTable = {
    **_forward(
        "add_generation_prompt", "add_special_tokens", "continue_final_message", "dimensions",
        "embed_dtype", "endianness", "input", "messages", "model",
        "truncate_prompt_tokens", "truncation_side", "use_activation", "user",
    ),
    "encoding_format": FieldRule(Ruling.FORWARD, "`float` or `base64`"),
    **PADDING,
    **_pick(("chat_template_kwargs", "cache_salt"), CHECKED),
    **_pick(
        ("chat_template", "media_io_kwargs", "mm_processor_kwargs", "priority", "request_id"),
        SPECIAL,
    ),
    **_ignored("metadata", "task"),
    **_foreign("vLLM has removed it; use `use_activation`", "normalize"),
}  # fmt: skip

SCORING: FieldTable = {
    **_forward(
        "max_tokens_per_doc", "max_tokens_per_query", "model", "truncate_prompt_tokens",
        "truncation_side", "use_activation", "user",
    ),
    "instruction": FieldRule(
        Ruling.FORWARD, "text for the model's template, read again with each document"
    ),
    **PADDING,
    **_pick(("chat_template_kwargs", "cache_salt"), CHECKED),
    **_pick(("mm_processor_kwargs", "priority", "request_id"), SPECIAL),
}  # fmt: skip

RERANK: FieldTable = {
    **SCORING,
    **_forward("documents", "query", "top_n"),
    **_ignored("max_chunks_per_doc", "rank_fields", "return_documents"),
}

SCORE: FieldTable = {
    **SCORING,
    **_forward("documents", "queries", "text_1", "text_2"),
    **_refuse("a further name of vLLM's; use `text_1` and `text_2`", "data_1", "data_2", "items"),
}

TOKENIZE: FieldTable = {
    **_forward(
        "add_generation_prompt", "add_special_tokens", "continue_final_message", "messages",
        "model", "prompt", "return_token_strs", "tools",
    ),
    **_pick(("chat_template_kwargs",), CHECKED),
    **_pick(("chat_template", "media_io_kwargs", "mm_processor_kwargs"), SPECIAL),
}  # fmt: skip

DETOKENIZE: FieldTable = _forward("model", "tokens")

FIELDS: Mapping[Endpoint, FieldTable] = {
    Endpoint.CHAT: CHAT,
    Endpoint.COMPLETIONS: COMPLETIONS,
    Endpoint.RESPONSES: RESPONSES,
    Endpoint.MESSAGES: MESSAGES,
    Endpoint.COUNT_TOKENS: COUNT_TOKENS,
    Endpoint.EMBEDDINGS: EMBEDDINGS,
    Endpoint.RERANK: RERANK,
    Endpoint.SCORE: SCORE,
    Endpoint.INPUT_TOKENS: RESPONSES,
    Endpoint.TOKENIZE: TOKENIZE,
    Endpoint.DETOKENIZE: DETOKENIZE,
}

FORWARDED: Mapping[Endpoint, frozenset[str]] = {
    endpoint: frozenset(name for name, rule in table.items() if rule.ruling is Ruling.FORWARD)
    for endpoint, table in FIELDS.items()
}
"""The fields that need no check: most bodies hold only these."""


def admit_fields(endpoint: Endpoint, document: Json, config: BodiesConfig) -> Json:
    """The body without fields that the engine must not see; the same object if all may stay.

    Raises:
        RefusedField: a field is refused here.
        UnknownField: a field is not in the tables, and `bodies.unknown_fields` refuses unknown
            fields.
    """
    if document.keys() <= FORWARDED[endpoint]:
        return document
    table = FIELDS[endpoint]
    return {
        name: value
        for name, value in document.items()
        if _stays(name, value, table.get(name), config)
    }


def _stays(name: str, value: object, rule: FieldRule | None, config: BodiesConfig) -> bool:
    if rule is None:
        if config.unknown_fields == "refuse":
            raise UnknownField(name)
        return config.unknown_fields == "pass"
    if rule.ruling is Ruling.FORWARD or rule.ruling is Ruling.DROP:
        return rule.ruling is Ruling.FORWARD
    if rule.ruling is Ruling.OPT_IN and name in config.allowed_fields:
        return True
    if value is None:
        return False
    raise RefusedField(name, rule.why)
