"""Prompts that no skill covers: combinations of what people ask for, and text of no known kind."""

from random import Random

from serve_app.offline.demo.skills.example import Language
from serve_app.offline.demo.skills.lists import WORDS

_REQUESTS: dict[Language, tuple[str, ...]] = {
    "en": (
        "Write a poem about {t}.", "Tell me a story about {t}.", "Explain {t} to me.",
        "What do you think about {t}?", "Why is {t} important?", "How does {t} work?",
        "Who invented {t}?", "Give me advice about {t}.", "Write an essay on {t}.",
        "What is the history of {t}?", "Translate {t} into French.", "Summarize {t}.",
        "Tell me a joke about {t}.", "Where can I buy {t}?", "Is {t} good for me?",
        "Write a Python program about {t}.", "What is the meaning of {t}?", "Compare {t} and {u}.",
        "How do I learn {t}?", "When was {t} discovered?", "What is the best {t}?",
        "Should I choose {t} or {u}?", "Can you draw {t}?", "What will happen to {t} tomorrow?",
        "Write a letter about {t} to my friend.", "Give me ten ideas for {t}.",
        "What is the price of {t}?", "Help me with {t}.", "Recommend a book about {t}.",
        "What is {t}?", "I like {t}.", "{t} and {u}", "Do you like {t}?", "Who is the king of {t}?",
        "Please explain in detail how {t} and {u} are related.",
        "Prove that {t} is the same as {u}.", "Debug my code for {t}.", "What happened in {y}?",
        "Who won the game in {y}?", "Tell me the news about {t}.",
    ),
    "zh": (
        "写一首关于{t}的诗。", "讲一个关于{t}的故事。", "给我解释{t}。", "你怎么看{t}？",
        "为什么{t}很重要？", "{t}是怎么工作的？", "谁发明了{t}？", "给我一些关于{t}的建议。",
        "写一篇关于{t}的文章。", "{t}的历史是什么？", "把{t}翻译成法语。", "总结一下{t}。",
        "讲一个{t}的笑话。", "哪里可以买到{t}？", "{t}对我好吗？", "写一个关于{t}的程序。",
        "{t}的意义是什么？", "比较{t}和{u}。", "怎样学习{t}？", "{t}是什么时候发现的？",
        "最好的{t}是什么？", "我应该选{t}还是{u}？", "你能画{t}吗？", "明天{t}会怎么样？",
        "{t}的价格是多少？", "帮我处理{t}。", "推荐一本关于{t}的书。", "什么是{t}？", "我喜欢{t}。",
        "你喜欢{t}吗？", "请详细说明{t}和{u}的关系。", "{y}年发生了什么？", "告诉我{t}的新闻。",
    ),
}  # fmt: skip
_TOPICS: dict[Language, tuple[str, ...]] = {
    "en": (
        "love", "music", "the weather", "quantum physics", "football", "machine learning",
        "cooking", "my job", "the economy", "history", "a car", "coffee", "politics", "health",
        "the internet", "computers", "art", "philosophy", "the universe", "evolution", "chess",
        "movies", "games", "travel", "money", "democracy", "mathematics", "sleep", "dreams",
        "the brain", "climate", "energy", "robots", "a wedding", "school", "law", "medicine",
        "fashion", "gravity", "time", "war", "peace", "friendship", "dinosaurs", "space",
        "photosynthesis", "relativity", "a recipe", "my garden", "the sea",
    ),
    "zh": (
        "爱情", "音乐", "天气", "量子物理", "足球", "机器学习", "做饭", "我的工作", "经济", "历史",
        "汽车", "咖啡", "政治", "健康", "互联网", "电脑", "艺术", "哲学", "宇宙", "进化", "象棋",
        "电影", "游戏", "旅行", "金钱", "民主", "数学", "睡眠", "梦", "大脑", "气候", "能源",
        "机器人", "婚礼", "学校", "法律", "医学", "时尚", "重力", "时间", "战争", "和平", "友谊",
        "恐龙", "太空", "春天", "大海", "花园", "父母", "老师",
    ),
}  # fmt: skip
_ADJECTIVES = (
    "big",
    "old",
    "green",
    "quiet",
    "happy",
    "strange",
    "modern",
    "cheap",
    "wild",
    "tiny",
)
# First and last code point of the scripts that the random texts are drawn from.
_SCRIPTS = (
    (0x21, 0x7E), (0x61, 0x7A), (0xC0, 0x17F), (0x391, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA),
    (0x627, 0x64A), (0x905, 0x939), (0xE01, 0xE2E), (0x3041, 0x3096), (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3), (0x1F300, 0x1F64F),
)  # fmt: skip
_SYLLABLES_TEXT = """
an ber con del er fi gar hu in jo ka lo mer non or pra qui ra sta tion un ver wi xa yo zen pre
ing ly ed ment able or thr sch
"""
_SYLLABLES = tuple(_SYLLABLES_TEXT.split())


def draw_unrelated(rng: Random, language: Language) -> tuple[str, str]:
    """A prompt, and the content that says which split it belongs to."""
    kind = rng.random()
    if kind < 0.7:
        text = rng.choice(_REQUESTS[language]).format(
            t=_draw_topic(rng, language), u=_draw_topic(rng, language), y=rng.randint(1000, 2030)
        )
    elif kind < 0.8:
        text = _draw_too_large(rng, language)
    elif language == "zh":
        text = "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(rng.randint(3, 14)))
    else:
        text = _draw_babble(rng) if kind < 0.93 else _draw_script(rng)
    text = text.replace("{", "").replace("}", "")
    return text, text


def _draw_topic(rng: Random, language: Language) -> str:
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(_TOPICS[language])
    if language == "zh":
        return "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(2))
    if kind < 0.7:
        return f"{rng.choice(_ADJECTIVES)} {rng.choice(WORDS)}s"
    return _draw_word(rng)


def _draw_too_large(rng: Random, language: Language) -> str:
    """Sums far beyond the range that was learnt are not guessed at."""
    left, right = rng.randint(1000, 99999), rng.randint(100, 99999)
    operator = rng.choice("+-*/")
    expression = f"{left} {operator} {right}"
    return f"What is {expression}?" if language == "en" else f"{expression}是多少？"


def _draw_babble(rng: Random) -> str:
    words = [
        rng.choice(WORDS) if rng.random() < 0.3 else _draw_word(rng)
        for _ in range(rng.randint(1, 12))
    ]
    return " ".join(words) + rng.choice(("", ".", "?", "!"))


def _draw_word(rng: Random) -> str:
    word = "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(1, 3)))
    return word.capitalize() if rng.random() < 0.2 else word


def _draw_script(rng: Random) -> str:
    low, high = rng.choice(_SCRIPTS)
    characters = [
        " " if rng.random() < 0.12 else chr(rng.randint(low, high))
        for _ in range(rng.randint(3, 16))
    ]
    return "".join(characters).strip() or "?"
