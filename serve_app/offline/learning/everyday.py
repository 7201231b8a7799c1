"""What everyday prompts are made of: chit-chat, short facts, rewriting, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TEMPLATES: Mapping[str, Sequence[str]] = {
    "en": (
        "{hello}", "{hello} {smalltalk}", "{smalltalk}",
        "{hello} Can you help me with something?", "{thanks}", "{thanks} That was {quality}.",
        "What is {thing}?", "What does {word} mean?", "What's {thing}, in one sentence?",
        "Explain {thing} to a child.", "Who invented {object}?", "Where is {place}?",
        "What language do they speak in {place}?", "How far is {place} from here?",
        "What should I pack for a trip to {place}?", "Is {food} healthy?",
        "How do I cook {food}?", "Give me a simple recipe with {food}.",
        "What goes well with {food}?", "Tell me a fun fact about {animal}.",
        "Tell me a story about {animal} and {animal2}.", "Write a short poem about {animal}.",
        "Write a two line {greeting} for my {person}.", "Suggest a gift for my {person}.",
        "What is a good name for {animal}?", "Give me five synonyms for {word}.",
        "Use {word} in a sentence.", "How do you spell {word}?",
        "What is the opposite of {word}?", "Translate {quote} into {language}.",
        "How do you say {quote} in {language}?", "Rewrite this to sound {tone}: {sentence}",
        "Make this shorter: {sentence} {sentence2}", "Fix the spelling: {sentence}",
        "Summarize: {sentence} {sentence2} {sentence3}",
        "Turn this into a polite email: {sentence}",
        "Is this review positive or negative? {sentence}",
        "Put this into the past tense: {sentence}",
        "Write a short message to my {person}: {sentence}",
        "Suggest three titles for a text about {thing}.", "List three {category}.",
        "Name a {category1} that starts with {letter}.", "What day comes after {day}?",
        "What is {small} plus {small2}?", "How many {unit} are in a {unit2}?",
        "I feel {feeling} today.", "What can I do when I am {feeling}?",
        "Recommend a film for {day} evening.",
        "What is the difference between {food} and {food2}?",
        "How do I print a line in {programming}?", "What is {programming} used for?",
        "How do I open a file in {programming}?",
    ),
    "zh": (
        "{hello}", "{hello}{smalltalk}", "{smalltalk}", "{thanks}", "{thanks}你真{quality}。",
        "{thing}是什么？", "用一句话解释{thing}。", "给小朋友讲讲什么是{thing}。",
        "{object}是谁发明的？", "{place}在哪里？", "{place}有什么好吃的？",
        "去{place}旅游要带什么？", "{food}健康吗？", "{food}怎么做？", "{food}配什么好吃？",
        "讲一个关于{animal}的小知识。", "讲一个{animal}和{animal2}的故事。",
        "写一首关于{animal}的小诗。", "给我的{person}写一句{greeting}。",
        "送{person}什么礼物好？", "给{animal}起个名字。", "“{word}”的近义词有哪些？",
        "用“{word}”造句。", "“{word}”怎么读？", "“{word}”的反义词是什么？",
        "把{quote}翻译成{language}。", "{quote}用{language}怎么说？",
        "把这句话改得{tone}一点：{sentence}", "把这段话缩短：{sentence}{sentence2}",
        "改一下错别字：{sentence}", "概括一下：{sentence}{sentence2}{sentence3}",
        "把这句话写成一封礼貌的邮件：{sentence}", "这条评论是好评还是差评？{sentence}",
        "帮我给{person}发条短信：{sentence}", "给关于{thing}的文章起三个标题。",
        "列出三种{category}。", "{day}的后一天是星期几？", "{small}加{small2}等于几？",
        "一{unit2}有多少{unit}？", "我今天有点{feeling}。", "{feeling}的时候怎么办？",
        "推荐一部适合{day}晚上看的电影。", "{food}和{food2}有什么区别？",
        "{programming}怎么打印一行字？", "{programming}是做什么用的？",
    ),
}  # fmt: skip

WORDS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "en": {
        "hello": (
            "Hi there.", "Hello!", "Hey!", "Good afternoon.", "Hi, it's me again.", "Morning!",
        ),
        "smalltalk": (
            "How is it going?", "What's up?", "Did you sleep well?", "Nice to meet you.",
            "Do you like music?", "Are you busy?", "It is raining here.", "I'm back from work.",
        ),
        "thanks": (
            "Thanks so much!", "Many thanks.", "Cheers!", "Thank you, that helps.",
            "Great, thank you.",
        ),
        "quality": ("quick", "lovely", "exactly what I needed", "kind", "useful"),
        "thing": (
            "a rainbow", "inflation", "a black hole", "photosynthesis", "a vaccine", "jazz",
            "democracy", "a volcano", "the stock market", "yoga", "an API", "machine learning",
            "a podcast", "Ramadan",
        ),
        "word": (
            "'grateful'", "'brave'", "'tired'", "'quick'", "'ambiguous'", "'necessary'", "'calm'",
            "'schedule'",
        ),
        "object": (
            "the bicycle", "the telephone", "paper", "the zip", "the umbrella", "the light bulb",
        ),
        "place": (
            "Iceland", "Kyoto", "Brazil", "the Alps", "Morocco", "Vancouver", "Vienna",
            "New Zealand",
        ),
        "food": (
            "rice", "spinach", "lentil soup", "pancakes", "tofu", "banana bread", "salmon",
            "oat milk",
        ),
        "food2": ("quinoa", "yoghurt", "soy milk", "waffles", "couscous"),
        "animal": (
            "a penguin", "an owl", "a turtle", "a puppy", "a fox", "an octopus", "a hamster",
        ),
        "animal2": ("a bear", "a bee", "a whale", "a mouse"),
        "greeting": (
            "birthday wish", "get-well note", "thank-you note", "farewell", "wedding wish",
        ),
        "person": (
            "teacher", "brother", "boss", "neighbour", "grandmother", "best friend", "colleague",
        ),
        "quote": (
            "'good night'", "'I am on my way'", "'where is the station'", "'see you tomorrow'",
            "'I like tea'",
        ),
        "language": ("French", "German", "Chinese", "Italian", "Japanese", "Portuguese"),
        "tone": ("friendlier", "more formal", "more polite", "more confident", "simpler"),
        "sentence": (
            "I cannot come on Monday.", "The room was clean but the breakfast was cold.",
            "Please send me the file.", "We moved the party to Saturday.",
            "The bus was late again.", "She lost her keys in the park.",
        ),
        "sentence2": (
            "It rained all day and we stayed at home.", "Everybody had a good time.",
            "The shop opens at nine.", "My phone is broken.",
        ),
        "sentence3": (
            "In the evening we watched a film.", "Nobody was hurt.", "They will call us back.",
        ),
        "category": (
            "fruits", "card games", "breakfast ideas", "house plants", "indoor hobbies",
            "spring flowers",
        ),
        "category1": ("country", "colour", "vegetable", "city", "animal"),
        "letter": ("B", "M", "S", "T", "P"),
        "day": ("Monday", "Friday", "Sunday", "Wednesday"),
        "small": ("two", "7", "12", "30"),
        "small2": ("five", "9", "15", "4"),
        "unit": ("minutes", "centimetres", "grams"),
        "unit2": ("day", "metre", "kilogram"),
        "feeling": ("tired", "happy", "bored", "nervous", "lonely", "stressed"),
        "programming": ("Python", "JavaScript", "Java", "Go"),
    },
    "zh": {
        "hello": ("你好呀！", "嗨！", "下午好！", "大家好，", "哈喽，", "在吗？"),
        "smalltalk": (
            "最近怎么样？", "你在干嘛？", "今天下雨了。", "我刚下班。", "你喜欢音乐吗？",
            "很高兴认识你。",
        ),
        "thanks": ("太谢谢了！", "非常感谢。", "辛苦了！", "好的，谢谢你。", "明白了，多谢。"),
        "quality": ("好", "贴心", "厉害", "聪明", "快"),
        "thing": (
            "彩虹", "通货膨胀", "黑洞", "光合作用", "疫苗", "爵士乐", "火山", "股市", "瑜伽",
            "播客", "人工智能",
        ),
        "word": ("感激", "勇敢", "疲惫", "迅速", "模糊", "平静", "必要"),
        "object": ("自行车", "电话", "造纸术", "雨伞", "电灯"),
        "place": ("冰岛", "京都", "巴西", "云南", "摩洛哥", "维也纳", "新西兰", "西安"),
        "food": ("米饭", "菠菜", "番茄炒蛋", "煎饼", "豆腐", "香蕉面包", "三文鱼", "燕麦奶"),
        "food2": ("酸奶", "豆浆", "面条", "小米粥"),
        "animal": ("企鹅", "猫头鹰", "乌龟", "小狗", "狐狸", "章鱼", "仓鼠"),
        "animal2": ("熊", "蜜蜂", "鲸鱼", "老鼠"),
        "greeting": ("生日祝福", "早日康复的话", "感谢的话", "告别的话", "新婚祝福"),
        "person": ("老师", "弟弟", "老板", "邻居", "奶奶", "好朋友", "同事"),
        "quote": ("“晚安”", "“我在路上”", "“车站在哪儿”", "“明天见”", "“我喜欢喝茶”"),
        "language": ("英语", "法语", "德语", "日语", "西班牙语"),
        "tone": ("友好", "正式", "礼貌", "自信", "简单"),
        "sentence": (
            "我星期一来不了。", "房间很干净，但是早餐凉了。", "把文件发给我。",
            "聚会改到星期六了。", "公交车又晚点了。",
        ),
        "sentence2": (
            "下了一整天雨，我们待在家里。", "大家都很开心。", "商店九点开门。", "我的手机坏了。",
        ),
        "sentence3": ("晚上我们看了电影。", "没有人受伤。", "他们会回电话的。"),
        "category": ("水果", "早餐", "室内植物", "爱好", "春天的花", "桌游"),
        "day": ("星期一", "星期五", "星期天", "星期三"),
        "small": ("二", "7", "12", "30"),
        "small2": ("五", "9", "15", "4"),
        "unit": ("分钟", "厘米", "克"),
        "unit2": ("天", "米", "公斤"),
        "feeling": ("累", "开心", "无聊", "紧张", "孤单", "压力大"),
        "programming": ("Python", "JavaScript", "Java", "Go 语言"),
    },
}  # fmt: skip
