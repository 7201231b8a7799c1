"""What the demo models are taught: one generator a skill, in English and Chinese."""

from collections.abc import Callable, Mapping
from random import Random

from serve_app.offline.demo.skills import arithmetic, facts, formats, lists, problems, talk, units
from serve_app.offline.demo.skills.example import Example, Language, Level, Split

Generator = Callable[[Random, Split, Level, Language], Example]

GENERATORS: Mapping[str, Generator] = {
    "talk": talk.generate,
    "facts": facts.generate,
    "arithmetic": arithmetic.generate,
    "lists": lists.generate,
    "units": units.generate,
    "problems": problems.generate,
    "formats": formats.generate,
}
