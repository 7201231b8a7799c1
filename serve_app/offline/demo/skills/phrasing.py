"""Many ways to say one thing: an opening, a core and a closing, written with more or less care."""

from random import Random

from serve_app.offline.demo.skills.example import Language, Split, split_of

_OPENINGS: dict[Language, tuple[str, ...]] = {
    "en": ("Hi! ", "Hello, ", "Tell me: ", "Quick question: ", "Please help me. ", "I wonder: "),
    "zh": ("请问，", "你好，", "请告诉我：", "我想知道：", "麻烦问一下，", "帮我看看："),
}
_CLOSINGS: dict[Language, tuple[str, ...]] = {
    "en": (" Thanks!", " Thank you.", " Please answer.", " I need to know."),
    "zh": ("谢谢！", "谢谢你。", "请回答。", "我需要知道。"),
}
_PLAIN_SHARE = 0.55


def draw_phrasing(rng: Random, split: Split, language: Language, cores: tuple[str, ...]) -> str:
    """A template of the split. In the test split the parts are known, their combination is not."""
    for _ in range(10_000):
        template = _draw(rng, language, cores)
        if split_of(template) == split:
            return template
    raise ValueError(f"no phrasing belongs to {split}")


def _draw(rng: Random, language: Language, cores: tuple[str, ...]) -> str:
    core = rng.choice(cores)
    opening = "" if rng.random() < _PLAIN_SHARE else rng.choice(_OPENINGS[language])
    closing = "" if rng.random() < _PLAIN_SHARE else rng.choice(_CLOSINGS[language])
    if closing == "" and rng.random() < 0.3:
        core = core.rstrip("?.？。")
    template = opening + core + closing
    return template.lower() if rng.random() < 0.2 else template
