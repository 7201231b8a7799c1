"""What vLLM 0.29 says against a call, in the words of OpenAI and Anthropic."""

from __future__ import annotations

import json

import pytest

from serve_app.core.call import Endpoint
from serve_app.core.errors import GatewayError
from serve_app.gateway.engine_errors import MESSAGE_CHARS_MAX, translate_refusal

TOO_LONG = (
    "This model's maximum context length is 8192 tokens. However, you requested {output} output "
    "tokens and your prompt contains {prompt}, for a total of at least 8193 tokens. Please reduce "
    "the length of the input prompt or the number of requested output tokens. "
    "(parameter=input_tokens, value=8189)"
)
TOO_MANY_CHARACTERS = (
    "This model's maximum context length is 8192 tokens. However, you requested 10 output tokens "
    "and your prompt contains 4000050 characters (more than 163640 characters, which is the upper "
    "bound for 8182 input tokens). Please reduce it. (parameter=input_text, value=4000050)"
)
NO_MAX_TOKENS = (
    "1 validation error:\n  {'type': 'missing', 'loc': ('body', 'max_tokens'), 'msg': 'Field "
    "required', 'input': {'model': 'demo-fast', 'messages': [{'role': 'user', 'content': 'Hi'}]}}"
)
CONTENT_IS_A_NUMBER = (
    "5 validation errors:\n"
    "  {'type': 'string_type', 'loc': ('body', 'messages', 0, "
    "'ChatCompletionDeveloperMessageParam', 'content', 'str'), 'msg': 'Input should be a valid "
    "string', 'input': 5}\n  {'type': 'iterable_type', 'loc': ('body', 'messages', 0, "
    "'ChatCompletionDeveloperMessageParam', 'content', 'generator[...]'), 'msg': 'Input should be "
    "iterable', 'input': 5}\n"
    "  {'type': 'literal_error', 'loc': ('body', 'messages', 0, "
    "'ChatCompletionDeveloperMessageParam', 'role'), 'msg': \"Input should be 'developer'\", "
    "'input': 'user', 'ctx': {'expected': \"'developer'\"}}\n"
    "  {'type': 'string_type', 'loc': ('body', 'messages', 0, 'ChatCompletionUserMessageParam', "
    "'content', 'str'), 'msg': 'Input should be a valid string', 'input': 5}\n"
    "  {'type': 'iterable_type', 'loc': ('body', 'messages', 0, 'ChatCompletionUserMessageParam', "
    "'content', 'generator[...]'), 'msg': 'Input should be iterable', 'input': 5}"
)
INPUT_OR_ITEM = (
    "2 validation errors:\n  {'type': 'string_type', 'loc': ('body', 'input', 'str'), 'msg': "
    "'Input should be a valid string', 'input': [{'role': 'user', 'content': 5}]}\n"
    "  {'type': 'list_type', 'loc': ('body', 'input', 'list[union[Message,ComputerCall]]', 0, "
    "'Message', 'content'), 'msg': 'Input should be a valid list', 'input': 5}"
)
NO_PROMPT = (
    "2 validation errors:\n  {'type': 'missing', 'loc': ('body', "
    "'function-wrap[__log_extra_fields__()]', 'prompt'), 'msg': 'Field required', 'input': {}}\n"
    "  {'type': 'missing', 'loc': ('body', 'function-wrap[__log_extra_fields__()]', 'messages'), "
    "'msg': 'Field required', 'input': {}}"
)
REPORT = (
    "2 validation errors for ValidatorIterator\n0.ChatCompletionContentPartTextParam.type\n  Input "
    "should be 'text' [type=literal_error, input_value='input_text', input_type=str]\n    For "
    "further information visit https://errors.pydantic.dev/2.14/v/literal_error\n"
    "0.ChatCompletionContentPartImageParam.image_url\n  Field required [type=missing, "
    "input_value={'type': 'x'}, input_type=dict]\n    For further information visit https://e"
)
BAD_REGEX = (
    "Failed to transform regex into a grammar: [21:51:41] /project/cpp/regex_converter.cc:83: "
    "Regex parsing error at position 2: Unclosed '['"
)


def refuse(
    endpoint: Endpoint, message: str, status: int = 400, param: str | None = None
) -> GatewayError:
    error = {"message": message, "type": "BadRequestError", "param": param, "code": status}
    return translate_refusal(endpoint, status, json.dumps({"error": error}).encode())


