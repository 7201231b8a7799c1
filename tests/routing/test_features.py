"""What is seen of a prompt, and that looking is bounded."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.call import Prompt, Turn
from serve_app.core.tokens import (
    SAMPLE_CHARS_MAX,
    TOKENS_PER_TURN,
    _stride,
    estimate_text_tokens,
    estimate_tokens,
)
from serve_app.routing.features import (
    RECENT_ASKS_MAX,
    Features,
    Language,
    extract_features,
    extract_text_features,
)
from serve_app.routing.terms import COUNT_MAX, Terms
from tests.routing.strategies import PROMPTS, TEXT


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", Language.OTHER),
        ("How are you?", Language.ENGLISH),
        ("It’s “fine”, I said – really, no trouble at all.", Language.ENGLISH),
        ("今天天气怎么样？", Language.CHINESE),
        ("用 Python 实现 LRU cache", Language.CHINESE),
        ("Как дела?", Language.OTHER),
        ("日本の首都は？", Language.CHINESE),
    ],
)
def test_language(text: str, language: Language) -> None:
    """A text is Chinese from a share of Han characters on; Japanese kanji count as such."""
    assert extract_text_features(text).language is language


@pytest.mark.parametrize(
    ("text", "feature", "value"),
    [
        ("Prove it, then debug it.", "hard_asks", 2),
        ("请证明该命题", "hard_asks", 1),
        ("写一份在职证明", "hard_asks", 0),
        ("proofread the waterproof coat", "hard_asks", 0),
        ("a theorem about a matrix", "hard_terms", 2),
        ("a theorem, a theorem, a theorem", "hard_terms", 1),
        ("Translate hello", "easy_asks", 2),
        ("It must use exactly one loop", "bounds", 2),
        ("不得超过五行，必须押韵", "bounds", 2),
        ("Go step by step", "steps", 1),
        ("Needs:\n- a\n- b\n  2) c", "items", 3),
        ("Which?\nA. x\nB. y\nC. z\nD. w", "options", 4),
        ("Why? 为什么？", "questions", 2),
        ("1, 2; 2, 3.5", "numbers", 3),
        ("how many apples", "quantity", True),
        ("一共有多少个苹果", "quantity", True),
        ("apples", "quantity", False),
        (r"\frac{1}{2} ≤ √2", "maths", 3),
        ("plain prose, nothing else", "maths", 0),
        ("plain prose, nothing else", "code", 0),
        ("plain prose, nothing else", "clauses", 1),
        ("internationalisation of telephones", "long_words", 2),
        ("请解释 Paxos 与 Raft", "long_words", 2),
    ],
)
def test_text_feature(text: str, feature: str, value: int | bool) -> None:
    """Each feature counts distinct terms, in both languages, whole words in English."""
    assert getattr(extract_text_features(text), feature) == value


def test_code_is_seen() -> None:
    """A fenced function shows several marks of code."""
    assert extract_text_features("```python\ndef f(s):\n    return s[0] == 1\n```").code >= 4


def test_roles_are_told_apart() -> None:
    """Asks are the user's turns, newest first; the other roles go to their own features."""
    features = extract_features(
        Prompt(
            turns=(
                Turn("system", "You must answer in French."),
                Turn("user", "Prove it."),
                Turn("assistant", "```python\npass\n```"),
                Turn("user", "Run it."),
                Turn("assistant", "Calling."),
                Turn("tool", "ok"),
                Turn("tool", "ok"),
            ),
            tools=3,
            schema=True,
            images=1,
            reasoning=True,
        )
    )
    assert [ask.hard_asks for ask in features.asks] == [0, 1]
    assert features.system.bounds == 1
    assert (features.turn_index, features.tool_turns) == (1, 2)
    assert not features.assistant_code
    assert (features.tools, features.images) == (3, 1)
    assert features.schema
    assert features.reasoning


def test_assistant_code_is_that_of_its_last_turn() -> None:
    """A code block in the model's newest answer marks the conversation as one about code."""
    turns = (Turn("user", "x"), Turn("assistant", "```\nx\n```"), Turn("user", "now commit it"))
    assert extract_features(Prompt(turns=turns)).assistant_code


@pytest.mark.parametrize("text", ["Thanks!", " thank you ", "谢谢！", "你好", "Bye."])
def test_small_talk(text: str) -> None:
    """A turn of nothing but thanks or a greeting is small talk."""
    assert extract_features(Prompt(turns=(Turn("user", text),))).small_talk


@pytest.mark.parametrize("text", ["ok", "yes", "thanks, now commit it", "好的", "继续", ""])
def test_assent_is_not_small_talk(text: str) -> None:
    """Assent asks for the next step, so it is not small talk."""
    assert not extract_features(Prompt(turns=(Turn("user", text),))).small_talk


def test_without_a_user_turn_the_last_turn_is_the_ask() -> None:
    """A call of nothing but a system prompt is judged by that."""
    features = extract_features(Prompt(turns=(Turn("system", "Prove it."),)))
    assert features.asks[0].hard_asks == 1


