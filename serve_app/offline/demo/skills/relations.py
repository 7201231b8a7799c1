"""Simple facts that are not about countries: what belongs to what, in English and Chinese."""

from dataclasses import dataclass

Pair = tuple[str, str]


@dataclass(frozen=True)
class Relation:
    """Facts of one kind, how they are asked for and how they are stated; {s} is the subject."""

    english: tuple[str, ...]
    chinese: tuple[str, ...]
    english_answer: str
    chinese_answer: str
    facts: tuple[tuple[Pair, Pair], ...]


def parse_facts(table: str) -> tuple[tuple[Pair, Pair], ...]:
    """One fact a line: subject and object in English, then in Chinese, parted by bars."""
    rows = (line.split("|") for line in table.strip().splitlines())
    return tuple(((es, zs), (eo, zo)) for es, eo, zs, zo in rows)


_ELEMENTS = """
hydrogen|H|氢|H
helium|He|氦|He
carbon|C|碳|C
nitrogen|N|氮|N
oxygen|O|氧|O
sodium|Na|钠|Na
magnesium|Mg|镁|Mg
aluminium|Al|铝|Al
silicon|Si|硅|Si
sulfur|S|硫|S
chlorine|Cl|氯|Cl
calcium|Ca|钙|Ca
iron|Fe|铁|Fe
copper|Cu|铜|Cu
zinc|Zn|锌|Zn
silver|Ag|银|Ag
tin|Sn|锡|Sn
gold|Au|金|Au
mercury|Hg|汞|Hg
lead|Pb|铅|Pb
"""
_OPPOSITES = """
hot|cold|热|冷
big|small|大|小
fast|slow|快|慢
high|low|高|低
light|dark|亮|暗
old|new|旧|新
long|short|长|短
open|closed|开|关
early|late|早|晚
rich|poor|富|穷
strong|weak|强|弱
wet|dry|湿|干
full|empty|满|空
near|far|近|远
left|right|左|右
up|down|上|下
day|night|白天|黑夜
black|white|黑|白
"""
_MONTHS = """
January|31|一月|31
March|31|三月|31
April|30|四月|30
May|31|五月|31
June|30|六月|30
July|31|七月|31
August|31|八月|31
September|30|九月|30
October|31|十月|31
November|30|十一月|30
December|31|十二月|31
"""
_LEGS = """
a dog|4|狗|4
a cat|4|猫|4
a horse|4|马|4
a bird|2|鸟|2
a chicken|2|鸡|2
an ant|6|蚂蚁|6
a bee|6|蜜蜂|6
a spider|8|蜘蛛|8
a snake|0|蛇|0
"""
_SIDES = """
a triangle|3|三角形|3
a square|4|正方形|4
a rectangle|4|长方形|4
a pentagon|5|五边形|5
a hexagon|6|六边形|6
an octagon|8|八边形|8
"""
_SUPERLATIVES = """
the largest planet|Jupiter|最大的行星|木星
the smallest planet|Mercury|最小的行星|水星
the red planet|Mars|红色的行星|火星
the largest ocean|the Pacific|最大的海洋|太平洋
the highest mountain|Everest|最高的山|珠穆朗玛峰
the largest country|Russia|面积最大的国家|俄罗斯
the largest animal|the blue whale|最大的动物|蓝鲸
the fastest land animal|the cheetah|跑得最快的动物|猎豹
the largest desert|Antarctica|最大的荒漠|南极洲
the nearest star|the sun|最近的恒星|太阳
"""
_COLOURS = """
the sky|blue|天空|蓝色
grass|green|草|绿色
snow|white|雪|白色
blood|red|血|红色
a banana|yellow|香蕉|黄色
coal|black|煤|黑色
a carrot|orange|胡萝卜|橙色
"""

RELATIONS = (
    Relation(
        ("What is the chemical symbol of {s}?", "Which symbol does {s} have?",
         "Chemical symbol of {s}?", "What is the symbol for {s}?"),
        ("{s}的化学符号是什么？", "{s}用什么化学符号表示？", "{s}的元素符号？",
         "写出{s}的化学符号。"),
        "The symbol of {s} is {o}.", "{s}的符号是 {o}。", parse_facts(_ELEMENTS),
    ),
    Relation(
        ('What is the opposite of "{s}"?', 'Opposite of "{s}"?', 'Which word is opposite to "{s}"?',
         'Give me the opposite of "{s}".'),
        ("“{s}”的反义词是什么？", "“{s}”的反义词？", "说出“{s}”的反义词。", "什么和“{s}”相反？"),
        "The opposite is {o}.", "反义词是{o}。", parse_facts(_OPPOSITES),
    ),
    Relation(
        ("How many days does {s} have?", "How many days are in {s}?", "How long is {s} in days?"),
        ("{s}有多少天？", "{s}有几天？", "{s}一共多少天？"),
        "{s} has {o} days.", "{s}有 {o} 天。", parse_facts(_MONTHS),
    ),
    Relation(
        ("How many legs does {s} have?", "Number of legs of {s}?", "On how many legs goes {s}?"),
        ("{s}有几条腿？", "{s}有多少条腿？", "一只{s}几条腿？"),
        "{s} has {o} legs.", "{s}有 {o} 条腿。", parse_facts(_LEGS),
    ),
    Relation(
        ("How many sides does {s} have?", "Number of sides of {s}?", "How many sides has {s}?"),
        ("{s}有几条边？", "{s}有多少条边？", "一个{s}几条边？"),
        "{s} has {o} sides.", "{s}有 {o} 条边。", parse_facts(_SIDES),
    ),
    Relation(
        ("What is {s}?", "Which is {s}?", "Name {s}.", "Do you know {s}?"),
        ("{s}是什么？", "{s}是哪个？", "说出{s}。", "你知道{s}吗？"),
        "It is {o}.", "是{o}。", parse_facts(_SUPERLATIVES),
    ),
    Relation(
        ("What color is {s}?", "Which color does {s} have?", "The color of {s}?"),
        ("{s}是什么颜色？", "{s}的颜色是什么？", "{s}什么颜色？"),
        "{s} is {o}.", "{s}是{o}。", parse_facts(_COLOURS),
    ),
)  # fmt: skip
