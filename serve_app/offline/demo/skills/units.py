"""Units: one conversion, or a sum of two units with the working shown."""

from dataclasses import dataclass
from random import Random

from serve_app.offline.demo.skills.example import (
    Check,
    Example,
    Language,
    Level,
    Split,
    ask,
    draw_until,
)
from serve_app.offline.demo.skills.phrasing import draw_phrasing


@dataclass(frozen=True)
class Unit:
    english: str
    chinese: str
    symbol: str = ""

    def names(self, language: Language) -> tuple[str, ...]:
        name = self.english if language == "en" else self.chinese
        return (name, self.symbol) if self.symbol else (name,)


@dataclass(frozen=True)
class Conversion:
    """So many of the small unit make one of the large."""

    large: Unit
    small: Unit
    factor: int

    @property
    def is_decimal(self) -> bool:
        """Any number can be asked then; the other factors have tables to be learnt."""
        return self.factor % 10 == 0 and str(self.factor).strip("0") == "1"


_METRE, _CENTIMETRE = Unit("meters", "米", "m"), Unit("centimeters", "厘米", "cm")
_KILOMETRE, _MILLIMETRE = Unit("kilometers", "公里", "km"), Unit("millimeters", "毫米", "mm")
_KILOGRAM, _GRAM = Unit("kilograms", "千克", "kg"), Unit("grams", "克", "g")
_TON, _LITRE = Unit("tons", "吨", "t"), Unit("liters", "升", "l")
_MILLILITRE = Unit("milliliters", "毫升", "ml")
_SECOND, _MINUTE = Unit("seconds", "秒"), Unit("minutes", "分钟")
_HOUR, _DAY, _WEEK = Unit("hours", "小时"), Unit("days", "天"), Unit("weeks", "周")
_DOLLAR, _CENT = Unit("dollars", "美元"), Unit("cents", "美分")
_DOZEN, _PIECE = Unit("dozen", "打"), Unit("pieces", "个")

CONVERSIONS = (
    Conversion(_METRE, _CENTIMETRE, 100),
    Conversion(_KILOMETRE, _METRE, 1000),
    Conversion(_CENTIMETRE, _MILLIMETRE, 10),
    Conversion(_KILOGRAM, _GRAM, 1000),
    Conversion(_TON, _KILOGRAM, 1000),
    Conversion(_LITRE, _MILLILITRE, 1000),
    Conversion(_DOLLAR, _CENT, 100),
    Conversion(_MINUTE, _SECOND, 60),
    Conversion(_HOUR, _MINUTE, 60),
    Conversion(_DAY, _HOUR, 24),
    Conversion(_WEEK, _DAY, 7),
    Conversion(_DOZEN, _PIECE, 12),
)
_CORES: dict[Language, tuple[str, ...]] = {
    "en": (
        "How many {to} are {amount}?",
        "Convert {amount} to {to}.",
        "What is {amount} in {to}?",
        "{amount} in {to}?",
        "Change {amount} into {to}.",
        "{amount} = ? {to}",
    ),
    "zh": (
        "{amount}等于多少{to}？",
        "把{amount}换算成{to}。",
        "{amount}是多少{to}？",
        "{amount}换成{to}是多少？",
        "{amount} = ? {to}",
        "{amount}有多少{to}？",
    ),
}
_TABLE_MAX = 10


def generate(rng: Random, split: Split, level: Level, language: Language) -> Example:
    draft = _draft_one if level == "easy" else _draft_two
    return draw_until(split, lambda: draft(rng, split, language))


def _draft_one(rng: Random, split: Split, language: Language) -> Example:
    conversion = rng.choice(CONVERSIONS)
    count = rng.randint(1, 99 if conversion.is_decimal else _TABLE_MAX)
    large, small = rng.choice(conversion.large.names(language)), conversion.small
    to = rng.choice(small.names(language))
    result = count * conversion.factor
    target, amount = result, f"{count} {large}"
    if rng.random() < 0.3:  # the other way round
        target, to, amount = count, large, f"{result} {to}"
    phrasing = draw_phrasing(rng, split, language, _CORES[language])
    content = (f"{count} {conversion.large.english}",) if conversion.is_decimal else ()
    return Example(
        messages=ask(phrasing.format(amount=amount, to=to)),
        answer=f"{amount} = {target} {to}",
        check=Check("numeric", target),
        skill="units",
        level="easy",
        language=language,
        phrasing=phrasing,
        contents=content,
    )


def _draft_two(rng: Random, split: Split, language: Language) -> Example:
    conversion = rng.choice(CONVERSIONS)
    count = rng.randint(1, _TABLE_MAX)
    rest = rng.randint(1, min(conversion.factor, 100) - 1)
    large = rng.choice(conversion.large.names(language))
    to = rng.choice(conversion.small.names(language))
    whole = count * conversion.factor
    joint = rng.choice((" and ", " ")) if language == "en" else rng.choice(("零", " ", "又"))
    phrasing = draw_phrasing(rng, split, language, _CORES[language])
    amount = f"{count} {large}{joint}{rest} {to}"
    return Example(
        messages=ask(phrasing.format(amount=amount, to=to)),
        answer=f"{count} * {conversion.factor} = {whole}; {whole} + {rest} = {whole + rest}",
        check=Check("numeric", whole + rest),
        skill="units",
        level="hard",
        language=language,
        short_answer=f"= {whole + rest}",
        phrasing=phrasing,
        contents=(f"{count} {conversion.large.english} {rest}",),
    )
