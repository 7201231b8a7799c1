"""Answers in a format that is asked for: a JSON object with the given keys."""

import json
from random import Random

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
from serve_app.offline.demo.skills.problems import NAMES, THINGS

Values = dict[str, str | int]

_CITIES = (
    ("Paris", "巴黎"), ("London", "伦敦"), ("Tokyo", "东京"), ("Rome", "罗马"), ("Berlin", "柏林"),
    ("Beijing", "北京"), ("Madrid", "马德里"), ("Cairo", "开罗"),
)  # fmt: skip
_CORES: dict[Language, tuple[str, ...]] = {
    "en": (
        "Write JSON with the keys {keys}: {fact}.",
        "{fact}. Give me that as JSON with {keys}.",
        "Make a JSON object with {keys} of this: {fact}.",
        "{fact}. As JSON, keys {keys}?",
    ),
    "zh": (
        "写成 JSON，键为 {keys}：{fact}。",
        "{fact}。用 JSON 表示，键是 {keys}。",
        "把这句话变成带有 {keys} 的 JSON：{fact}。",
        "{fact}。请给出 JSON，键 {keys}。",
    ),
}


def generate(rng: Random, split: Split, level: Level, language: Language) -> Example:
    draft = _draft_person if level == "easy" else _draft_purchase
    return draw_until(split, lambda: draft(rng, split, language))


def _draft_person(rng: Random, split: Split, language: Language) -> Example:
    column = LANGUAGES.index(language)
    name, age, city = rng.choice(NAMES)[column], rng.randint(5, 99), rng.choice(_CITIES)[column]
    if language == "en":
        facts = {"age": f"is {age} years old", "city": f"lives in {city}"}
    else:
        facts = {"age": f"今年 {age} 岁", "city": f"住在{city}"}
    values: Values = {"name": name, "age": age, "city": city}
    keys = rng.choice((["name", "age"], ["name", "city"], ["name", "age", "city"]))
    joint = " and " if language == "en" else "，"
    fact = (f"{name} " if language == "en" else name) + joint.join(facts[key] for key in keys[1:])
    return _example(rng, split, language, "easy", keys, values, fact)


def _draft_purchase(rng: Random, split: Split, language: Language) -> Example:
    column = LANGUAGES.index(language)
    name, thing = rng.choice(NAMES)[column], rng.choice(THINGS)[column]
    count, price = rng.randint(2, 10), rng.randint(2, 10)
    if language == "en":
        fact = f"{name} buys {count} {thing} at {price} dollars each"
    else:
        fact = f"{name}买了 {count} {thing}，每{thing[0]} {price} 美元"
    item = thing if language == "en" else thing[1:]
    values: Values = {
        "name": name,
        "item": item,
        "count": count,
        "price": price,
        "total": count * price,
    }
    keys = ["item", "count", "price", "total"]
    if rng.random() < 0.5:
        keys = ["name", "item", "count", "total"]
    # Half of them in another order, which has to be kept to.
    if rng.random() < 0.5:
        rng.shuffle(keys)
    return _example(rng, split, language, "hard", keys, values, fact)


def _example(
    rng: Random,
    split: Split,
    language: Language,
    level: Level,
    keys: list[str],
    values: Values,
    fact: str,
) -> Example:
    phrasing = draw_phrasing(rng, split, language, _CORES[language])
    chosen = {key: values[key] for key in keys}
    listed = ", ".join(keys)
    return Example(
        messages=ask(phrasing.format(keys=listed, fact=fact)),
        answer=json.dumps(chosen, ensure_ascii=False),
        check=Check("json_schema", _render_schema(chosen)),
        skill="formats",
        level=level,
        language=language,
        phrasing=phrasing,
        contents=(fact,),
    )


def _render_schema(values: Values) -> dict[str, object]:
    """Only these keys with these values are right."""
    return {
        "type": "object",
        "properties": {key: {"const": value} for key, value in values.items()},
        "required": list(values),
        "additionalProperties": False,
    }
