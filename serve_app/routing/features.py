"""The features of a call's difficulty that can be found without a model.

All functions here are pure and bounded. In a text of any length they look only at a window of its
head and a window of its tail (instructions stand at either end, pasted material between them). They
look only at the newest user turns, and every pattern is linear.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from serve_app.core.call import Prompt, Turn
from serve_app.core.tokens import estimate_text_tokens
from serve_app.routing import lexicon
from serve_app.routing.terms import Terms, Words, rarest_character

HEAD_CHARS = 1000
TAIL_CHARS = 500
EARLIER_HEAD_CHARS = 400
EARLIER_TAIL_CHARS = 200
LANGUAGE_CHARS = 200
LONG_WORD_CHARS = 9
RECENT_ASKS_MAX = 4
RECENT_TURNS_MAX = 256
SYSTEM_TURNS_MAX = 3

SYSTEM_ROLES = frozenset({"system", "developer"})
TOOL_ROLES = frozenset({"tool", "function"})
ASSISTANT_ROLES = frozenset({"assistant", "model"})

_WORD = re.compile(r"[a-z]+(?:-[a-z]+)?")
_NUMBER = re.compile(r"[0-9]+(?:[.,:][0-9]+)*")
_CJK = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
_ITEM = re.compile(r"\n[ \t]{0,8}(?:[0-9]{1,2}[.)、]|[-*•])")
_OPTION = re.compile(r"\n\(?[a-j][.)、]")
_PUNCTUATION = " \t\r\n.!?~,。！？～，"
_SYMBOLS = "_(){}[]=<>\\^$+/'`:|&.#*²³√∑∫∞∂≤≥≡≠∀∃∈π"
_ASCII_SYMBOLS = "".join(symbol for symbol in _SYMBOLS if symbol.isascii())


def _keep_only(kept: str) -> bytes:
    """A table for `bytes.translate` that makes spaces of all other characters."""
    return bytes(code if chr(code) in kept else 32 for code in range(256))


_WORD_CHARACTERS = _keep_only("abcdefghijklmnopqrstuvwxyz-")
_NUMBER_CHARACTERS = _keep_only("0123456789.,:")
_is_long = LONG_WORD_CHARS.__le__


def _first_word(phrase: str) -> str:
    return next(match.group() for match in _WORD.finditer(phrase))


def _first_symbol(mark: str) -> str:
    return next(char for char in mark if char in _SYMBOLS)


_WORDS = Words(
    (
        lexicon.HARD_ASK_WORDS,
        lexicon.HARD_TERM_WORDS,
        lexicon.EASY_WORDS,
        lexicon.BOUND_WORDS,
        lexicon.CODE_WORDS,
    )
)
_PHRASES = Terms(
    (
        lexicon.HARD_ASK_PHRASES,
        lexicon.HARD_TERM_PHRASES,
        lexicon.EASY_PHRASES,
        lexicon.STEP_PHRASES,
        lexicon.QUANTITY_PHRASES,
    ),
    _first_word,
)
_MARKS = Terms((lexicon.MATHS_MARKS, lexicon.CODE_MARKS), _first_symbol)
_CHINESE_LISTS = (
    lexicon.HARD_TERMS_ZH,
    lexicon.EASY_ASKS_ZH,
    lexicon.BOUNDS_ZH,
    lexicon.STEPS_ZH,
    lexicon.QUANTITIES_ZH,
)
_CHINESE = Terms(_CHINESE_LISTS, rarest_character(_CHINESE_LISTS))
_CHINESE_HARD_ASKS = Terms((lexicon.HARD_ASKS_ZH,), rarest_character((lexicon.HARD_ASKS_ZH,)))
_NO_CHINESE = (0,) * (1 + len(_CHINESE_LISTS))


class Language(StrEnum):
    """The language of a text, as far as the lexicon has its words."""

    ENGLISH = "en"
    CHINESE = "zh"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """The features of one text. Counts are of distinct terms, so repeating a term adds nothing.

    `maths` and `code` count distinct marks of notation; `options` counts the lines of a multiple
    choice. `quantity` says that the text asks for a number. `clauses` are commas and semicolons.
    `long_words` are long enough to be technical; in Chinese text, words in Latin letters count as
    long.
    """

    tokens: int = 0
    language: Language = Language.OTHER
    hard_asks: int = 0
    hard_terms: int = 0
    easy_asks: int = 0
    bounds: int = 0
    steps: int = 0
    items: int = 0
    options: int = 0
    questions: int = 0
    clauses: int = 0
    long_words: int = 0
    numbers: int = 0
    quantity: bool = False
    maths: int = 0
    code: int = 0


@dataclass(frozen=True, slots=True)
class Features:
    """The features of a call.

    `asks` are the newest user turns, newest first. `system_tokens` is the length of the whole
    system prompt. `turn_index` counts the user turns before the newest. `tool_turns` counts the
    tool results since then: how deep an agent is in its task. `assistant_code` says that the
    model's last turn holds a code block. `small_talk` says that the newest user turn is only a
    greeting or thanks.
    """

    asks: tuple[TextFeatures, ...] = ()
    system: TextFeatures = TextFeatures()
    system_tokens: int = 0
    turn_index: int = 0
    tool_turns: int = 0
    assistant_code: bool = False
    small_talk: bool = False
    tools: int = 0
    schema: bool = False
    images: int = 0
    reasoning: bool = False


def extract_features(prompt: Prompt) -> Features:
    """Look at every role of a call; pure, and bounded whatever the length."""
    asks = tuple(_ask_features(text, age) for age, text in enumerate(list_asks(prompt)))
    return extract_context(prompt, asks)


def list_asks(prompt: Prompt) -> list[str]:
    """The newest user turns, newest first; without user turns, the last turn of any role."""
    recent = prompt.turns[-RECENT_TURNS_MAX:]
    users = [turn.text for turn in recent if _is_user(turn)]
    return users[: -RECENT_ASKS_MAX - 1 : -1] or [turn.text for turn in recent[-1:]]


def extract_context(
    prompt: Prompt,
    asks: tuple[TextFeatures, ...] = (),
    read: Callable[[str], TextFeatures] | None = None,
) -> Features:
    """The features of everything around the asks; `read` may replace `extract_text_features`."""
    system = system_texts(prompt)
    recent = prompt.turns[-RECENT_TURNS_MAX:]
    users = [turn.text for turn in recent if _is_user(turn)]
    return Features(
        asks=asks,
        system=_system_features(system, read or extract_text_features),
        system_tokens=sum(map(estimate_text_tokens, system)),
        turn_index=max(0, len(users) - 1),
        tool_turns=_tool_turns(recent),
        assistant_code=_assistant_code(recent),
        small_talk=bool(users) and is_small_talk(users[-1]),
        tools=prompt.tools,
        schema=prompt.schema,
        images=prompt.images,
        reasoning=prompt.reasoning,
    )


def extract_text_features(text: str) -> TextFeatures:
    """Count what one text shows; linear in its length, so give it a window."""
    low = "\n" + text.lower()
    language = _language(text)
    words = _find_words(low)
    hard_ask_words, hard_term_words, easy_words, bound_words, code_words = _WORDS.count(words)
    hard_asks, hard_terms, easy_asks, steps, quantities = _PHRASES.count(low, words)
    asks_zh, terms_zh, easy_zh, bounds_zh, steps_zh, quantities_zh = _count_chinese(low)
    maths, code = _MARKS.count(low, _find_symbols(low))
    return TextFeatures(
        tokens=estimate_text_tokens(text),
        language=language,
        hard_asks=hard_ask_words + hard_asks + asks_zh,
        hard_terms=hard_term_words + hard_terms + terms_zh,
        easy_asks=easy_words + easy_asks + easy_zh,
        bounds=bound_words + bounds_zh,
        steps=steps + steps_zh,
        items=len(_ITEM.findall(low)),
        options=len(_OPTION.findall(low)),
        questions=low.count("?") + low.count("？"),
        clauses=_clauses(low),
        long_words=_long_words(words, language),
        numbers=_count_numbers(low),
        quantity=quantities + quantities_zh > 0,
        maths=maths,
        code=code_words + code,
    )


def _ask_features(text: str, age: int) -> TextFeatures:
    if age == 0:
        return extract_text_features(cut_window(text, HEAD_CHARS, TAIL_CHARS))
    return extract_text_features(cut_window(text, EARLIER_HEAD_CHARS, EARLIER_TAIL_CHARS))


def system_texts(prompt: Prompt) -> list[str]:
    """The system prompt; only the first few system turns are read, because more are rare."""
    return [turn.text for turn in prompt.turns[:SYSTEM_TURNS_MAX] if turn.role in SYSTEM_ROLES]


def _system_features(texts: Sequence[str], read: Callable[[str], TextFeatures]) -> TextFeatures:
    if not texts:
        return TextFeatures()
    windows = [cut_window(text, EARLIER_HEAD_CHARS, EARLIER_TAIL_CHARS) for text in texts]
    return read("\n".join(windows))


def cut_window(text: str, head_chars: int, tail_chars: int) -> str:
    """The head and tail of a long text; half as wide for Chinese, which is twice as dense."""
    if not text.isascii() and _language(text[:LANGUAGE_CHARS]) is Language.CHINESE:
        head_chars, tail_chars = head_chars // 2, tail_chars // 2
    if len(text) <= head_chars + tail_chars:
        return text
    return f"{text[:head_chars]}\n{text[-tail_chars:]}"


def _is_user(turn: Turn) -> bool:
    """Whether the role may be a user's: the turn of an unknown role may be the question."""
    role = turn.role
    return role not in SYSTEM_ROLES and role not in TOOL_ROLES and role not in ASSISTANT_ROLES


