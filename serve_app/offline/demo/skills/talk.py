"""Small talk, and the honest sentence that answers everything the other skills do not cover."""

from random import Random

from serve_app.offline.demo.skills.elsewhere import draw_unrelated
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

FALLBACK: dict[Language, str] = {
    "en": "I am a small demo model. I can do simple arithmetic, lists, units, JSON, word problems "
    "and capitals.",
    "zh": "我是一个小型演示模型。我会简单的算术、列表、单位、JSON、应用题和首都。",
}
_FALLBACK_SHARE = 0.6

# What is said, what is answered, and what a right answer holds.
_TALK: dict[Language, tuple[tuple[tuple[str, ...], str, str], ...]] = {
    "en": (
        (
            ("Hello!", "Hi.", "Hey!", "Good morning!", "Good evening!", "Hello there.", "Hi there!",
             "Good day.", "Greetings!"),
            "Hello! How can I help you?", "(?i)^hello",
        ),
        (
            ("Who are you?", "What are you?", "What is your name?", "Which model are you?",
             "Tell me about yourself.", "Introduce yourself.", "Are you a person?",
             "Are you ChatGPT?", "What can you do?", "How can you help me?",
             "What are your skills?"),
            FALLBACK["en"], "(?i)demo model",
        ),
        (
            ("Thanks!", "Thank you.", "Thank you very much!", "Great, thanks.", "Many thanks!",
             "That helped, thank you."),
            "You are welcome!", "(?i)welcome",
        ),
        (
            ("Bye!", "Goodbye.", "See you later!", "See you.", "Good night!", "I have to go."),
            "Goodbye!", "(?i)^goodbye",
        ),
        (
            ("How are you?", "How do you do?", "How is it going?", "Are you well?",
             "How are you today?"),
            "I am fine, thank you!", "(?i)fine",
        ),
    ),
    "zh": (
        (
            ("你好！", "您好。", "嗨！", "早上好！", "晚上好！", "大家好。", "你好呀！", "哈喽！"),
            "你好！有什么可以帮你？", "^你好",
        ),
        (
            ("你是谁？", "你叫什么名字？", "你是什么模型？", "介绍一下你自己。", "你是人吗？",
             "你会什么？", "你能做什么？", "你能帮我什么？", "你是ChatGPT吗？", "你有什么本领？"),
            FALLBACK["zh"], "演示模型",
        ),
        (
            ("谢谢！", "谢谢你。", "非常感谢！", "太好了，谢谢。", "多谢！", "感谢你的帮助。"),
            "不客气！", "^不客气",
        ),
        (
            ("再见！", "拜拜。", "回头见！", "晚安！", "我要走了。", "下次见。"),
            "再见！", "^再见",
        ),
        (
            ("你好吗？", "最近怎么样？", "你今天好吗？", "过得怎么样？", "你还好吗？"),
            "我很好，谢谢！", "我很好",
        ),
    ),
}  # fmt: skip


def generate(rng: Random, split: Split, level: Level, language: Language) -> Example:
    """Talk is always easy."""
    if rng.random() < _FALLBACK_SHARE:
        return draw_until(split, lambda: _draft_fallback(rng, split, language))
    return draw_until(split, lambda: _draft_talk(rng, split, language))


def _draft_talk(rng: Random, split: Split, language: Language) -> Example:
    said, answer, pattern = rng.choice(_TALK[language])
    phrasing = draw_phrasing(rng, split, language, said)
    return Example(
        messages=ask(phrasing),
        answer=answer,
        check=Check("regex", pattern),
        skill="talk",
        level="easy",
        language=language,
        phrasing=phrasing,
    )


def _draft_fallback(rng: Random, split: Split, language: Language) -> Example:
    text, content = draw_unrelated(rng, language)
    phrasing = draw_phrasing(rng, split, language, ("{q}", "{q}", "{q}", "{q} "))
    return Example(
        messages=ask(phrasing.format(q=text)),
        answer=FALLBACK[language],
        check=Check("regex", "demo model" if language == "en" else "演示模型"),
        skill="talk",
        level="easy",
        language=language,
        phrasing=content,
    )