@pytest.mark.parametrize(
    ("endpoint", "param"),
    [
        (Endpoint.CHAT, "messages"),
        (Endpoint.COMPLETIONS, "prompt"),
        (Endpoint.RESPONSES, "input"),
        (Endpoint.MESSAGES, "messages"),
    ],
)
@pytest.mark.parametrize(
    "message",
    [
        TOO_LONG.format(output=4, prompt="at least 8189 input tokens"),
        TOO_LONG.format(output=16, prompt="12000 input tokens"),
        TOO_MANY_CHARACTERS,
        "Input length (9000) exceeds model's maximum context length (8192).",
        "The engine prompt length 9000 exceeds the max_model_len 8192. Please reduce prompt.",
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
        "The decoder prompt (length 8192) plus the number of requested output tokens (at least 1) "
        "is longer than the maximum model length of 8192. Make it shorter.",
    ],
)
def test_a_prompt_that_is_too_long(endpoint: Endpoint, param: str, message: str) -> None:
    """Every form that vLLM has for it is OpenAI's `context_length_exceeded`, with status 400."""
    error = refuse(endpoint, message, param="input_tokens")
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", param)
    assert error.type == "invalid_request_error"
    assert "8192" in error.message or "81" in error.message
    assert "parameter=" not in error.message
    assert error.counted_as == "context_length_exceeded"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            TOO_LONG.format(output=4, prompt="at least 8189 input tokens"),
            "prompt is too long: 8189 tokens > 8188 maximum",
        ),
        (
            TOO_LONG.format(output=8000, prompt="300 input tokens"),
            "input length and `max_tokens` exceed context limit: 300 + 8000 > 8192, decrease input "
            "length or `max_tokens` and try again",
        ),
        (
            "Input length (9000) exceeds model's maximum context length (8192).",
            "prompt is too long: 9000 tokens > 8192 maximum",
        ),
        (TOO_MANY_CHARACTERS, "prompt is too long: 4000050 characters, with room for 8182 tokens"),
    ],
)
def test_anthropics_sentences_for_it(message: str, expected: str) -> None:
    """Anthropic's clients look for these sentences to shorten a conversation by themselves."""
    assert refuse(Endpoint.MESSAGES, message).message == expected