def _tool_turns(turns: Sequence[Turn]) -> int:
    count = 0
    for turn in reversed(turns):
        if _is_user(turn):
            break
        count += turn.role in TOOL_ROLES
    return count


def _assistant_code(turns: Sequence[Turn]) -> bool:
    for turn in reversed(turns):
        if turn.role in ASSISTANT_ROLES:
            return "```" in cut_window(turn.text, HEAD_CHARS, TAIL_CHARS)
    return False


def is_small_talk(text: str) -> bool:
    """Whether a text is only a greeting or thanks."""
    return len(text) <= 40 and text.strip(_PUNCTUATION).lower() in lexicon.SMALL_TALK


def _find_words(low: str) -> set[str]:
    """The words of `_WORD`: splitting is quicker than the pattern, which only hyphens need."""
    spaced = low.encode("ascii", "replace").translate(_WORD_CHARACTERS).decode()
    return set(_WORD.findall(spaced)) if "-" in spaced else set(spaced.split())


def _count_numbers(low: str) -> int:
    """The distinct numbers of `_NUMBER`, looked for among nothing but digits and their marks."""
    spaced = low.encode("ascii", "replace").translate(_NUMBER_CHARACTERS).decode().split()
    return len(set(_NUMBER.findall(" ".join(spaced))))


