"""Estimates the tokens of a prompt without a tokenizer.

The estimate is close enough to choose a tier, and to reserve tokens of a limit.

Qwen's documentation ("Key concepts", Tokens & Tokenization) gives 3 to 4 English characters or 1.5
to 1.8 Chinese characters a token. We take the middle or the low end of each range, because an
estimate that is too high costs money, and an estimate that is too low costs an error. Qwen's
tokenizers split numbers into single digits, so each digit counts as a token.
"""

from __future__ import annotations

from serve_app.core.call import Prompt
from serve_app.core.images import DEFAULT_GRID, IMAGE_MARKS, PatchGrid

ASCII_CHARS_PER_TOKEN = 3.5
OTHER_CHARS_PER_TOKEN = 1.5
# ChatML's <|im_start|>, role, newline, <|im_end|>, newline; and the opening of the answer.
TOKENS_PER_TURN = 5
TOKENS_PER_ANSWER = 3
# Schemas and arguments: short words between quotes, colons and braces.
JSON_BYTES_PER_TOKEN = 3.0
# For an image whose size is not known: a megapixel at Qwen2.5-VL's one token per 28 x 28 pixels.
TOKENS_PER_IMAGE = 1300

SAMPLE_CHARS_MAX = 8192
_DIGITS = b"0123456789"


def estimate_tokens(prompt: Prompt, grid: PatchGrid = DEFAULT_GRID) -> int:
    """Estimate the tokens of the whole prompt, template included.

    `grid` is that of the model which would read the images; their tokens are exact.
    """
    text_tokens = estimate_text_tokens("".join([turn.text for turn in prompt.turns]))
    return (
        text_tokens
        + TOKENS_PER_TURN * len(prompt.turns)
        + TOKENS_PER_ANSWER
        + prompt.token_ids
        + prompt.repeated_tokens
        + round(prompt.rendered_bytes / JSON_BYTES_PER_TOKEN)
        + (count_image_tokens(prompt, grid) if prompt.images else 0)
    )


def count_image_tokens(prompt: Prompt, grid: PatchGrid) -> int:
    """The tokens of all images; an image of unknown size counts as one of a megapixel."""
    known = [part for part in prompt.image_parts if part.pixels]
    tokens = sum(grid.count_tokens(part.width, part.height) + IMAGE_MARKS for part in known)
    return tokens + TOKENS_PER_IMAGE * (prompt.images - len(known))


def estimate_text_tokens(text: str) -> int:
    """Estimate the tokens of a text from its length and a sample of its characters.

    The sample is every n-th character of a long text, so that its cost does not grow with the text.
    """
    if not text:
        return 0
    sample = text if len(text) <= SAMPLE_CHARS_MAX else text[:: _stride(len(text))]
    ascii_chars = sample.encode("ascii", "ignore")
    letters = len(ascii_chars.translate(None, _DIGITS))
    digits = len(ascii_chars) - letters
    others = len(sample) - len(ascii_chars)
    tokens = letters / ASCII_CHARS_PER_TOKEN + digits + others / OTHER_CHARS_PER_TOKEN
    return max(1, round(tokens * len(text) / len(sample)))


def _stride(chars: int) -> int:
    """An odd stride does not keep step with the even-sized records of machine-made text."""
    return (chars // SAMPLE_CHARS_MAX + 1) | 1
