"""What a request body may hold: fields, media, counts and grammars."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from serve_app.config.base import Config

OptionalField = Literal[
    "media_io_kwargs",
    "mm_processor_kwargs",
    "priority",
    "prompt_embeds",
    "server_tools",
    "vllm_xargs",
]
OPTIONAL_FIELDS: frozenset[str] = frozenset(get_args(OptionalField))

TEMPLATE_PARAMETERS = frozenset(
    {
        "chat_template", "continue_final_message", "conversation", "max_length", "messages",
        "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize",
        "tokenizer_kwargs", "tools", "truncation",
    }
)  # fmt: skip
"""Arguments of `apply_chat_template` that are not variables of a template."""


class CountsConfig(Config):
    """The largest count of each element of a body; an engine's event loop works through each."""

    messages_max: int = Field(
        2048, ge=1, le=1_000_000, description="Messages, or items of a Responses input."
    )
    parts_max: int = Field(
        4096, ge=1, le=1_000_000, description="Content parts of all messages together."
    )
    media_max: int = Field(
        32,
        ge=0,
        le=10_000,
        description="Images of all messages together; a tier's `media.images_max` may be lower.",
    )
    tools_max: int = Field(256, ge=1, le=100_000, description="Tools.")
    tool_calls_max: int = Field(
        4096, ge=1, le=1_000_000, description="Tool calls of all messages together."
    )
    prompts_max: int = Field(
        128, ge=1, le=100_000, description="Prompts of one call to `/v1/completions`."
    )
    inputs_max: int = Field(
        2048,
        ge=1,
        le=100_000,
        description="Texts of one call to `/v1/embeddings`, documents of one call to "
        "`/v1/rerank`, pairs of one call to `/v1/score`. OpenAI's API has the same limit.",
    )
    input_tokens_max: int = Field(
        300_000,
        ge=1,
        le=100_000_000,
        description="Tokens of all texts of one call to `/v1/embeddings`, `/v1/rerank` or "
        "`/v1/score`, as the Router estimates them; a query counts once for each of its "
        "documents. OpenAI's API has the same limit for embeddings.",
    )
    choices_max: int = Field(
        16, ge=1, le=16384, description="Answers to one prompt (`n`), including beams."
    )
    answers_max: int = Field(
        128,
        ge=1,
        le=1_000_000,
        description="Answers of one call to `/v1/completions`: its prompts times `n`. The call "
        "holds one place, whatever its number of answers.",
    )
    logprobs_max: int = Field(
        20,
        ge=0,
        le=1000,
        description="Alternatives per token (`logprobs`, `top_logprobs`, `prompt_logprobs`), and "
        "entries of `logprob_token_ids`.",
    )
    stops_max: int = Field(
        16,
        ge=1,
        le=10_000,
        description="Stop strings (`stop`, `stop_sequences`), and entries of `stop_token_ids`. "
        "vLLM itself accepts 4 strings unless `VLLM_MAX_STOP_STRINGS` is set.",
    )
    stop_chars_max: int = Field(
        1024, ge=1, le=1_000_000, description="Length of one stop string or bad word."
    )
    bad_words_max: int = Field(256, ge=0, le=100_000, description="Entries of `bad_words`.")
    biases_max: int = Field(1024, ge=0, le=1_000_000, description="Entries of `logit_bias`.")
    allowed_tokens_max: int = Field(
        16384, ge=1, le=1_000_000, description="Entries of `allowed_token_ids`."
    )
    repetition_max: int = Field(
        64,
        ge=1,
        le=10_000,
        description="`max_pattern_size` and `min_count` of `repetition_detection`. The engine's "
        "scheduler searches for repetitions after every token.",
    )
    tokenize_chars_max: int = Field(
        262_144,
        ge=1,
        le=100_000_000,
        description="Characters of a prompt for `/tokenize`, and tokens for `/detokenize`. The "
        "context length does not limit these two endpoints.",
    )
    documents_max: int = Field(256, ge=0, le=100_000, description="Entries of `documents`.")


class GrammarsConfig(Config):
    """Limits of the grammars that one body compiles, over all its schemas together."""

    schema_bytes_max: int = Field(
        65_536, ge=1, le=16_777_216, description="Length of the schemas, as JSON."
    )
    depth_max: int = Field(32, ge=1, le=100, description="Nesting of a schema, regex or grammar.")
    nodes_max: int = Field(
        512,
        ge=1,
        le=100_000,
        description="Objects in the schemas: properties, alternatives, references.",
    )
    literal_chars_max: int = Field(
        8192,
        ge=1,
        le=10_000_000,
        description="Characters of all choices, enum values, constants and property names.",
    )
    pattern_chars_max: int = Field(
        1024, ge=1, le=1_000_000, description="Length of one regular expression."
    )
    grammar_chars_max: int = Field(
        4096, ge=1, le=1_000_000, description="Length of one grammar (EBNF or Lark)."
    )
    rules_max: int = Field(128, ge=1, le=10_000, description="Rules of one grammar.")
    repeats_max: int = Field(
        128,
        ge=0,
        le=1_000_000,
        description="Positions that repetitions add: `minLength` and `maxLength`, and `{n,m}` in "
        "regular expressions and grammars. Each counts up to 128; nested repetitions are "
        "multiplied, and equal lengths count once. A `repeat` of a structural tag counts as well. "
        "An optional part (`a?`) counts 16; `maxProperties` counts 1 for every four properties. "
        "Measured in [fields.md](fields.md#schemas-and-grammars).",
    )
    items_max: int = Field(
        65_536, ge=1, le=1_000_000_000, description="`minItems`, `maxItems` and the like."
    )


class BodiesConfig(Config):
    """What a request body may hold; a body with anything else gets 400."""

    unknown_fields: Literal["drop", "refuse", "pass"] = Field(
        "drop",
        description="Handling of a field that is not in [fields.md](fields.md). drop: the field "
        "is removed before the engine, because official clients send fields that vLLM ignores. "
        "refuse: the request gets 400. pass: the engine receives the field, and a newer vLLM may "
        "obey it.",
    )
    allowed_fields: tuple[OptionalField, ...] = Field(
        (),
        description="Fields that are rejected unless they are listed here; [fields.md](fields.md) "
        "explains what each field can do. `server_tools`: tools of Responses that the engine "
        "would run itself.",
    )
    template_variables: tuple[str, ...] = Field(
        ("add_vision_id", "enable_thinking", "preserve_thinking", "reasoning_effort", "thinking"),
        max_length=64,
        description="Keys that `chat_template_kwargs` may have. A value must be a boolean, a "
        "number, or a string of up to 256 characters.",
    )
    thinking_tokens_max: dict[str, Annotated[int, Field(ge=0, le=10_000_000)]] = Field(
        default_factory=dict,
        max_length=8,
        description="Thinking tokens per chat completion, by the tier's name. The number is the "
        "budget of a call without `thinking_token_budget`, and the most that a call may request. "
        "When the budget is spent, the engine ends the thinking and the answer follows. The "
        "tier's `engine` needs a `reasoning_parser`. vLLM has no such field for other endpoints. "
        "A tier that is not listed has no budget except the caller's.",
    )
    counts: CountsConfig = Field(default_factory=CountsConfig)
    grammars: GrammarsConfig = Field(default_factory=GrammarsConfig)

    @field_validator("template_variables")
    @classmethod
    def _variables(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name in TEMPLATE_PARAMETERS:
                raise ValueError(
                    f"'{name}' is not a variable of a template; it controls the rendering"
                )
        return names
