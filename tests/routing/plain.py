"""The learned scorer as its features are defined: slow, plain, and without a memory.

The judge of the quick one. It shares the lexicon, the windows and the weights with it, and nothing
that looks for words, hashes or remembers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

import numpy as np

from serve_app.core.call import Prompt
from serve_app.core.tokens import estimate_text_tokens
from serve_app.routing import lexicon as lex
from serve_app.routing import vector as v
from serve_app.routing.features import (
    Language,
    TextFeatures,
    cut_window,
    extract_context,
    is_small_talk,
    list_asks,
    system_texts,
)
from serve_app.routing.weights import RoutingWeights

WORD = re.compile(r"[a-z]+(?:-[a-z]+)?")
CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
SYMBOLS = "_(){}[]=<>\\^$+/'`:|&.#*²³√∑∫∞∂≤≥≡≠∀∃∈π"
REFERS = re.compile(
    r"\b(?:it|its|this|that|these|those|them|they|above|previous|again|same|instead|also|too"
    r"|continue|go on)\b|^and\b|[它这那再也还]|继续|上面|上述|前面|之前|刚才|同样|改成|换成|接着"
)


def read(text: str) -> TextFeatures:
    """Search the text for each term by itself."""
    low = "\n" + text.lower()
    words, language = set(WORD.findall(low)), find_language(text)
    harmless = re.sub("|".join(lex.HARMLESS_ZH), "", low) if "证" in low else low
    return TextFeatures(
        tokens=estimate_text_tokens(text),
        language=language,
        hard_asks=len(words & lex.HARD_ASK_WORDS)
        + phrases(lex.HARD_ASK_PHRASES, low, words)
        + found(lex.HARD_ASKS_ZH, harmless),
        hard_terms=len(words & lex.HARD_TERM_WORDS)
        + phrases(lex.HARD_TERM_PHRASES, low, words)
        + found(lex.HARD_TERMS_ZH, low),
        easy_asks=len(words & lex.EASY_WORDS)
        + phrases(lex.EASY_PHRASES, low, words)
        + found(lex.EASY_ASKS_ZH, low),
        bounds=len(words & lex.BOUND_WORDS) + found(lex.BOUNDS_ZH, low),
        steps=phrases(lex.STEP_PHRASES, low, words) + found(lex.STEPS_ZH, low),
        items=len(re.findall(r"\n[ \t]{0,8}(?:[0-9]{1,2}[.)、]|[-*•])", low)),
        options=len(re.findall(r"\n\(?[a-j][.)、]", low)),
        questions=low.count("?") + low.count("？"),
        clauses=sum(map(low.count, (", ", "; ", "，", "；", "、"))),
        long_words=sum(len(word) >= 9 or language is Language.CHINESE for word in words),
        numbers=len(set(re.findall(r"[0-9]+(?:[.,:][0-9]+)*", low))),
        quantity=phrases(lex.QUANTITY_PHRASES, low, words) + found(lex.QUANTITIES_ZH, low) > 0,
        maths=found(lex.MATHS_MARKS, low),
        code=len(words & lex.CODE_WORDS) + found(lex.CODE_MARKS, low),
    )


def found(terms: tuple[str, ...] | frozenset[str], low: str) -> int:
    return min(6, sum(term in low for term in terms))


def phrases(terms: tuple[str, ...], low: str, words: set[str]) -> int:
    """A phrase counts where its first word stands as a word."""
    return min(6, sum(term in low and WORD.findall(term)[0] in words for term in terms))


def find_language(text: str) -> Language:
    if text.isascii():
        return Language.ENGLISH if text else Language.OTHER
    if len(CHINESE.findall(text)) * 8 >= len(text):
        return Language.CHINESE
    plain = sum(char.isascii() for char in text)
    return Language.ENGLISH if plain * 10 >= len(text) * 9 else Language.OTHER


def hash_text(text: str, salt: int) -> list[int]:
    """The bucket of each n-gram, one after another in Python's whole numbers."""
    codes = list(map(ord, text.lower()))
    words = [polynomial(codes[a:b]) for a, b in find_words(codes)]
    pairs = [one * 0x85EBCA77 + two for one, two in pairwise(words)]
    kinds = [(1, words), (2, pairs)]
    for size in (3, 5):
        runs = [codes[at : at + size] for at in range(len(codes) - size + 1)]
        kinds.append((100 + size, [horner(run) for run in runs]))
    return [
        scatter((gram + (1000 * salt + kind) * 0x27D4EB2F) % 2**32)
        for kind, grams in kinds
        for gram in grams
    ]


