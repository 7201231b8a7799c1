"""The forms in which answers are compared: their plain text, and the last number in it."""

from __future__ import annotations

import re
import unicodedata

_SENTENCE_END = ".!?。 \t\r\n"  # after NFKC, which turns ！ and ？ into ASCII

_TO_ASCII = str.maketrans("０１２３４５６７８９．，－−负負", "0123456789.,----")
# In Chinese prose this comma separates clauses: 有5，100. It groups digits only between full-width
# digits.
_PROSE_COMMA = re.compile("(?<![０-９])，|，(?![０-９])")

_NUMBER = re.compile(
    r"""
    (?<![A-Za-z0-9_])(?<![0-9]\.)         # not in a word, not in another number
    (?:(?<![)\]])-)?                      # a minus, unless it subtracts
    (?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])  # 1,234,567
      |[0-9]+                             # 1234567
    )?
    (?:(?<=[0-9])|(?=\.[0-9]))            # .5 is a number, a lone minus is not
    (?:\.[0-9]+)?
    (?:[eE][+-]?[0-9]+(?![A-Za-z0-9_]))?
    """,
    re.VERBOSE,
)


def normalise(text: str) -> str:
    """The form in which an exact check compares: no case, width, outer space or final full stop."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return folded.strip().rstrip(_SENTENCE_END)


def parse_last_number(text: str) -> float | None:
    """The last number in a text, None if the text has no number.

    Digits that belong to a word (`CO2`, `m2`, `Qwen3`) are not a number, and a hyphen between two
    words or numbers is not a minus.
    """
    ascii_text = _PROSE_COMMA.sub(" ", text).translate(_TO_ASCII)
    numbers = _NUMBER.findall(ascii_text)
    return float(numbers[-1].replace(",", "")) if numbers else None
