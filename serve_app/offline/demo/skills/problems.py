"""Word problems: one step, or two and three steps with the working shown."""

from dataclasses import dataclass
from random import Random

from serve_app.offline.demo.skills.arithmetic import Step, draw_step, render_working
from serve_app.offline.demo.skills.example import (
    LANGUAGES,
    Check,
    Example,
    Language,
    Level,
    Split,
    ask,
    draw_until,
)
from serve_app.offline.demo.skills.phrasing import draw_phrasing

NAMES = (
    ("Tom", "小明"), ("Anna", "小红"), ("Ben", "小刚"), ("Lily", "小丽"), ("Sam", "小华"),
    ("Mia", "小芳"), ("Jack", "小强"), ("Emma", "小美"), ("Leo", "小军"), ("Ella", "小云"),
)  # fmt: skip
# The Chinese measure word goes with the thing.
THINGS = (
    ("apples", "个苹果"), ("books", "本书"), ("pens", "支笔"), ("eggs", "个鸡蛋"),
    ("cards", "张卡片"), ("stones", "块石头"), ("flowers", "朵花"), ("cups", "个杯子"),
    ("coins", "枚硬币"), ("balls", "个球"),
)  # fmt: skip


@dataclass(frozen=True)
class Story:
    """A problem told in both languages; the operators say what happens to the first number."""

    operators: str
    english: tuple[str, ...]
    chinese: tuple[str, ...]


_EASY = (
    Story(
        "+",
        ("{n} has {a} {t} and buys {b} more. How many {t} does {n} have now?",
         "{n} has {a} {t} and finds {b} more. How many in all?"),
        ("{n}有 {a} {t}，又买了 {b} {t}。现在有多少？",
         "{n}有 {a} {t}，又找到 {b} {t}。一共有多少？"),
    ),
    Story(
        "-",
        ("{n} has {a} {t} and gives away {b}. How many {t} are left?",
         "{n} has {a} {t} and loses {b}. How many are left?"),
        ("{n}有 {a} {t}，送出 {b} {t}。还剩多少？", "{n}有 {a} {t}，丢了 {b} {t}。还剩多少？"),
    ),
    Story(
        "*",
        ("{n} has {a} boxes with {b} {t} each. How many {t} are there?",
         "There are {b} {t} in each of {a} boxes. How many {t} in all?"),
        ("{n}有 {a} 个盒子，每个盒子里有 {b} {t}。一共有多少？",
         "每个盒子里有 {b} {t}，有 {a} 个盒子。一共有多少？"),
    ),
    Story(
        "/",
        ("{n} shares {a} {t} among {b} friends. How many does each get?",
         "{n} puts {a} {t} into {b} equal bags. How many are in each?"),
        ("{n}把 {a} {t}平均分给 {b} 个朋友。每人得到多少？",
         "{n}把 {a} {t}平均装进 {b} 个袋子。每袋有多少？"),
    ),
)  # fmt: skip
_HARD = (
    Story(
        "*+",
        ("{n} buys {a} boxes with {b} {t} each and finds {c} more. How many {t} in all?",),
        ("{n}买了 {a} 盒，每盒有 {b} {t}，又找到 {c} {t}。一共有多少？",),
    ),
    Story(
        "*-",
        ("{n} has {a} boxes with {b} {t} each and gives away {c}. How many {t} are left?",),
        ("{n}有 {a} 盒，每盒有 {b} {t}，送出 {c} {t}。还剩多少？",),
    ),
    Story(
        "+-",
        ("{n} has {a} {t}, buys {b} more and then gives away {c}. How many {t} are left?",),
        ("{n}有 {a} {t}，又买了 {b} {t}，然后送出 {c} {t}。还剩多少？",),
    ),
    Story(
        "+/",
        ("{n} has {a} {t}, finds {b} more and shares all among {c} friends. "
         "How many does each get?",),
        ("{n}有 {a} {t}，又找到 {b} {t}，全部平均分给 {c} 个朋友。每人得到多少？",),
    ),
    Story(
        "-+-",
        ("{n} has {a} {t}, loses {b}, finds {c} and gives away {d}. How many {t} are left?",),
        ("{n}有 {a} {t}，丢了 {b} {t}，找到 {c} {t}，又送出 {d} {t}。还剩多少？",),
    ),
    Story(
        "*+-",
        ("{n} has {a} boxes with {b} {t} each, buys {c} more and loses {d}. "
         "How many {t} are left?",),
        ("{n}有 {a} 盒，每盒有 {b} {t}，又买了 {c} {t}，然后丢了 {d} {t}。还剩多少？",),
    ),
)  # fmt: skip


def generate(rng: Random, split: Split, level: Level, language: Language) -> Example:
    stories = _EASY if level == "easy" else _HARD
    return draw_until(split, lambda: _draft(rng, split, rng.choice(stories), level, language))


def _draft(rng: Random, split: Split, story: Story, level: Level, language: Language) -> Example:
    steps = _draw_steps(rng, story.operators)
    cores = story.english if language == "en" else story.chinese
    phrasing = draw_phrasing(rng, split, language, cores)
    column = LANGUAGES.index(language)
    name, thing = rng.choice(NAMES)[column], rng.choice(THINGS)[column]
    numbers = dict(zip("bcd", (step.right for step in steps), strict=False))
    prompt = phrasing.format(n=name, t=thing, a=steps[0].left, **numbers)
    # A story with these numbers is new, whoever owns whatever.
    story_content = f"{story.operators} {steps[0].left} {numbers}"
    return Example(
        messages=ask(prompt),
        answer=render_working(steps),
        check=Check("numeric", steps[-1].result),
        skill="problems",
        level=level,
        language=language,
        short_answer=f"= {steps[-1].result}" if level == "hard" else None,
        phrasing=phrasing,
        contents=(story_content, *(content for step in steps for content in step.contents)),
    )


def _draw_steps(rng: Random, operators: str) -> list[Step]:
    """Numbers that fit the operators, each at least one; drawn again where the way is blocked."""
    while True:
        steps = [draw_step(rng, None, operators[0])]
        for operator in operators[1:]:
            left = steps[-1].result
            if operator in "+-" and not 1 <= left <= 99:
                break
            if operator == "/" and not any(left % d == 0 and left <= 10 * d for d in range(2, 11)):
                break
            steps.append(draw_step(rng, left, operator))
        else:
            if steps[0].left > 0:
                return steps
