"""Capitals and other simple facts. They have to be seen to be known; only the phrasings are new."""

import re
from random import Random

from serve_app.offline.demo.skills.countries import CONTINENTS, COUNTRIES, Country
from serve_app.offline.demo.skills.example import (
    LANGUAGES,
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
from serve_app.offline.demo.skills.relations import RELATIONS

_CAPITAL_CORES: dict[Language, tuple[str, ...]] = {
    "en": (
        "What is the capital of {c}?",
        "Which city is the capital of {c}?",
        "Capital of {c}?",
        "Name the capital of {c}.",
        "What's the capital city of {c}?",
        "Do you know the capital of {c}?",
    ),
    "zh": (
        "{c}的首都是哪里？",
        "{c}的首都是什么？",
        "{c}的首都？",
        "哪座城市是{c}的首都？",
        "说出{c}的首都。",
        "你知道{c}的首都吗？",
    ),
}
_FOLLOW_UPS: dict[Language, tuple[str, ...]] = {
    "en": ("And of {c}?", "What about {c}?", "And {c}?", "And that of {c}?"),
    "zh": ("{c}呢？", "那{c}呢？", "{c}的呢？"),
}
_CONTINENT_CORES: dict[Language, tuple[str, ...]] = {
    "en": (
        "On which continent is the country with the capital {c}?",
        "The capital of a country is {c}. On which continent is it?",
        "Which continent has the country whose capital is {c}?",
        "{c} is the capital of a country on which continent?",
    ),
    "zh": (
        "首都是{c}的国家在哪个洲？",
        "一个国家的首都是{c}，它在哪个洲？",
        "以{c}为首都的国家位于哪个洲？",
        "{c}是哪个洲的国家的首都？",
    ),
}
_FOLLOW_UP_SHARE = 0.12
_CAPITAL_SHARE = 0.6


def generate(rng: Random, split: Split, level: Level, language: Language) -> Example:
    if level == "hard":
        return draw_until(split, lambda: _draft_continent(rng, split, language))
    kind = rng.random()
    if kind < _FOLLOW_UP_SHARE:
        return draw_until(split, lambda: _draft_follow_up(rng, split, language))
    draft = _draft_capital if kind < _CAPITAL_SHARE else _draft_relation
    return draw_until(split, lambda: draft(rng, split, language))


def state_capital(country: Country, language: Language) -> str:
    if language == "en":
        return f"The capital of {country.english} is {country.capital_english}."
    return f"{country.chinese}的首都是{country.capital_chinese}。"


def _draft_capital(rng: Random, split: Split, language: Language) -> Example:
    phrasing = draw_phrasing(rng, split, language, _CAPITAL_CORES[language])
    country = rng.choice(COUNTRIES)
    messages = ask(phrasing.format(c=_name(country, language)))
    return _example(messages, country, language, phrasing)


def _draft_follow_up(rng: Random, split: Split, language: Language) -> Example:
    first = _draft_capital(rng, "train", language)
    phrasing = draw_phrasing(rng, split, language, _FOLLOW_UPS[language])
    country = rng.choice(COUNTRIES)
    question = phrasing.format(c=_name(country, language))
    messages = ask(first.messages[0].content, first.answer, question)
    return _example(messages, country, language, phrasing)


def _name(country: Country, language: Language) -> str:
    return country.english if language == "en" else country.chinese


def _capital(country: Country, language: Language) -> str:
    return country.capital_english if language == "en" else country.capital_chinese


def _example(
    messages: tuple[Message, ...], country: Country, language: Language, phrasing: str
) -> Example:
    return Example(
        messages=messages,
        answer=state_capital(country, language),
        check=Check("regex", f"{re.escape(_capital(country, language))}[.。]?$"),
        skill="facts",
        level="easy",
        language=language,
        phrasing=phrasing,
    )


def _draft_relation(rng: Random, split: Split, language: Language) -> Example:
    column = LANGUAGES.index(language)
    relation, subjects, objects = rng.choice(_FACTS)
    cores, statement = (
        (relation.english, relation.english_answer)
        if language == "en"
        else (relation.chinese, relation.chinese_answer)
    )
    phrasing = draw_phrasing(rng, split, language, cores)
    answer = statement.format(s=subjects[column], o=objects[column])
    answer = answer[0].upper() + answer[1:]
    number = objects[column].isdigit()
    return Example(
        messages=ask(phrasing.format(s=subjects[column])),
        answer=answer,
        check=(
            Check("numeric", int(objects[column]))
            if number
            else Check("regex", rf"(?<![A-Za-z]){re.escape(objects[column])}[.。]?$")
        ),
        skill="facts",
        level="easy",
        language=language,
        phrasing=phrasing,
    )


def _draft_continent(rng: Random, split: Split, language: Language) -> Example:
    phrasing = draw_phrasing(rng, split, language, _CONTINENT_CORES[language])
    country = rng.choice(COUNTRIES)
    continent = CONTINENTS[country.continent][LANGUAGES.index(language)]
    capital, name = _capital(country, language), _name(country, language)
    if language == "en":
        answer = f"{capital} is the capital of {name}. {name} is in {continent}."
    else:
        answer = f"{capital}是{name}的首都。{name}在{continent}。"
    return Example(
        messages=ask(phrasing.format(c=capital)),
        answer=answer,
        check=Check("regex", f"{continent}[.。]?$"),
        skill="facts",
        level="hard",
        language=language,
        short_answer=f"{continent}." if language == "en" else f"{continent}。",
        phrasing=phrasing,
    )


_FACTS = tuple(
    (relation, subjects, objects) for relation in RELATIONS for subjects, objects in relation.facts
)