def find_words(codes: list[int]) -> list[tuple[int, int]]:
    """Runs of letters and digits; every other sign but a space, and every Han character, alone."""
    words: list[tuple[int, int]] = []
    for at, code in enumerate(codes):
        if is_letter(code) and at and is_letter(codes[at - 1]):
            words[-1] = (words[-1][0], at + 1)
        elif code > 32:
            words.append((at, at + 1))
    return words


def is_letter(code: int) -> bool:
    if 0x3400 <= code <= 0x9FFF:
        return False
    return 97 <= code < 123 or 48 <= code < 58 or code >= 0xC0


def polynomial(codes: list[int]) -> int:
    inverse = pow(0x9E3779B1, -1, 2**32)
    return sum(code * pow(inverse, at, 2**32) for at, code in enumerate(codes)) % 2**32


def horner(codes: list[int]) -> int:
    value = 0
    for code in codes:
        value = (value * 0x9E3779B1 + code) % 2**32
    return value


def scatter(value: int) -> int:
    for factor in (0xC2B2AE3D, 0x85EBCA77):
        value ^= value >> 15
        value = value * factor % 2**32
    return value >> 18


def score(prompt: Prompt, weights: RoutingWeights) -> float:
    """The highest score of the newest asks, each decayed by the turns after it."""
    context = v._context_terms(extract_context(prompt, read=read))
    system = "\n".join(
        cut_window(text, v.SYSTEM_HEAD_CHARS, v.SYSTEM_TAIL_CHARS) for text in system_texts(prompt)
    )
    best, kept = 0.0, 1.0
    for age, ask in enumerate(list_asks(prompt) or [""]):
        grams, text = windows(ask, age)
        features = read(text)
        length = v.measure_length(len(ask), features)
        terms = [*v._text_terms(features), *context, length]
        gain = predict(weights, grams, system, terms)
        best = max(best, kept * weights.map_gain(gain))
        kept *= inherited(ask, features)
    return best


def windows(ask: str, age: int) -> tuple[str, str]:
    if age:
        window = cut_window(ask, v.EARLIER_HEAD_CHARS, v.EARLIER_TAIL_CHARS)
        return window, window
    return (
        cut_window(ask, v.NGRAM_HEAD_CHARS, v.NGRAM_TAIL_CHARS),
        cut_window(ask, v.TERM_HEAD_CHARS, v.TERM_TAIL_CHARS),
    )


def predict(weights: RoutingWeights, text: str, system: str, terms: list[float]) -> float:
    """P(strong right) - P(fast right), in floats of 64 bits."""
    counts = Counter(hash_text(text, 0) + hash_text(system, 1))
    values = {bucket: 1 + math.log(min(count, 255)) for bucket, count in counts.items()}
    length = math.sqrt(sum(value**2 for value in values.values())) or 1.0
    right = []
    for head in range(2):
        row = weights.ngrams[head].astype(np.float64)
        odds = sum(row[bucket] * value for bucket, value in values.items()) / length
        odds += float(np.dot(weights.terms[head].astype(np.float64), terms))
        right.append(1 / (1 + math.exp(-odds - float(weights.intercepts[head]))))
    return right[1] - right[0]


def inherited(ask: str, text: TextFeatures) -> float:
    if is_small_talk(ask):
        return 0.0
    refers = len(ask) <= 400 and REFERS.search(ask.lower()) is not None
    if text.easy_asks and not text.hard_asks and not refers:
        return 0.0
    return 0.97 if refers or text.tokens <= 16 else 0.8
