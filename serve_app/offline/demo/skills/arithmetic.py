"""Arithmetic within 0 and 100: one step, or three and four steps with the working shown."""

from dataclasses import dataclass
from random import Random

from serve_app.offline.demo.skills.example import (
    Check,
    Example,
    Language,
    Level,
    Message,
    Split,
    ask,
    draw_until,
)
from serve_app.offline.demo.skills.phrasing import draw_phrasing

NUMBER_MAX = 100
_FOLLOW_UP_SHARE = 0.2

_WORDS: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "+": ("plus", "+"),
        "-": ("minus", "-"),
        "*": ("times", "*", "x", "multiplied by"),
        "/": ("divided by", "/"),
    },
    "zh": {
        "+": ("加", "加上", "+"),
        "-": ("减", "减去", "-"),
        "*": ("乘以", "乘", "*", "×"),
        "/": ("除以", "/", "÷"),
    },
}
_CORES: dict[Language, tuple[str, ...]] = {
    "en": (
        "What is {e}?",
        "{e}?",
        "Calculate {e}.",
        "How much is {e}?",
        "What does {e} make?",
        "{e} =",
        "Compute {e}.",
        "What's {e}?",
    ),
    "zh": (
        "{e}等于多少？",
        "{e}是多少？",
        "计算{e}。",
        "算一下{e}。",
        "{e} =",
        "{e}等于几？",
        "{e}的结果是什么？",
        "求{e}。",
    ),
}
_FOLLOW_UPS: dict[Language, tuple[str, ...]] = {
    "en": (
        "And {w} {n}?",
        "Now {w} {n}.",
        "{w} {n}?",
        "What is that {w} {n}?",
        "Then {w} {n}?",
        "And what is the result {w} {n}?",
    ),
    "zh": ("再{w} {n} 呢？", "然后{w} {n}？", "{w} {n} 呢？", "再{w} {n}。", "结果{w} {n}是多少？"),
}


@dataclass(frozen=True)
class Step:
    """One operation whose operands and result lie within the range."""

    left: int
    operator: str
    right: int

    @property
    def result(self) -> int:
        match self.operator:
            case "+":
                return self.left + self.right
            case "-":
                return self.left - self.right
            case "*":
                return self.left * self.right
            case _:
                return self.left // self.right

    def render(self) -> str:
        return f"{self.left} {self.operator} {self.right} = {self.result}"

    @property
    def contents(self) -> tuple[str, ...]:
        """The tables are facts to be learnt; the sums beyond them have to be worked out."""
        if self.operator in "*/" or max(self.left, self.right) <= 10:
            return ()
        return (f"{self.left}{self.operator}{self.right}",)


def draw_step(rng: Random, left: int | None = None, operators: str = "++--*/") -> Step:
    """A step, from a given left operand where there is one."""
    while True:
        step = _draw_any(rng, left, rng.choice(operators))
        if step is not None:
            return step


def _draw_any(rng: Random, left: int | None, operator: str) -> Step | None:
    if operator in "+-":
        first = rng.randint(0, NUMBER_MAX) if left is None else left
        if operator == "+":
            return Step(first, "+", rng.randint(1, NUMBER_MAX - first)) if first < 100 else None
        return Step(first, "-", rng.randint(1, first)) if first > 0 else None
    if operator == "*":
        first = rng.randint(1, 10) if left is None else left
        return Step(first, "*", rng.randint(2, 10)) if first <= 10 else None
    right = rng.randint(2, 10)
    if left is None:
        return Step(right * rng.randint(1, 10), "/", right)
    return Step(left, "/", right) if left % right == 0 and 0 < left <= right * 10 else None


def draw_chain(rng: Random, steps: int) -> list[Step]:
    """Steps of which each goes on with the result of the last; products and quotients are few."""
    chain = [draw_step(rng)]
    while len(chain) < steps:
        operators = "+-*/" if rng.random() < 0.4 else "+-"
        chain.append(draw_step(rng, chain[-1].result, operators))
    return chain


def generate(rng: Random, split: Split, level: Level, language: Language) -> Example:
    if level == "hard":
        return draw_until(split, lambda: _draft_chain(rng, split, language))
    if rng.random() < _FOLLOW_UP_SHARE:
        return draw_until(split, lambda: _draft_follow_up(rng, split, language))
    return draw_until(split, lambda: _draft_step(rng, split, language))


def _draft_step(rng: Random, split: Split, language: Language) -> Example:
    phrasing = draw_phrasing(rng, split, language, _CORES[language])
    step = draw_step(rng)
    word = rng.choice(_WORDS[language][step.operator])
    expression = f"{step.left} {word} {step.right}"
    if not word.isalpha() and rng.random() < 0.3:
        expression = expression.replace(" ", "")
    return _example(
        ask(phrasing.format(e=expression)), [step], "easy", language, phrasing, step.contents
    )


def _draft_follow_up(rng: Random, split: Split, language: Language) -> Example:
    first = _draft_step(rng, "train", language)
    last = int(first.answer.rsplit("= ", 1)[1])
    phrasing = draw_phrasing(rng, split, language, _FOLLOW_UPS[language])
    step = draw_step(rng, last, "+-" if last else "+")
    word = rng.choice(_WORDS[language][step.operator])
    question = phrasing.format(w=word, n=step.right)
    messages = ask(first.messages[0].content, first.answer, question)
    # What the first question holds must not be new in training either.
    contents = (*step.contents, *(first.contents if split == "train" else ()))
    return _example(messages, [step], "easy", language, phrasing, contents)


def _draft_chain(rng: Random, split: Split, language: Language) -> Example:
    phrasing = draw_phrasing(rng, split, language, _CORES[language])
    chain = draw_chain(rng, rng.choice((3, 3, 4)))
    words = _WORDS[language] if rng.random() < 0.2 else None
    expression = render_chain(chain) if words is None else _spell_chain(rng, chain, language)
    contents = (expression, *(content for step in chain for content in step.contents))
    messages = ask(phrasing.format(e=expression))
    return _example(messages, chain, "hard", language, phrasing, contents)


def render_chain(chain: list[Step]) -> str:
    """The chain as one expression; brackets say what the usual order of operations would not."""
    text, weakest = str(chain[0].left), "*"
    for step in chain:
        if step.operator in "*/" and weakest in "+-":
            text = f"({text})"
        text, weakest = f"{text} {step.operator} {step.right}", step.operator
    return text


def _spell_chain(rng: Random, chain: list[Step], language: Language) -> str:
    """The chain in words, in which it is worked out from left to right."""
    joint = ", then " if language == "en" else "，再"
    parts = [f"{rng.choice(_WORDS[language][step.operator][:1])} {step.right}" for step in chain]
    return f"{chain[0].left} {joint.join(parts)}"


def render_working(chain: list[Step]) -> str:
    return "; ".join(step.render() for step in chain)


def _example(
    messages: tuple[Message, ...],
    steps: list[Step],
    level: Level,
    language: Language,
    phrasing: str,
    contents: tuple[str, ...],
) -> Example:
    result = steps[-1].result
    return Example(
        messages=messages,
        answer=render_working(steps),
        check=Check("numeric", result),
        skill="arithmetic",
        level=level,
        language=language,
        short_answer=f"= {result}" if len(steps) > 1 else None,
        phrasing=phrasing,
        contents=contents,
    )
