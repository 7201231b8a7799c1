"""Hypothesis strategies for prompts of any shape."""

from __future__ import annotations

from hypothesis import strategies as st

from serve_app.core.call import Prompt, Turn

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=300)
ENGLISH = ("prove", "debug ", "3.5 ", "how many ", "must ", "translate ", "?")
MARKS = ("\n- ", "\nA. ", "```", "\\frac{1}{2}", "$$", "x^2", "){")
CHINESE = ("证明", "在职证明", "多少", "必须", "翻译", "，")
ODD = ("\ud800", "\x00", "İ", "\u2028", "👩‍👩‍👧")
# What real prompts are made of, so that features are met more often than by chance.
PIECES = st.sampled_from((*ENGLISH, *MARKS, *CHINESE, *ODD))
TEXT = st.one_of(ANY_TEXT, st.lists(PIECES, max_size=30).map("".join))
ROLES = st.sampled_from(("system", "developer", "user", "assistant", "tool", "function", ""))
TURNS = st.builds(Turn, role=ROLES, text=TEXT)
PROMPTS = st.builds(
    Prompt,
    turns=st.lists(TURNS, max_size=12).map(tuple),
    tools=st.integers(0, 10_000),
    schema=st.booleans(),
    images=st.integers(0, 100),
    reasoning=st.booleans(),
    output_tokens_max=st.none() | st.integers(0, 1_000_000),
)