def _find_symbols(low: str) -> set[str]:
    symbols = _ASCII_SYMBOLS if low.isascii() else _SYMBOLS
    return {symbol for symbol in symbols if symbol in low}


def _count_chinese(low: str) -> Sequence[int]:
    """The counts of hard asks, and then those of `_CHINESE`; ASCII text holds none."""
    if low.isascii():
        return _NO_CHINESE
    chars = frozenset(low)
    return [*_hard_asks_zh(low, chars), *_CHINESE.count(low, chars)]


def _hard_asks_zh(low: str, chars: frozenset[str]) -> list[int]:
    if "证" in chars:
        for harmless in lexicon.HARMLESS_ZH:
            low = low.replace(harmless, "")
    return _CHINESE_HARD_ASKS.count(low, chars)


def _clauses(low: str) -> int:
    ascii_clauses = low.count(", ") + low.count("; ")
    if low.isascii():
        return ascii_clauses
    return ascii_clauses + low.count("，") + low.count("；") + low.count("、")


def _long_words(words: set[str], language: Language) -> int:
    """The long words of Chinese text: nearly every Latin word in it is technical."""
    if language is Language.CHINESE:
        return len(words)
    return sum(map(_is_long, map(len, words)))


def _language(text: str) -> Language:
    """The length in words; one Chinese character says about as much as an English word."""
    if text.isascii():
        return Language.ENGLISH if text else Language.OTHER
    cjk = len("".join(_CJK.findall(text)))
    if cjk * 8 >= len(text):
        return Language.CHINESE
    ascii_chars = len(text.encode("ascii", "ignore"))
    return Language.ENGLISH if ascii_chars * 10 >= len(text) * 9 else Language.OTHER