def test_nothing_shows_nothing() -> None:
    """An empty prompt has empty features."""
    assert extract_features(Prompt()) == Features()


def test_head_and_tail_are_looked_at_and_the_middle_is_not() -> None:
    """Instructions stand at either end of a long text; what is pasted between does not count."""
    filler = "lorem ipsum " * 1000
    found = [
        extract_features(Prompt(turns=(Turn("user", text),))).asks[0].hard_asks
        for text in (f"Prove it. {filler}", f"{filler} prove it.", f"{filler} prove it. {filler}")
    ]
    assert found == [1, 1, 0]


@pytest.mark.parametrize("chars", [8193, 16_384, 100_000, 1_000_003])
def test_a_long_text_is_counted_by_a_bounded_sample(chars: int) -> None:
    """At least a third of the bound is read, and never every second character."""
    stride = _stride(chars)
    assert stride % 2 == 1
    assert SAMPLE_CHARS_MAX / 3 <= len(range(0, chars, stride)) <= SAMPLE_CHARS_MAX


def test_a_turn_costs_its_text_and_its_frame() -> None:
    """Nothing stands between the texts of two turns."""
    one = estimate_tokens(Prompt(turns=(Turn("user", "a" * 70),)))
    two = estimate_tokens(Prompt(turns=(Turn("user", "a" * 35), Turn("assistant", "a" * 35))))
    assert two - one == TOKENS_PER_TURN


def test_only_the_newest_user_turns_are_asks() -> None:
    """However long the conversation, the number of texts looked at is bounded."""
    turns = tuple(Turn("user", f"question {n}") for n in range(1000))
    features = extract_features(Prompt(turns=turns))
    assert len(features.asks) == RECENT_ASKS_MAX


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("lorem ipsum " * 90_000, id="words"),
        pytest.param("证明下列命题，" * 150_000, id="chinese"),
        pytest.param("1234567890" * 100_000, id="digits"),
        pytest.param("\n- " * 350_000, id="items"),
        pytest.param("$" * 1_000_000, id="dollars"),
        pytest.param("((((" * 250_000, id="brackets"),
        pytest.param("a-" * 500_000, id="hyphens"),
        pytest.param("😀" * 250_000, id="emoji"),
        pytest.param("\n \t " * 250_000, id="blank"),
    ],
)
def test_a_megabyte_costs_little(text: str) -> None:
    """No text of a megabyte, however adverse, takes longer than a generous bound."""
    prompt = Prompt(turns=(Turn("user", text),))
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        extract_features(prompt)
        estimate_tokens(prompt)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.01  # five times the goal, for a busy machine


@given(PROMPTS)
def test_any_prompt_has_features(prompt: Prompt) -> None:
    """Any unicode, lone surrogates included, is taken, and gives the same features twice."""
    assert extract_features(prompt) == extract_features(prompt)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=50).map("".join))
def test_terms_count_as_a_search_for_each_would(text: str) -> None:
    """Filing terms by key changes the cost of counting and never the count."""
    terms = ("ab", "abc", "cde", "h", "fg", "gf", "hh", "da")
    expected = min(COUNT_MAX, sum(term in text for term in terms))
    table = Terms((terms, ("a",)), lambda term: term[-1])
    assert table.count(text, set(text)) == [expected, "a" in text]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("a", 1), ("abcdefg", 2), ("中国人", 2), ("12345", 5), ("abcdefg中国人12345", 9)],
)
def test_text_tokens(text: str, tokens: int) -> None:
    """3.5 ASCII characters, 1.5 others or one digit make a token."""
    assert estimate_text_tokens(text) == tokens


@pytest.mark.parametrize("unit", ["abcdefg", "中国人", "a中1,"])
def test_sampling_agrees_with_counting(unit: str) -> None:
    """A text too long to be counted whole is estimated to within a few per cent."""
    tokens = estimate_text_tokens(unit * 840) / 840
    assert estimate_text_tokens(unit * 84_000) / 84_000 == pytest.approx(tokens, rel=0.05)


@given(TEXT, TEXT)
def test_tokens_grow_with_the_prompt(text: str, more: str) -> None:
    """A further turn never makes a prompt shorter."""
    one = Prompt(turns=(Turn("user", text),))
    two = Prompt(turns=(Turn("user", text), Turn("user", more)))
    assert 0 < estimate_tokens(one) < estimate_tokens(two)


def test_what_stands_beside_the_turns_counts() -> None:
    """Images, tools, tool calls and token ids are part of the estimate, each by its length."""
    assert estimate_tokens(Prompt(images=1)) > 1000
    assert estimate_tokens(Prompt(token_ids=20_000)) >= 20_000
    assert 20_000 < estimate_tokens(Prompt(rendered_bytes=70_000)) < 30_000
    assert estimate_tokens(Prompt(tools=2)) == estimate_tokens(Prompt())