@pytest.mark.parametrize(
    ("endpoint", "message", "param", "expected"),
    [
        (
            Endpoint.CHAT,
            "top_p must be in (0, 1], got 7.0. (parameter=top_p, value=7.0)",
            "top_p",
            ("top_p must be in (0, 1], got 7.0.", "invalid_value", "top_p"),
        ),
        (
            Endpoint.CHAT,
            "max_tokens=99999 cannot be greater than max_model_len=max_total_tokens=8192. Please "
            "request fewer output tokens. (parameter=max_tokens, value=99999)",
            "max_tokens",
            (
                "max_tokens is too large: 99999. The model's context holds 8192 tokens.",
                "invalid_value",
                "max_tokens",
            ),
        ),
        (
            Endpoint.CHAT,
            "n must be at most 16384, got 99999999. To increase this limit, set the "
            "VLLM_MAX_N_SEQUENCES environment variable.",
            None,
            ("n must be at most 16384, got 99999999.", None, None),
        ),
        (
            Endpoint.CHAT,
            "tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set",
            None,
            ("The model is not set up for what the request asks.", None, None),
        ),
        (
            Endpoint.CHAT,
            BAD_REGEX,
            None,
            (
                "Failed to transform regex into a grammar: Regex parsing error at position 2: "
                "Unclosed '['",
                None,
                None,
            ),
        ),
        (
            Endpoint.CHAT,
            BAD_REGEX.replace("/project/cpp/regex_converter.cc", "<path>"),
            None,
            (
                "Failed to transform regex into a grammar: Regex parsing error at position 2: "
                "Unclosed '['",
                None,
                None,
            ),
        ),
        (
            Endpoint.CHAT,
            "Failed to fetch media from URL: Cannot connect to host 10.0.0.1:80 (parameter=x)",
            "image_url",
            ("Failed to fetch media from URL.", "invalid_image_url", "messages"),
        ),
        (
            Endpoint.CHAT,
            CONTENT_IS_A_NUMBER,
            "body.messages.0.ChatCompletionDeveloperMessageParam.content",
            (
                "Invalid value for 'messages[0].content': Input should be a valid string or: Input "
                "should be iterable.",
                "invalid_type",
                "messages[0].content",
            ),
        ),
        (
            Endpoint.RESPONSES,
            INPUT_OR_ITEM,
            None,
            (
                "Invalid value for 'input[0].content': Input should be a valid list.",
                "invalid_type",
                "input[0].content",
            ),
        ),
        (
            Endpoint.TOKENIZE,
            NO_PROMPT,
            "body.prompt",
            (
                "Missing required parameter: 'prompt'. Missing required parameter: 'messages'.",
                "missing_required_parameter",
                "prompt",
            ),
        ),
        (
            Endpoint.CHAT,
            REPORT,
            None,
            ("Invalid value for 'type': Input should be 'text'.", "invalid_value", "type"),
        ),
        (
            Endpoint.MESSAGES,
            NO_MAX_TOKENS,
            "body.max_tokens",
            ("max_tokens: Field required", "missing_required_parameter", "max_tokens"),
        ),
        (
            Endpoint.MESSAGES,
            CONTENT_IS_A_NUMBER,
            None,
            (
                "messages.0.content: Input should be a valid string or: Input should be iterable",
                "invalid_type",
                "messages[0].content",
            ),
        ),
        (Endpoint.CHAT, "", "body", ("The model refused the request.", None, None)),
    ],
)
def test_the_engines_words(
    endpoint: Endpoint, message: str, param: str | None, expected: tuple[str, str | None, str]
) -> None:
    """They pass without options, source files, class names and Python; a field is a path."""
    error = refuse(endpoint, message, param=param)
    assert (error.message, error.code, error.param) == expected
    assert error.status == 400


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            404,
            b'{"error":{"message":"The model `x` does not exist.","param":"model","code":404}}',
            (404, "model_not_found", "model"),
        ),
        (
            404,
            b'{"error":{"message":"Response with id \'resp_1\' not found.","code":404}}',
            (400, "previous_response_not_found", "previous_response_id"),
        ),
        (404, b'{"detail":"Not Found"}', (404, None, None)),
        (
            422,
            b'{"error":{"message":"Cannot be read.","param":"image","code":422}}',
            (400, "invalid_value", "image"),
        ),
        (413, b"Payload Too Large", (413, None, None)),
        (400, b'{"error":"x"}', (400, None, None)),
        (400, b"[1]", (400, None, None)),
        (400, b"\xff", (400, None, None)),
        (400, b"", (400, None, None)),
    ],
)
def test_statuses(status: int, body: bytes, expected: tuple[int, str | None, str | None]) -> None:
    """Only statuses that clients know, whatever the engine's body."""
    error = translate_refusal(Endpoint.CHAT, status, body)
    assert (error.status, error.code, error.param) == expected
    assert error.message
    assert error.type == "invalid_request_error"


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.MESSAGES])
@pytest.mark.parametrize(
    "message", ["x" * 9_000_000, "1 validation error:\n" + "  {'type': 'a', 'loc': (" * 400_000]
)
def test_a_message_is_bounded(endpoint: Endpoint, message: str) -> None:
    """An engine that repeats the whole body does not make the client read it again."""
    assert len(refuse(endpoint, message).message) <= MESSAGE_CHARS_MAX


DIGITS = "9" * 5000


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.MESSAGES])
@pytest.mark.parametrize(
    "message",
    [
        f"Unknown tool 'maximum context length is {DIGITS} tokens, 1 output tokens, 1 characters'",
        f"No such role: Input length ({DIGITS}) exceeds model's maximum context length ({DIGITS})",
        f"prompt length {DIGITS} exceeds the max_model_len {DIGITS}",
        f"prompt (length {DIGITS}) is longer than the maximum model length of {DIGITS}",
        f"max_tokens={DIGITS} cannot be greater than x={DIGITS}",
        f"1 validation error for X\n{DIGITS}.a\n  Bad [type=missing, input_value=1]",
        "1 validation error for X\na.\u00b2.b\n  Bad [type=missing, input_value=1]",
        f"1 validation error:\n  {{'type': 'missing', 'loc': ('a', {DIGITS}), 'msg': 'Bad'",
        "maximum context length is 1 tokens" * 2000,
        "max_tokens=1 cannot be greater than x" * 2000,
        "1 validation error for X\n" + "a.b" * 20_000 + "\n  " + "x" * 20_000,
        "/a.b" * 16_000,
    ],
)
def test_what_a_client_has_an_engine_repeat(endpoint: Endpoint, message: str) -> None:
    """It may look like the engine's own words, with any number in it: it is a 400 all the same."""
    error = refuse(endpoint, message)
    assert error.status == 400
    assert len(error.message) <= MESSAGE_CHARS_MAX
