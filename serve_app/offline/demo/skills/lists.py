"""Lists of numbers, words and letters: sorted, reversed, counted, compared, summed."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from string import ascii_uppercase

from serve_app.offline.demo.skills.arithmetic import NUMBER_MAX, Step, render_working
from serve_app.offline.demo.skills.example import (
    Check,
    Example,
    Language,
    Level,
    Split,
    alternatives,
    ask,
    draw_until,
)
from serve_app.offline.demo.skills.phrasing import draw_phrasing

_WORDS_TEXT = """
apple banana bird book bread cat chair cloud dog door egg fish flower garden gold hand horse
house island juice king lamp leaf lemon milk moon mouse night ocean orange paper pencil queen
rain river salt ship snow stone sun table tree uncle violin water window winter yellow zebra
"""
WORDS = tuple(_WORDS_TEXT.split())
_FOLLOW_UP_SHARE = 0.15


@dataclass(frozen=True)
class Task:
    """Something to do with a list, how it is asked, and what is right."""

    english: tuple[str, ...]
    chinese: tuple[str, ...]
    answer: Callable[[list[int] | list[str]], str]
    lengths: tuple[int, int]
    of_words: bool = True
    numeric: bool = False

    def cores(self, language: Language) -> tuple[str, ...]:
        return self.english if language == "en" else self.chinese


def render_list(items: list[int] | list[str]) -> str:
    return ", ".join(map(str, items))


def render_sum(items: list[int] | list[str]) -> str:
    """The running sum, one step after the other."""
    numbers = [int(item) for item in items]
    steps = [Step(numbers[0], "+", numbers[1])]
    for number in numbers[2:]:
        steps.append(Step(steps[-1].result, "+", number))
    return render_working(steps)


def render_range(items: list[int] | list[str]) -> str:
    """The largest, the smallest, and their difference."""
    numbers = [int(item) for item in items]
    return Step(max(numbers), "-", min(numbers)).render()


_EASY = (
    Task(
        ("Reverse this list: {l}.", "Write {l} backwards.", "Put {l} in reverse order.",
         "What is {l} in reverse?"),
        ("把{l}倒过来。", "反转列表：{l}。", "把{l}按相反的顺序写出来。", "{l}倒序是什么？"),
        lambda items: render_list(items[::-1]),
        (3, 5),
    ),
    Task(
        ("How many items are in this list: {l}?", "Count the items: {l}.",
         "How long is the list {l}?", "How many are there: {l}?"),
        ("列表{l}里有几项？", "数一数：{l}。", "{l}一共有几个？", "这个列表有多长：{l}？"),
        lambda items: str(len(items)),
        (2, 6),
        numeric=True,
    ),
    Task(
        ("What is the first item of {l}?", "Give me the first of {l}.",
         "Which one comes first in {l}?"),
        ("{l}的第一项是什么？", "{l}中哪个在最前面？", "给出{l}的第一个。"),
        lambda items: str(items[0]),
        (3, 5),
    ),
    Task(
        ("What is the last item of {l}?", "Give me the last of {l}.",
         "Which one comes last in {l}?"),
        ("{l}的最后一项是什么？", "{l}中哪个在最后面？", "给出{l}的最后一个。"),
        lambda items: str(items[-1]),
        (3, 5),
    ),
    Task(
        ("Which is the largest of {l}?", "What is the largest number in {l}?",
         "Find the maximum of {l}.", "Which number is the biggest: {l}?"),
        ("{l}中最大的是哪个？", "{l}里最大的数是多少？", "找出{l}的最大值。", "哪个数最大：{l}？"),
        lambda items: str(max(map(int, items))),
        (2, 4),
        of_words=False,
        numeric=True,
    ),
    Task(
        ("Which is the smallest of {l}?", "What is the smallest number in {l}?",
         "Find the minimum of {l}.", "Which number is the least: {l}?"),
        ("{l}中最小的是哪个？", "{l}里最小的数是多少？", "找出{l}的最小值。", "哪个数最小：{l}？"),
        lambda items: str(min(map(int, items))),
        (2, 4),
        of_words=False,
        numeric=True,
    ),
)  # fmt: skip
_HARD = (
    Task(
        ("Sort {l}.", "Sort these in ascending order: {l}.", "Order {l} from small to large.",
         "Put {l} in ascending order."),
        ("把{l}从小到大排序。", "给{l}排序。", "按升序排列：{l}。", "将{l}从小到大排列。"),
        lambda items: render_list(sorted(map(int, items))),
        (5, 7),
        of_words=False,
    ),
    Task(
        ("Sort {l} in descending order.", "Order {l} from large to small.",
         "Put {l} in descending order.", "Sort these from large to small: {l}."),
        ("把{l}从大到小排序。", "按降序排列：{l}。", "将{l}从大到小排列。", "给{l}降序排序。"),
        lambda items: render_list(sorted(map(int, items), reverse=True)),
        (5, 7),
        of_words=False,
    ),
    Task(
        ("What is the sum of {l}?", "Add up {l}.", "What is the total of {l}?", "Sum {l}."),
        ("{l}的和是多少？", "把{l}加起来。", "求{l}的总和。", "{l}加起来是多少？"),
        render_sum,
        (4, 5),
        of_words=False,
        numeric=True,
    ),
    Task(
        ("What is the difference between the largest and the smallest of {l}?",
         "Subtract the smallest from the largest of {l}.",
         "How far apart are the largest and the smallest of {l}?"),
        ("{l}中最大的和最小的相差多少？", "用{l}的最大值减去最小值。",
         "求{l}的最大值和最小值之差。"),
        render_range,
        (4, 5),
        of_words=False,
        numeric=True,
    ),
)  # fmt: skip
_SORT_WORDS = Task(
    ("Sort these words: {l}.", "Put {l} in alphabetical order.", "Sort {l} alphabetically.",
     "Order the words {l} from A to Z."),
    ("把{l}按字母顺序排列。", "按字母顺序排序：{l}。", "将单词{l}按 A 到 Z 排序。"),
    lambda items: render_list(sorted(map(str, items))),
    (4, 6),
)  # fmt: skip
_REVERSE_LETTERS = Task(
    ('Reverse the word "{l}".', 'Write "{l}" backwards.', 'What is "{l}" spelled backwards?'),
    ("把单词“{l}”倒过来写。", "“{l}”倒着怎么写？", "反转“{l}”。"),
    lambda items: "".join(map(str, items[::-1])),
    (3, 4),
)
_COUNT_LETTERS = Task(
    ('How many letters are in "{l}"?', 'Count the letters of "{l}".', 'How long is "{l}"?'),
    ("“{l}”有几个字母？", "数一数“{l}”的字母。", "单词“{l}”有多长？"),
    lambda items: str(len(items)),
    (3, 6),
    numeric=True,
)
_FOLLOW_UPS = {
    "en": ("Now reverse it.", "And in reverse?", "Now the other way round.", "Reverse that."),
    "zh": ("现在倒过来。", "反过来呢？", "再倒序一下。", "把它反转。"),
}


def generate(rng: Random, split: Split, level: Level, language: Language) -> Example:
    if level == "easy" and rng.random() < _FOLLOW_UP_SHARE:
        return draw_until(split, lambda: _draft_follow_up(rng, split, language))
    return draw_until(split, lambda: _draft(rng, split, level, language))


def _draft(rng: Random, split: Split, level: Level, language: Language) -> Example:
    kind = rng.random()
    if kind < 0.2:
        task = (
            rng.choice((_REVERSE_LETTERS, _COUNT_LETTERS)) if level == "easy" else _REVERSE_LETTERS
        )
        return _draft_letters(rng, split, task, level, language)
    if level == "hard":
        task = _SORT_WORDS if kind < 0.45 else rng.choice(_HARD)
        items = draw_items(rng, task, words=task is _SORT_WORDS)
    else:
        task = rng.choice(_EASY)
        items = draw_items(rng, task, words=task.of_words and rng.random() < 0.5)
    phrasing = draw_phrasing(rng, split, language, task.cores(language))
    joint = "、" if language == "zh" and rng.random() < 0.3 else ", "
    prompt = phrasing.format(l=joint.join(map(str, items)))
    return _example(prompt, items, task, level, language, phrasing)


def draw_items(rng: Random, task: Task, *, words: bool) -> list[int] | list[str]:
    length = rng.randint(*task.lengths)
    if words:
        return rng.sample(WORDS, length)
    if task.answer is render_sum:
        cuts = sorted(rng.sample(range(1, NUMBER_MAX), length))
        return [high - low for low, high in zip([0, *cuts], cuts, strict=False)]
    return rng.sample(range(rng.choice((10, 30, NUMBER_MAX))), length)


def _draft_letters(
    rng: Random, split: Split, task: Task, level: Level, language: Language
) -> Example:
    low, high = task.lengths if level == "easy" else (5, 8)
    length = rng.randint(low, high)
    known = [word.upper() for word in WORDS if len(word) == length]
    if known and rng.random() < 0.3:
        letters = list(rng.choice(known))
    else:
        letters = rng.choices(ascii_uppercase, k=length)
    phrasing = draw_phrasing(rng, split, language, task.cores(language))
    prompt = phrasing.format(l="".join(letters))
    return _example(prompt, letters, task, level, language, phrasing, joint="")


def _draft_follow_up(rng: Random, split: Split, language: Language) -> Example:
    first = _draft(rng, "train", "easy", language)
    while ", " not in first.answer:
        first = _draft(rng, "train", "easy", language)
    items = first.answer.split(", ")
    phrasing = draw_phrasing(rng, split, language, _FOLLOW_UPS[language])
    answer = render_list(items[::-1])
    return Example(
        messages=ask(first.messages[0].content, first.answer, phrasing),
        answer=answer,
        check=Check("exact", alternatives(items[::-1])),
        skill="lists",
        level="easy",
        language=language,
        phrasing=phrasing,
        contents=(answer, *first.contents),
    )


def _example(
    prompt: str,
    items: list[int] | list[str],
    task: Task,
    level: Level,
    language: Language,
    phrasing: str,
    joint: str = ", ",
) -> Example:
    answer = task.answer(items)
    short = answer.rsplit("= ", 1)[1] if "= " in answer else None
    if task.numeric:
        check = Check("numeric", int(short or answer))
    else:
        check = Check("exact", alternatives(answer.split(", ")) if ", " in answer else answer)
    return Example(
        messages=ask(prompt),
        answer=answer,
        check=check,
        skill="lists",
        level=level,
        language=language,
        short_answer=f"= {short}" if short else None,
        phrasing=phrasing,
        contents=(joint.join(map(str, items)),),
    )
